"""Run the service as SageMaker does, with a registry at /opt/ml/model and no variable; print what it did.

Called as ``unshare -rmn python tests/support/sagemaker_service.py REGISTRY SCRATCH``: in mounts and a network
of its own, both gone with the process. So /opt/ml/model is there for nobody else, and port 8080 is free.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.isolated_service import bring_loopback_up
from tests.support.service import RunningService, running_service
from timberline.inference.config import SAGEMAKER_FOLDER

OPT = Path("/opt")
# With an empty variable as with none, whatever the machine that runs the tests has set.
NOTHING = dict.fromkeys(
    [
        *(name for name in os.environ if name.startswith(("SAGEMAKER_", "AIP_"))),
        *("MODEL", "REGISTRY", "HOST", "PORT"),
    ],
    "",
)


def main() -> int:
    """Print one JSON line; see the module."""
    registry, scratch = map(Path, sys.argv[1:])
    bring_loopback_up()
    mount_model(registry, scratch)
    print(json.dumps({"bare": try_service(), "bound": try_service(SAGEMAKER_BIND_TO_PORT="8123")}))
    return 0


def mount_model(registry: Path, scratch: Path) -> None:
    """Mount ``registry`` where SageMaker puts a model; what /opt holds already stays to be seen."""
    subprocess.run(["mount", "--rbind", OPT, scratch], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", OPT], check=True)
    for entry in scratch.iterdir():
        if entry.is_dir() and entry.name != "ml":
            (OPT / entry.name).mkdir()
            subprocess.run(["mount", "--rbind", entry, OPT / entry.name], check=True)
    Path(SAGEMAKER_FOLDER).mkdir(parents=True)
    subprocess.run(["mount", "--bind", registry, SAGEMAKER_FOLDER], check=True)


def try_service(**environment: str) -> dict[str, Any]:
    """Where a bare ``serve`` listens, and what it answers to SageMaker's requests and to a health check."""
    with running_service(Path(), "", environment=NOTHING | environment, is_bare=True) as service:
        status, _, answer = service.request("POST", "/invocations", {"rings": 40})
        return {
            "announced": [service.host, service.port],
            "ping": service.request("GET", "/ping")[0],
            "invocations": [status, json.loads(answer)["prediction"], json.loads(answer)["model"]],
            "health": check_health(service),
        }


def check_health(service: RunningService) -> int:
    """Exit code of the health check where no file says where the service is."""
    command = [sys.executable, "-m", "inference", "health", "--runtime-dir", "/nowhere"]
    port = {"SAGEMAKER_BIND_TO_PORT": str(service.port)} if service.port != 8080 else {}
    done = subprocess.run(command, env={**os.environ, **NOTHING, **port}, capture_output=True, check=False)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
