"""Objects of the Prometheus operator, KEDA and Argo Rollouts against types and schemas made of their CRDs.

The npm packages ``@kubernetes-models/*`` hold both. The schemas refuse a wrong type and a missing field and
take an unknown one; the types, under TypeScript's compiler, refuse that too: a literal may name only known
fields.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.clients import find_node_programs
from tests.support.helm import Document

CLIENT = "kubernetes-models"
PACKAGES = {
    "argoproj.io": "argo-rollouts",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
}
OPTIONS = {
    "strict": True,
    "noEmit": True,
    "module": "nodenext",
    "moduleResolution": "nodenext",
    "target": "es2022",
    "skipLibCheck": True,
    "types": [],
}


def locate(document: Document) -> str:
    """The module of an object's kind."""
    group, version = document["apiVersion"].split("/")
    return f"@kubernetes-models/{PACKAGES[group]}/{group}/{version}/{document['kind']}"


def write_check(documents: Sequence[Document], folder: Path) -> Path:
    """Make ``folder`` a project that knows the packages; the folder of their programs."""
    programs = find_node_programs(CLIENT)
    (folder / "node_modules").symlink_to(programs.parent)
    types, schemas = [], ["const wrong = [];"]
    for number, document in enumerate(documents):
        kind, module, text = document["kind"], locate(document), json.dumps(document, indent=1)
        types.append(
            f'import type {{ I{kind} as I{number} }} from "{module}";\n'
            f"export const object{number}: I{number} = {text};"
        )
        schemas.append(
            f'import {{ {kind} as K{number} }} from "{module}";\n'
            f"try {{ new K{number}({text}).validate(); }}"
            f" catch (error) {{ wrong.push(`{kind} {number}: ${{error.message}}`); }}"
        )
    schemas.append("console.log(JSON.stringify(wrong));")
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": OPTIONS, "files": ["types.ts"]}), "utf-8"
    )
    (folder / "types.ts").write_text("\n".join(types), "utf-8")
    (folder / "schemas.mjs").write_text("\n".join(schemas), "utf-8")
    return programs


def find_faults(documents: Sequence[Document], folder: Path) -> tuple[list[str], list[str]]:
    """What the schemas and what the types find wrong with the objects, a line each; ``folder`` is empty."""
    programs = write_check(documents, folder)
    ran = run(["node", "schemas.mjs"], folder)
    assert ran.returncode == 0, ran.stderr
    compiled = run([str(programs / "tsc"), "--pretty", "false"], folder)
    by_types = [line for line in compiled.stdout.splitlines() if ": error " in line]
    assert compiled.returncode == 0 or by_types, compiled.stdout + compiled.stderr
    return list(json.loads(ran.stdout)), by_types


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A program of Node's in ``folder``."""
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300.0, check=False)
