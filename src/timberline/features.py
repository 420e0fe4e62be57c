"""``timberline features MODEL``: what each expression of features.sql becomes, and what it costs a row."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from timberline.registry.errors import StageError
from timberline.registry.runs import Fitted
from timberline.registry.runtime.cli import print_json, run_command
from timberline.registry.runtime.files import write_atomically
from timberline.registry.runtime.logs import configure_logging, log_event
from timberline.registry.runtime.options import Verbs, add_verb, find_model
from timberline.registry.runtime.working_copy import open_data
from timberline.registry.show import render_table
from timberline.training.config import ModelConfig, input_columns, load_model_config, read_features_sql

if TYPE_CHECKING:
    from timberline.exporter.graph.costs import GraphCost
    from timberline.training.features import FeatureProgram

_logger = logging.getLogger("features")


def add_verbs(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """The verb ``features``."""
    text = "show what each expression of features.sql becomes in the graph, and what it costs a row"
    command = add_verb(verbs, "features", text, run, "models", "data", "set")
    command.add_argument("--graph", type=Path, metavar="FILE", help="draw the graph of the features, as SVG")
    command.add_argument(
        "--json", action=argparse.BooleanOptionalAction, help="JSON (the default off a terminal)"
    )


def run(options: argparse.Namespace) -> int:
    """Print the features; nothing but the model folder has to be there."""
    configure_logging(options.log_level or "info", options.log_format or "auto")
    return run_command("features", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    # Imported here, so that a wrong flag ends at once and not after the runtimes are loaded.
    from timberline.exporter.graph.costs import measure_features
    from timberline.exporter.graph.drawing import draw_graph
    from timberline.exporter.inputs import load_release_settings

    model = find_model(options)
    config = load_model_config(options.models, model, overrides=options.set)
    settings = load_release_settings(options.models, model, overrides=options.set, environment=os.environ)
    with open_data(options.data or config.paths.data) as data:
        program, is_fitted = _read_program(config, options.models, data)
    cost, graph, shares = measure_features(program.narrow(), settings.export.opset)
    if not is_fitted:
        log_event(
            _logger, "nothing is learned yet: vocabularies count as empty, fitted.* as 0", logging.WARNING
        )
    if options.graph:
        title = f"{model}: {cost.nodes:,} nodes, {cost.microseconds:.1f} µs a row"
        write_atomically(options.graph, draw_graph(graph, shares, program.names, title).encode())
    if sys.stdout.isatty() if options.json is None else not options.json:
        sys.stdout.write(_write_table(cost))
    else:
        print_json({"model": model, "is_fitted": is_fitted, **msgspec.structs.asdict(cost)})
    return 0


def _read_program(config: ModelConfig, models: Path, data: Path) -> tuple[FeatureProgram, bool]:
    """The features as fitted to the prepared data or, where there are none for this text, to nothing."""
    from timberline.training.data.fitting import load_fitted
    from timberline.training.features import ValueType, parse_features

    sql, columns = read_features_sql(config, models), input_columns(config)
    file = str(models / config.model.name / config.features.file)
    program = parse_features(sql, columns, file=file)
    texts = [f.name for f in program.features if f.expression.type is ValueType.VARCHAR]
    if not texts and not program.learned:
        return program, True
    try:
        return parse_features(
            sql, columns, file=file, fitted=load_fitted(data / "prepared" / config.model.name)
        ), True
    except (StageError, KeyError):  # KeyError: it was learned for another text
        pass
    constants: dict[str, float | str | None] = {}
    for call in program.learned:
        constants |= {
            call.key: "" if call.result_type is ValueType.VARCHAR else 0.0,
            **call.constants(0.0, 0.0),
        }
    stand_in = Fitted(
        vocabularies=dict.fromkeys(texts, ()),
        constants=constants,
        tables={call.key: {} for call in program.learned if call.is_table},
    )
    return parse_features(sql, columns, file=file, fitted=stand_in), False


def _write_table(cost: GraphCost) -> str:
    """One line an expression; those that differ in constants only are one, and so are plain columns."""
    from timberline.exporter.graph.costs import cut_line, group_alike

    rows = []
    labels = ["" if feature.sql == feature.name else feature.sql for feature in cost.features]
    for group in group_alike(labels):
        features = [cost.features[index] for index in group]
        first, others = features[0], len(group) - 1
        rows.append(
            (
                first.name + (f" (and {others:,} like it)" if others else ""),
                cut_line(first.sql) if labels[group[0]] or not others else "plain columns",
                first.type,
                ", ".join(first.operators),
                f"{sum(feature.nodes for feature in features):.1f}",
                f"{sum(feature.microseconds for feature in features):.2f}",
            )
        )
    table = render_table(("feature", "SQL", "type", "operators", "nodes", "µs"), rows, right=("nodes", "µs"))
    return (
        f"{table}{len(cost.features):,} features, {cost.nodes:,} nodes, {cost.microseconds:.1f} µs a row "
        f"on one thread; operator set {cost.opset}, ONNX Runtime {cost.minimum_onnxruntime} or later\n"
    )
