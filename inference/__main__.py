"""``python -m inference serve | health``: the command line, without logic."""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.argv[1:2] == ["health"]:
    # Asked every few seconds: what is imported below would cost ten times as much as asking.
    from timberline.inference.server.probe import main as ask

    if (_code := ask(sys.argv[2:])) is not None:
        sys.exit(_code)

import argparse
import logging
import os
import signal
from collections.abc import Sequence
from typing import Any

from timberline.registry.runtime.cli import read_options, run_command
from timberline.registry.runtime.logs import configure_logging, write_in_background
from timberline.registry.runtime.options import Verbs, add_log_options, add_verb

_MODEL = "MODEL[@VERSION],…"
_FLAGS = {
    "registry": "folder of the registry, or s3://bucket/prefix (default var/registry)",
    "host": "address to listen on (default 127.0.0.1)",
    "port": "port to listen on, 0 for a free one (default 8000)",
    "reuse-port": "another service may take the port over, and gets all new connections (default false)",
    "workers": "processes that answer; from 2 on a supervisor restarts those that end (default 1)",
    "threads": "large requests worked on at a time, 0 for its share of the CPU quota (default 0)",
    "max-body-bytes": "longest body that is read (default 16 MiB)",
    "max-receiving-bytes": "bytes of bodies that all connections hold at a time (default 64 MiB)",
    "max-rows": "most rows in a request (default 10,000)",
    "inline-max-rows": "most rows that are answered on the event loop (default 64)",
    "inline-max-body-bytes": "longest body that is read on the event loop (default 64 KiB)",
    "max-requests-in-work": "requests in work at a time, beyond which they are refused (default 256)",
    "max-connections": "connections of a worker; one more replaces an idle one or is refused (default 1024)",
    "deadline-s": "seconds that a request may take (default 10)",
    "receive-timeout-s": "seconds that a client may take to send a request (default 30)",
    "watch-s": "seconds between looks at the registry's aliases, 0 for never (default 1, of a bucket 20)",
    "cache-dir": "folder for copies of what a bucket has (default: the first usable)",
    "cache-bytes": "bytes that are kept there, 0 for none (default 512 MiB)",
    "load-timeout-s": "seconds that loading a version may take (default 60)",
    "load-memory-bytes": "memory that loading a version may take (default 1 GiB)",
    "canary": "alias=share: this version answers a share of the requests",
    "canary-header": "header whose value decides which version answers (default x-request-key)",
    "shadow": "alias=share: this version is asked too, unseen by clients",
    "warnings": "answers name features with a value that training did not know (default false)",
    "drift-window-rows": "rows over which drift is measured, 0 for none (default 1000)",
    "metrics-port": "a port of its own for /metrics (default: none)",
    "tokens-file": "file with a bearer token on each line",
    "request-log": "a line in the log for every request (default false)",
    "server-timing": "a header with its time in every answer to a POST (default false)",
    "predict-route": "one more path for POST /predict",
    "health-route": "one more path for readiness",
    "root-path": "path that a proxy has before every other, as in links and openapi.json",
    "cors-origin": "origins whose pages may ask, several with commas, or * (default: none)",
    "drain-s": "seconds after SIGTERM in which new work is still answered (default 0)",
    "shutdown-grace-s": "seconds that requests in flight may take then (default 30)",
    "keep-alive-s": "seconds until an idle connection is closed (default 75)",
    "runtime-dir": "folder for the file that health finds the service by (default: the first usable)",
}
_SWITCHES = {"request-log", "reuse-port", "server-timing", "warnings"}  # may stand alone, for "true"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse ``arguments`` and run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m inference", description="Answer requests with a version."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{serve,health}")
    add_verbs(verbs)
    for name in ("worker", "trial"):  # processes of a service, which starts them; no help, so not listed
        verb = verbs.add_parser(name)
        verb.set_defaults(run=_main)
        add_log_options(verb)
    options = read_options(parser, arguments)
    return int(options.run(options))


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verbs of this part, for its own command line and for `timberline`."""
    serve = add_verb(verbs, "serve", "serve one version over HTTP until SIGTERM", _main, model=_MODEL)
    for name, text in _FLAGS.items():
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if name in _SWITCHES else {}
        serve.add_argument(f"--{name}", help=text, **alone)
    text = "ask a service on this machine whether it is ready: 0 or 1"
    health = add_verb(verbs, "health", text, _main, model=None)
    health.add_argument(
        "--port", type=int, metavar="PORT", default=0, help="port of the service (default: the one that runs)"
    )
    health.add_argument(
        "--runtime-dir",
        metavar="DIR",
        default="",
        help="folder of the service's file (default: as the service's)",
    )


def _main(options: argparse.Namespace) -> int:
    if options.verb in {"serve", "worker"}:
        write_in_background()
    options.log_level, options.log_format = options.log_level or "info", options.log_format or "auto"
    configure_logging(options.log_level, options.log_format)
    for name in ("uvicorn", "uvicorn.error"):  # our events replace uvicorn's messages
        logging.getLogger(name).setLevel(logging.WARNING)
    return run_command("inference", lambda: _VERBS[options.verb](options), ends_on_signals=False)


def _serve(options: argparse.Namespace) -> int:
    from timberline.inference.config import resolve_config

    flags = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name in _FLAGS}
    flags["model"] = options.model or None
    config = resolve_config(flags, os.environ)
    install_sigterm_handler()
    if config.workers > 1:
        from timberline.inference.server.supervisor import supervise

        return supervise(config, ["--log-level", options.log_level, "--log-format", options.log_format])
    from timberline.inference.server.worker import serve

    return serve(config)


def _work(options: argparse.Namespace) -> int:
    install_sigterm_handler()
    from timberline.inference.server.worker import work

    return work()


def _try(options: argparse.Namespace) -> int:
    from timberline.inference.models.proven import run_trial

    return run_trial(sys.stdin.buffer, sys.stdout.buffer)


def install_sigterm_handler() -> None:
    """End on SIGTERM before there is a server to do it; a container's first process ignores it otherwise."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def _health(options: argparse.Namespace) -> int:
    from timberline.inference.server.probe import check

    return check(options.port, options.runtime_dir)


_VERBS = {"serve": _serve, "health": _health, "worker": _work, "trial": _try}


if __name__ == "__main__":
    sys.exit(main())
