"""`make sbom`: what is in each image, and under which licences, in ``var/images``.

- ``<image>.cdx.json``: CycloneDX, of the image's own files: Python packages with their place, and Debian's.
- ``<image>.licences.txt``: name, version, kind and licences of each package, one a line.

Syft reads an image as its engine saves it; nothing is asked of the outside.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.clients import find_client_python
from tests.support.containers import IMAGES
from tests.support.engine import ROOT

PLACE = "syft:location:0:path"
FOLDER = ROOT / "var" / "images"


def write_sbom(
    image: str, folder: Path, engine: str = "docker", environment: Mapping[str, str] = os.environ
) -> Path:
    """Write both files of ``image``, and return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / f"{image}.cdx.json"
    syft = str(find_client_python("syft").with_name("syft"))
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "image.tar")
        subprocess.run([engine, "save", "-o", str(archive), image], env=environment, check=True)
        command = [syft, "scan", f"docker-archive:{archive}", "-q", "-o", f"cyclonedx-json={document}"]
        command += ["--source-name", image]
        settings = {**environment, "SYFT_CHECK_FOR_APP_UPDATE": "false", "TMPDIR": scratch}
        subprocess.run(command, env=settings, check=True)
    state_classified(document, image, engine, environment)
    lines = [describe(package) for package in list_packages(json.loads(document.read_text("utf-8")))]
    (folder / f"{image}.licences.txt").write_text("".join(sorted(set(lines))), "utf-8")
    return document


def state_classified(document: Path, image: str, engine: str, environment: Mapping[str, str]) -> None:
    """Complete packages that tell their licence by a classifier alone, which Syft does not read."""
    content = json.loads(document.read_text("utf-8"))
    for package in list_packages(content):
        places = [entry["value"] for entry in package.get("properties", []) if entry["name"] == PLACE]
        if places and places[0].endswith("/METADATA") and not package.get("licenses"):
            command = [engine, "run", "--rm", "--network", "none", "--entrypoint", "cat", image, places[0]]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            found = re.findall(
                r"^Classifier: License ::(?: OSI Approved ::)? (.*)$", done.stdout, re.MULTILINE
            )
            package["licenses"] = [{"license": {"name": name}} for name in found]
    document.write_text(json.dumps(content, indent=1), "utf-8")


def list_packages(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The packages of a CycloneDX document: components that a package manager installed."""
    return [component for component in document["components"] if "purl" in component]


def describe(package: Mapping[str, Any]) -> str:
    """A line of the list of licences."""
    kind = package["purl"].removeprefix("pkg:").partition("/")[0]
    licences = ", ".join(list_licences(package)) or "not stated"
    return f"{package['name']} {package['version']} ({kind}): {licences}\n"


def list_licences(package: Mapping[str, Any]) -> list[str]:
    """Identifiers, names or expressions."""
    found = []
    for entry in package.get("licenses", []):
        said = entry.get("expression") or entry["license"].get("id") or entry["license"]["name"]
        # Some packages put the whole text where the name belongs.
        found.append(said.strip().splitlines()[0])
    return found


if __name__ == "__main__":
    for name in IMAGES:
        print(write_sbom(name, FOLDER, engine=sys.argv[1]).relative_to(ROOT))
