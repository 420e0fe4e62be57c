"""compose.yaml on a machine without networks for containers: the same services, each on the host's network.

    make_stand_ins(engine, folder)
    file = write_rehearsal(folder, ports={"8000": "34567"}, mounts=["/table:/table:ro"], variables={…})

What differs from the file that users have: no networks, free ports, and what ``mounts`` and ``variables`` add
to the stages. The images of Prometheus, Alertmanager and SeaweedFS cannot be pulled where tests run: theirs
are made of Debian's programs, and of PyPI's for SeaweedFS, under the same names.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.engine import BASE, ROOT, Engine

FILE = ROOT / "compose.yaml"
# By service: where the program comes from, where it is in the image, and the folder of its user, nobody.
PROGRAMS = {
    "prometheus": ("/usr/bin/prometheus", "/bin/prometheus", "/prometheus"),
    "alertmanager": ("/usr/bin/prometheus-alertmanager", "/bin/alertmanager", "/alertmanager"),
}

# What Debian's Alertmanager reads beside its program.
TEMPLATES = Path("/usr/share/prometheus/alertmanager")


def read_compose(path: Path = FILE) -> dict[str, Any]:
    """The file, its anchors resolved and its variables as they stand."""
    return dict(yaml.safe_load(path.read_text("utf-8")))


def find_image(service: str) -> str:
    """The image that a service has by default."""
    return re.sub(r"\$\{\w+:-(.*)\}", r"\1", read_compose()["services"][service]["image"])


def make_stand_ins(engine: Engine, folder: Path) -> None:
    """Build what stands for the images that are pulled elsewhere."""
    for service, (program, place, home) in PROGRAMS.items():
        made = f"COPY templates {TEMPLATES}\n" if service == "alertmanager" else ""
        made += f'RUN install -d -o 65534 -g 65534 {home}\nUSER 65534\nENTRYPOINT ["{place}"]\n'
        make_stand_in(engine, folder / service, find_image(service), Path(program), place, made)
    weed = Path(sys.executable).with_name("weed")
    make_stand_in(engine, folder / "s3", find_image("s3"), weed, "/usr/bin/weed", "")


def make_stand_in(engine: Engine, folder: Path, tag: str, program: Path, place: str, made: str) -> None:
    """One program on the base image."""
    folder.mkdir()
    shutil.copy(program, folder / "program")
    if TEMPLATES.is_dir():
        shutil.copytree(TEMPLATES, folder / "templates", ignore=shutil.ignore_patterns("ui"))
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY program {place}\n{made}", "utf-8")
    engine.build("Dockerfile", tag, context=folder, secrets={})


def write_rehearsal(
    folder: Path,
    find_port: Callable[[str], str],
    mounts: Sequence[str],
    variables: Mapping[str, str],
) -> Path:
    """The file for the host's network; `find_port` gives the port that stands for one of the file."""
    services = read_compose()["services"]
    for service in services.values():
        for key in ("networks", "ports"):
            service.pop(key, None)
        service["network_mode"] = "host"
        service["extra_hosts"] = [f"{name}:127.0.0.1" for name in services]
        if "release" in service.get("profiles", []):
            service["volumes"] = list(mounts)
            service["environment"] |= variables
    services["serve"]["environment"] |= {"HOST": "127.0.0.1", "PORT": "8000"}
    # All that SeaweedFS would listen on besides, at ports of its own choice.
    others = (
        "volume.port",
        "filer.port",
        "master.port.grpc",
        "volume.port.grpc",
        "filer.port.grpc",
        "s3.port.grpc",
    )
    ports = {name: find_port(name) for name in others}
    fixed = ("-master.port=9333", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.electionTimeout=1s")
    services["s3"]["command"] = [
        f"s3:9333.{ports['master.port.grpc']}",
        *fixed,
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    settings = {
        "prometheus.yml": ROOT / "deploy" / "compose" / "prometheus.yml",
        "alerts.yml": ROOT / "deploy" / "prometheus" / "alerts.yml",
        "alertmanager.yml": ROOT / "deploy" / "compose" / "alertmanager.yml",
    }

    def move(text: str) -> str:
        return re.sub(r"\b(8333|8000|8001|9090|9093|9333)\b", lambda found: find_port(found[1]), text)

    for name, path in settings.items():
        text = (
            move(path.read_text("utf-8"))
            .replace("for: 1m", "for: 1s")
            .replace("_interval: 15s", "_interval: 1s")
        )
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o644)
    text = move(yaml.safe_dump({"services": services, "volumes": read_compose()["volumes"]}))
    for name, path in settings.items():
        text = text.replace(f"./{path.relative_to(ROOT)}", f"{folder / name}")
    (folder / "compose.yaml").write_text(text, "utf-8")
    return folder / "compose.yaml"
