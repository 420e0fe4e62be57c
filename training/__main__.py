"""``python -m training fetch | etl | train | evaluate``: the four stages from a source to a scored run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from registry.ground.command import print_result, read_options, run_command
from registry.ground.logs import configure_logging
from registry.ground.quiet import quiet_stderr, silence_tensorflow
from training.config import ModelConfig, load_model_config


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; its summary goes to stdout as JSON."""
    options = read_options(_parser(), arguments)
    configure_logging(options.log_level or "info", options.log_format or "auto")
    return run_command("training", lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True, metavar="stage")
    helps = {
        "fetch": "download the raw table",
        "etl": "raw table to Parquet, features and profile",
        "train": "train the network and save it",
        "evaluate": "score the test split and draw the plots",
    }
    for stage, text in helps.items():
        command = stages.add_parser(stage, help=text, description=text)
        command.add_argument("--model", default=os.environ.get("MODEL", "forest_cover"))
        command.add_argument("--models", type=Path, default=Path("models"), help="folder of model folders")
        command.add_argument("--data", type=Path, help="where data and runs lie (default: [paths] data)")
        command.add_argument(
            "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override model.toml"
        )
        command.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
        command.add_argument("--log-format", choices=["auto", "human", "json"])
        if stage == "train":
            command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    return parser


def _run(options: argparse.Namespace) -> int:
    config = load_model_config(options.models, options.model, overrides=options.set)
    configure_logging(options.log_level or config.logging.level, options.log_format or config.logging.format)
    data = options.data or Path(config.paths.data)
    print_result(_stage(options, config, data))
    return 0


def _stage(options: argparse.Namespace, config: ModelConfig, data: Path) -> dict[str, object]:
    # Imported here, so that fetching does not wait for DuckDB and ETL does not wait for TensorFlow.
    if options.stage == "fetch":
        from training.fetch import run_fetch

        return run_fetch(config, data)
    if options.stage == "etl":
        from training.etl import run_etl

        return run_etl(config, options.models, data)
    silence_tensorflow()
    with quiet_stderr():
        import tensorflow

        tensorflow.config.list_physical_devices()  # says at first use what devices are not there
    if options.stage == "train":
        from training.fit import run_train

        return run_train(config, options.models, data, resume=options.resume)
    from training.evaluate import run_evaluate

    return run_evaluate(config, data)


if __name__ == "__main__":
    sys.exit(main())
