"""Our own application behind plain uvicorn: the yardstick of how fair the service's own way is.

``python -m benchmarks.dev.competitors.plain_uvicorn --name forest_cover@3 serve …`` is
``python -m inference serve …``, except that, once the version is loaded, uvicorn's own server and
protocol take the application over. It listens on a free port of its own.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

import uvicorn

from timberline.benchmarks.dev.competitors.uvicorn_server import serve

_Config = uvicorn.Config


def take_over(name: str) -> None:
    """Have uvicorn serve the next application that is configured, and end the process after it."""

    def configure(app: Any, **_: Any) -> None:
        uvicorn.Config = _Config  # type: ignore[misc]
        serve(app, name)
        raise SystemExit(0)

    uvicorn.Config = configure  # type: ignore[assignment,misc]


def main() -> None:
    """Take uvicorn's place as the service knows it, then become the service."""
    flag, name, *arguments = sys.argv[1:]
    if flag != "--name":
        raise SystemExit("the first argument is --name MODEL@VERSION")
    take_over(name)
    sys.argv = ["inference", *arguments]
    runpy.run_module("timberline.inference", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
