"""The schemas of Kubernetes as pip installs them; run in the client ``kubernetes-validate``.

Reads {"version", "documents"} as JSON from standard input and prints for each document null, or what is
wrong with it; `NONE` where this version knows no such kind. Without a version: the versions that are there.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from kubernetes_validate import SchemaNotFoundError, ValidationError, validate
from kubernetes_validate.utils import all_versions

NONE = "no such kind"


def judge(document: dict[str, Any], version: str) -> str | None:
    """What is wrong, if anything; fields that no schema has are wrong."""
    try:
        validate(document, version, strict=True)
    except ValidationError as error:
        return f"{'.'.join(map(str, error.path))}: {error.message}"
    except SchemaNotFoundError:
        return NONE
    return None


def main() -> None:
    """Answer the one order."""
    order = json.load(sys.stdin)
    if "version" in order:
        json.dump([judge(document, order["version"]) for document in order["documents"]], sys.stdout)
    else:
        json.dump(all_versions(), sys.stdout)


if __name__ == "__main__":
    main()
