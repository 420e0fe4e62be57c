"""``python -m exporter export``: a finished run becomes the model's next version in the registry."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from timberline.registry.runtime.cli import print_result, read_options, run_command
from timberline.registry.runtime.logs import configure_logging, silence_tensorflow
from timberline.registry.runtime.options import Verbs, add_verb, find_model
from timberline.registry.runtime.working_copy import open_data


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb; its result goes to stdout as JSON. 1: parity is broken, nothing was published."""
    parser = argparse.ArgumentParser(prog="python -m exporter", description=__doc__)
    add_verbs(parser.add_subparsers(dest="verb", required=True, metavar="verb"))
    options = read_options(parser, arguments)
    return int(options.run(options))


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verbs of this part, for its own command line and for `timberline`."""
    text = "convert the run, compare graph and network on every test row, publish as candidate"
    export = add_verb(verbs, "export", text, _main, "models", "data", "registry", "set")
    export.add_argument("--run", dest="run_id", metavar="ID", help="the run (default: the last one)")
    export.add_argument(
        "--tolerances",
        type=Path,
        metavar="FILE",
        help="other parity bounds than the committed ones; the manifest records which",
    )


def _main(options: argparse.Namespace) -> int:
    configure_logging(options.log_level or "info", options.log_format or "auto")
    silence_tensorflow()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # parity is against the processor that serves
    return run_command("exporter", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    # Imported here, so that a wrong flag ends at once and not after the runtimes are loaded.
    from timberline.exporter.export import export_run
    from timberline.exporter.inputs import load_inputs, load_release_settings
    from timberline.exporter.parity.compare import TOLERANCES, load_tolerances
    from timberline.registry.store import open_store

    tolerances = load_tolerances(options.tolerances or TOLERANCES)
    model = find_model(options)
    settings = load_release_settings(options.models, model, overrides=options.set, environment=os.environ)
    chosen = settings.logging
    configure_logging(options.log_level or chosen.level, options.log_format or chosen.format)
    with open_data(options.data or settings.paths.data) as data:
        inputs = load_inputs(data, model, settings, options.run_id)
        result = export_run(inputs, open_store(options.registry), tolerances=tolerances)
    print_result(result)
    return 1 if result.outcome == "refused" else 0


if __name__ == "__main__":
    sys.exit(main())
