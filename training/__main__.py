"""``python -m training fetch | etl | train | evaluate``: the four stages from a source to a scored run.

``calibrate-training`` trains a version's recipe again, to know how far equal runs differ.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from timberline.registry.names import ModelRef
from timberline.registry.runtime.cli import print_result, read_options, run_command
from timberline.registry.runtime.logs import configure_logging
from timberline.registry.runtime.quiet import quiet_stderr, silence_tensorflow
from timberline.training.config import ModelConfig, load_model_config


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
        "calibrate-training": "train a version's recipe on other seeds and store how far the runs differ",
    }
    for stage, text in helps.items():
        command = stages.add_parser(stage, help=text, description=text)
        reference = "MODEL[@VERSION]" if stage == "calibrate-training" else None
        command.add_argument("--model", default=os.environ.get("MODEL", "forest_cover"), metavar=reference)
        command.add_argument("--models", type=Path, default=Path("models"), help="folder of model folders")
        command.add_argument("--data", type=Path, help="where data and runs lie (default: [paths] data)")
        command.add_argument(
            "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override model.toml"
        )
        command.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
        command.add_argument("--log-format", choices=["auto", "human", "json"])
        if stage == "train":
            command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
        if stage == "calibrate-training":
            _add_calibrate_flags(command)
    return parser


def _add_calibrate_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--registry", default="var/registry", help="where the version is")
    command.add_argument(
        "--seeds", type=int, default=5, help="runs in all, the version's own among them (default 5)"
    )
    for what, example in (("rows", "0.1"), ("features", "0.5")):
        command.add_argument(
            f"--{what}-share",
            type=float,
            default=1.0,
            metavar=example,
            help=f"a worse recipe for the self-test: so much of the {what}; no version gets its noise",
        )


def _run(options: argparse.Namespace) -> int:
    is_version = options.stage == "calibrate-training"
    model = ModelRef.parse(options.model).model if is_version else options.model
    config = load_model_config(options.models, model, overrides=options.set)
    configure_logging(options.log_level or config.logging.level, options.log_format or config.logging.format)
    data = options.data or Path(config.paths.data)
    print_result(_stage(options, config, data))
    return 0


def _stage(options: argparse.Namespace, config: ModelConfig, data: Path) -> dict[str, object]:
    # Imported here, so that fetching does not wait for DuckDB and ETL does not wait for TensorFlow.
    if options.stage == "fetch":
        from timberline.training.data.fetch import run_fetch

        return run_fetch(config, data)
    if options.stage == "etl":
        from timberline.training.data.etl import run_etl

        return run_etl(config, options.models, data)
    silence_tensorflow()
    with quiet_stderr():
        import tensorflow

        tensorflow.config.list_physical_devices()  # logs missing devices at its first use
    if options.stage == "train":
        from timberline.training.fit import run_train

        return run_train(config, options.models, data, resume=options.resume)
    if options.stage == "calibrate-training":
        return _calibrate(options, config, data)
    from timberline.training.evaluation.evaluate import run_evaluate

    return run_evaluate(config, data)


def _calibrate(options: argparse.Namespace, config: ModelConfig, data: Path) -> dict[str, object]:
    from timberline.registry.aliases import resolve
    from timberline.registry.store import open_store
    from timberline.training.repeats import Reduction, run_calibrate

    store = open_store(options.registry)
    return run_calibrate(
        config,
        options.models,
        data,
        store,
        resolve(store, ModelRef.parse(options.model)),
        count=options.seeds,
        reduction=Reduction(options.rows_share, options.features_share),
    )


if __name__ == "__main__":
    sys.exit(main())
