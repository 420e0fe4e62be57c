"""``python -m exporter export``: a finished run becomes the model's next version in the registry."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from timberline.registry.runtime.cli import print_result, read_options, run_command
from timberline.registry.runtime.logs import configure_logging, silence_tensorflow


def main(arguments: list[str] | None = None) -> int:
    """Run the verb; its result goes to stdout as JSON. 1: parity is broken, nothing was published."""
    options = read_options(_parser(), arguments)
    configure_logging(options.log_level or "info", options.log_format or "auto")
    silence_tensorflow()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # parity is against the processor that serves
    return run_command("exporter", lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exporter", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    text = "convert the run, prove parity on every test row, publish, point `candidate` at it"
    export = verbs.add_parser("export", help=text, description=text)
    export.add_argument("--model", default=os.environ.get("MODEL", "forest_cover"))
    export.add_argument("--models", type=Path, default=Path("models"), help="folder of model folders")
    export.add_argument("--data", type=Path, help="where the runs lie (default: [paths] data)")
    export.add_argument("--registry", default="var/registry", help="where to publish")
    export.add_argument("--run", metavar="ID", help="the run to export (default: the last one)")
    export.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override [export] or [gate]"
    )
    export.add_argument(
        "--tolerances",
        type=Path,
        metavar="FILE",
        help="other parity bounds than the committed ones; the manifest records which",
    )
    export.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    export.add_argument("--log-format", choices=["auto", "human", "json"])
    return parser


def _run(options: argparse.Namespace) -> int:
    # Imported here, so that wrong flags are told at once and not after loading the runtimes.
    from timberline.exporter.export import export_run
    from timberline.exporter.inputs import load_inputs, load_release_settings
    from timberline.exporter.parity.compare import TOLERANCES, load_tolerances
    from timberline.registry.store import open_store

    tolerances = load_tolerances(options.tolerances or TOLERANCES)
    settings = load_release_settings(
        options.models, options.model, overrides=options.set, environment=os.environ
    )
    chosen = settings.logging
    configure_logging(options.log_level or chosen.level, options.log_format or chosen.format)
    data = options.data or Path(settings.paths.data)
    inputs = load_inputs(data, options.model, settings, options.run)
    result = export_run(inputs, open_store(options.registry), tolerances=tolerances)
    print_result(result)
    return 1 if result.outcome == "refused" else 0


if __name__ == "__main__":
    sys.exit(main())
