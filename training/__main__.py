"""``python -m training fetch | etl | train | evaluate``: the four stages from a source to a scored run.

``init`` proposes the model folder that they read.

``calibrate-training`` trains a version's recipe again, to know how far equal runs differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from timberline.registry.errors import ConfigError
from timberline.registry.names import ModelRef
from timberline.registry.runtime.cli import print_result, read_options, run_command
from timberline.registry.runtime.logs import capture_native_stderr, configure_logging, silence_tensorflow
from timberline.registry.runtime.options import Place, Verbs, add_verb, find_data, find_model
from timberline.registry.runtime.working_copy import open_data
from timberline.training.config import ModelConfig, load_model_config

_HELP = {
    "fetch": "download the raw table",
    "etl": "raw table to Parquet, features and profile",
    "train": "train the network and save it",
    "evaluate": "score the test split and draw the plots",
    "calibrate-training": "train a version's recipe on other seeds and store how far the runs differ",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; its summary goes to stdout as JSON."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    add_verbs(parser.add_subparsers(dest="verb", required=True, metavar="verb"))
    options = read_options(parser, arguments)
    return int(options.run(options))


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verbs of this part, for its own command line and for `timberline`."""
    text = "look at a table and write the model folder for it: model.toml and features.sql"
    _add_init_flags(add_verb(verbs, "init", text, _main_init, "models", "data"))
    for name, text in _HELP.items():
        if name == "calibrate-training":
            places: tuple[Place, ...] = ("models", "data", "registry", "set")
            command = add_verb(verbs, name, text, _main, *places, model="MODEL[@VERSION]")
            _add_calibrate_flags(command)
        else:
            command = add_verb(verbs, name, text, _main, "models", "data", "set")
        if name == "train":
            command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def _add_calibrate_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        default=5,
        help="runs in all, the version's own among them (default 5)",
    )
    for what in ("rows", "features"):
        command.add_argument(
            f"--{what}-share",
            type=float,
            default=1.0,
            metavar="SHARE",
            help=f"a worse recipe for the self-test: this share of the {what}; no version gets its noise",
        )


def _add_init_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--from",
        dest="origin",
        metavar="FILE",
        help="the table: a file, a URL, kaggle:COMPETITION/FILE, kaggle:OWNER/DATASET/FILE or "
        "package:NAME==VERSION/FILE",
    )
    command.add_argument("--target", metavar="COLUMN", help="the column to predict")
    command.add_argument("--time", metavar="COLUMN", help="split by time: the latest rows of it test")
    command.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="COLUMN",
        help="keep the rows of one value in one split; may be repeated",
    )
    command.add_argument("--force", action="store_true", help="write over files that are there")


def _main_init(options: argparse.Namespace) -> int:
    configure_logging(options.log_level or "info", options.log_format or "auto")
    return run_command("training", lambda: _run_init(options))


def _run_init(options: argparse.Namespace) -> int:
    # Late: fetching does not wait for DuckDB.
    from timberline.training.init.run import run_init

    for name, value in (("--from", options.origin), ("--target", options.target)):
        if not value:
            hint = "For example: timberline init pets --from pets.csv --target kind"
            raise ConfigError("is not given", where=name, hint=hint)
    with open_data(find_data(options)) as data:
        print_result(
            run_init(
                options.model,
                options.origin,
                options.target,
                options.models,
                data,
                time=options.time,
                groups=options.group,
                force=options.force,
            )
        )
    return 0


def _main(options: argparse.Namespace) -> int:
    configure_logging(options.log_level or "info", options.log_format or "auto")
    return run_command("training", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    model = find_model(options)
    if options.verb == "calibrate-training":
        model = ModelRef.parse(model).model
    config = load_model_config(options.models, model, overrides=options.set)
    configure_logging(options.log_level or config.logging.level, options.log_format or config.logging.format)
    with open_data(options.data or config.paths.data) as data:
        print_result(_stage(options, config, data))
    return 0


def _stage(options: argparse.Namespace, config: ModelConfig, data: Path) -> dict[str, object]:
    # Imported here, so that fetching does not wait for DuckDB and ETL does not wait for TensorFlow.
    if options.verb == "fetch":
        from timberline.training.data.fetch import run_fetch

        return run_fetch(config, data)
    if options.verb == "etl":
        from timberline.training.data.etl import run_etl

        return run_etl(config, options.models, data)
    silence_tensorflow()
    with capture_native_stderr():
        import tensorflow

        tensorflow.config.list_physical_devices()  # logs missing devices at its first use
    if options.verb == "train":
        from timberline.training.fit import run_train

        return run_train(config, options.models, data, resume=options.resume)
    if options.verb == "calibrate-training":
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
        resolve(store, ModelRef.parse(find_model(options))),
        count=options.seeds,
        reduction=Reduction(options.rows_share, options.features_share),
    )


if __name__ == "__main__":
    sys.exit(main())
