"""``timberline init``: look at a table, propose a model folder, check it as every verb would, write it."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from timberline.registry.errors import ConfigError
from timberline.registry.names import is_name
from timberline.registry.runtime.files import write_atomically
from timberline.registry.runtime.logs import log_event
from timberline.training.config import (
    CsvSource,
    EtlSection,
    ModelConfig,
    ModelSection,
    RandomSplit,
    Source,
    TargetSection,
    input_columns,
    load_model_config,
)
from timberline.training.data.database import open_database
from timberline.training.data.fetch import fetched_files, run_fetch
from timberline.training.features import parse_features, parse_slices
from timberline.training.init.columns import look_at_table
from timberline.training.init.form import find_form
from timberline.training.init.origin import find_source
from timberline.training.init.proposal import Proposal, propose
from timberline.training.init.text import features_sql, model_toml
from timberline.training.sources.download import show_url

_FILES = ("model.toml", "features.sql")
_logger = logging.getLogger("training.init")


def run_init(
    model: str,
    origin: str,
    target: str,
    models: Path,
    data: Path,
    *,
    time: str | None = None,
    groups: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Any]:
    """Write <models>/<model>/model.toml and features.sql for the table that ``origin`` names.

    Nothing is written unless both files pass the reader that every other verb uses. What is fetched on the
    way lies under ``data`` where `fetch` looks for it.

    Args:
        origin: see `training.init.origin`.
        target: the column to predict.
        time: the column by which the latest rows test.
        groups: columns whose rows of one value stay together in one split.
        force: write over files that are there.

    Returns:
        What was found and proposed, as JSON values.

    Raises:
        ConfigError: the call is wrong, or the files are there already.
        SourceError: the table could not be fetched.
        DatasetError: it is no table, or its target is nothing that can be classified.
    """
    _require_name(model)
    folder = models / model
    if not force and (found := [name for name in _FILES if (folder / name).exists()]):
        raise ConfigError(
            f"has {' and '.join(found)} already, which {'are' if found[1:] else 'is'} kept",
            where=str(folder),
            hint="Give another MODEL, or --force to write over it.",
        )
    source = find_source(origin, data / "raw" / "wheels")
    file = _fetch(model, source, target, data)
    proposal = _look(file, target, time, groups)
    toml, sql = model_toml(model, source, proposal, _show(source, file)), features_sql(proposal)
    features = _check(model, toml, sql)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip(_FILES, (toml, sql), strict=True):
        write_atomically(folder / name, text.encode())
    return _summarise(model, folder, proposal, features)


def _require_name(model: str) -> None:
    if is_name(model):
        return
    near = re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_0123456789")[:64]
    hint = "Names start with a-z, go on with a-z, 0-9 and _, and have at most 64 characters."
    raise ConfigError(
        f"found {model[:80]!r}, expected the name of a model" if model else "names no model",
        where="MODEL",
        hint=f"{hint} Did you mean {near}?" if is_name(near) else hint,
    )


def _fetch(model: str, source: Source, target: str, data: Path) -> Path:
    """The table's file, fetched as `timberline fetch` will find it."""
    config = ModelConfig(
        model=ModelSection(name=model),
        source=source,
        columns={},
        target=TargetSection(column=target),
        split=RandomSplit(),
    )
    run_fetch(config, data)
    files = fetched_files(config, data)
    if len(files) != 1:
        raise ConfigError(
            f"names {len(files):,} files, and one is looked at",
            where="--from",
            hint="Name one; a glob in source.path of the written file then takes them all.",
        )
    return files[0]


def _look(file: Path, target: str, time: str | None, groups: Sequence[str]) -> Proposal:
    with tempfile.TemporaryDirectory(prefix="timberline-init-") as name:
        scratch = Path(name)
        form = find_form(file, scratch)
        with open_database(EtlSection(), scratch / "spill", columns=max(len(form.names), 1)) as connection:
            table = look_at_table(connection, form, target, file, scratch)
            etl = msgspec.structs.asdict(table.etl)
            usual = msgspec.structs.asdict(EtlSection())
            log_event(
                _logger,
                "read the whole table",
                file=file.name,
                rows=table.rows,
                columns=len(table.columns),
                **{key: value for key, value in etl.items() if value != usual[key]},
            )
            proposal = propose(connection, table, target=target, time=time, groups=groups, where=file.name)
    for warning in proposal.warnings:
        log_event(_logger, warning, logging.WARNING)
    return proposal


def _show(source: Source, file: Path) -> str:
    """The source for people."""
    if isinstance(source, CsvSource) and "://" in source.path:
        return show_url(source.path)
    return file.name


def _check(model: str, toml: str, sql: str) -> int:
    """Read both files as every verb does; the number of features.

    Raises:
        ConfigError, FeatureError: they are refused, which is a fault of ours.
    """
    with tempfile.TemporaryDirectory(prefix="timberline-init-") as name:
        folder = Path(name) / model
        folder.mkdir()
        for file, text in zip(_FILES, (toml, sql), strict=True):
            (folder / file).write_text(text, "utf-8")
        config = load_model_config(Path(name), model, use_environment=False)
    columns = input_columns(config)
    parse_slices(config.gate.slices, columns)
    return len(parse_features(sql, columns).features)


def _summarise(model: str, folder: Path, proposal: Proposal, features: int) -> dict[str, Any]:
    roles: dict[str, list[str]] = {"input": [], "key": [], "ignored": []}
    for column in proposal.columns:
        if column.look.name != proposal.target:
            roles[column.section.role].append(column.look.name)
    following = f"timberline release {model} --models {folder.parent}"
    log_event(
        _logger,
        "model folder written",
        folder=str(folder),
        inputs=len(roles["input"]),
        ignored=len(roles["ignored"]),
        features=features,
        classes=len(proposal.classes),
        next=following,
    )
    return {
        "stage": "init",
        "model": model,
        "files": [str(folder / name) for name in _FILES],
        "rows": proposal.rows,
        "inputs": len(roles["input"]),
        "features": features,
        "keys": roles["key"],
        "ignored": roles["ignored"],
        "classes": [label.value for label in proposal.classes],
        "split": str(proposal.split.__struct_config__.tag),
        "warnings": list(proposal.warnings),
        "next": following,
    }
