"""A proposal as the two files of a model folder, commented as a person would."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import msgspec

from timberline.registry.rows import quote
from timberline.training.config import EtlSection, Source, TimeSplit
from timberline.training.init.columns import ColumnLook
from timberline.training.init.proposal import ColumnProposal, Proposal

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# More columns than these are a star and not a list.
_LISTED = 60
_LEAST_RUN = 3
_WIDTH = 100
_MOST_LABELS = 100
_DAY_US = 86_400_000_000


def model_toml(name: str, source: Source, proposal: Proposal, origin: str) -> str:
    """The text of model.toml."""
    ignored = sum(column.section.role == "ignored" for column in proposal.columns)
    lines = [
        f"# Proposed by `timberline init` from {origin}: {proposal.rows:,} rows, "
        f"{len(proposal.columns):,} columns, {ignored:,} of them ignored.",
        "# A comment says what is a guess, and why. docs/reference/model.md has every setting.",
        *(f"# {remark}" for remark in proposal.remarks),
        "",
        "[model]",
        f"name = {_value(name)}",
        f"title = {_value(name.replace('_', ' ').capitalize())}",
        "",
        "[source]",
        *_keys(source),
        "",
        "[columns]",
        *_columns(proposal),
        "",
        "[target]",
        f"column = {_value(proposal.target)}",
        *_classes(proposal),
        "",
        "[split]",
        *_split(proposal),
    ]
    if etl := _changed(proposal.etl, EtlSection()):
        lines += ["", "[etl]", *(f"{key} = {_value(value)}" for key, value in etl.items())]
    lines += ["", f"[network] # for {proposal.rows:,} rows", *_table(proposal.network)]
    lines += ["", "[training]", *_table(proposal.training)]
    if isinstance(proposal.split, TimeSplit):
        why = "the validation rows are of another time than those to come"
        lines += ["", "[prior]", f"calibrate = false # {why}"]
    lines += ["", "[gate]", *_gate(proposal)]
    return "\n".join(lines) + "\n"


def _keys(source: Source) -> Iterator[str]:
    yield f"kind = {_value(source.__struct_config__.tag)}"
    for field in msgspec.structs.fields(type(source)):
        value = getattr(source, field.name)
        if value != field.default:
            yield f"{field.name} = {_value(value)}"


def _changed(section: msgspec.Struct, usual: msgspec.Struct) -> dict[str, Any]:
    """The fields that differ from ``usual``."""
    values = msgspec.structs.asdict(section)
    return {key: value for key, value in values.items() if value != getattr(usual, key)}


def _table(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in values.items()]


def _value(value: Any) -> str:
    """A value of TOML; its strings are JSON's, but for U+007F."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_value(inner)}' for key, inner in value.items())} }}"
    return repr(value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _columns(proposal: Proposal) -> Iterator[str]:
    columns = list(proposal.columns)
    written: set[str] = set()
    while columns:
        run = _numbered_run(columns)
        first = columns[0]
        name = first.look.name
        if run:
            name = f"{run[0]}{{{run[1]}..{run[2]}}}"
            columns = columns[run[2] - run[1] + 1 :]
        else:
            columns = columns[1:]
        if name in written:
            continue
        written.add(name)
        declared = _section(first)
        comment = f" # {'; '.join(first.remarks)}" if first.remarks else ""
        yield f"{_key(name)} = {{ {declared} }}{comment}"


def _section(column: ColumnProposal) -> str:
    parts = [f"type = {_value(column.section.type)}"]
    for key in ("role", "nullable", "format"):
        value = getattr(column.section, key)
        if value not in ("input", False, None):
            parts.append(f"{key} = {_value(value)}")
    return ", ".join(parts)


def _numbered_run(columns: Sequence[ColumnProposal]) -> tuple[str, int, int] | None:
    """``x1 x2 x3 x4 …`` at the beginning of ``columns``, declared alike: the front, the first, the last."""
    first = columns[0]
    match = re.fullmatch(r"(.*?)(0|[1-9]\d*)", first.look.name)
    if not match:
        return None
    front, start = match[1], int(match[2])
    count = 0
    for column in columns:
        alike = (column.section, column.remarks) == (first.section, first.remarks)
        if not alike or column.look.name != f"{front}{start + count}":
            break
        count += 1
    return (front, start, start + count - 1) if count >= _LEAST_RUN else None


def _classes(proposal: Proposal) -> Iterator[str]:
    if len(proposal.classes) > _MOST_LABELS:
        yield f"# {len(proposal.classes):,} classes, by value; list them to give them labels"
        return
    yield "classes = ["
    for label in proposal.classes:
        yield f"  {{ value = {_value(label.value)}, label = {_value(label.label)} }},"
    yield "]"


def _split(proposal: Proposal) -> Iterator[str]:
    split = proposal.split
    kind = split.__struct_config__.tag
    comment = {
        "random": "stratified by class; rows that belong together (a patient, a day) want --group or --time",
        "hash": "the rows of one key are in one split",
        "time": "the latest rows validate and test",
    }[str(kind)]
    yield f"kind = {_value(kind)} # {comment}"
    for field in msgspec.structs.fields(type(split)):
        value = getattr(split, field.name)
        if value != field.default:
            yield f"{field.name} = {_value(value)}"


def _gate(proposal: Proposal) -> Iterator[str]:
    for key, value, comment in proposal.gate:
        yield f"{key} = {_value(value)} # {comment}"


def features_sql(proposal: Proposal) -> str:
    """The text of features.sql: every input, by its kind."""
    with duckdb.connect() as connection:
        words = {
            word for (word,) in connection.execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()
        }
    inputs = proposal.inputs
    taken = {column.look.name.casefold() for column in proposal.columns}
    moments = [column for column in inputs if column.section.type in ("date", "timestamp")]
    plain = [column for column in inputs if column not in moments]
    items: list[tuple[str, list[str]]] = []
    if len(plain) > _LISTED:
        excluded = ", ".join(_name(column.look.name, words) for column in moments)
        items.append(
            (
                f"{len(plain):,} columns as they are: numbers, text as categories, NULL filled and marked.",
                [f"* EXCLUDE ({excluded})" if moments else "*"],
            )
        )
    else:
        items += _plain_items(plain, words)
    for column in moments:
        items += _moment_items(column, proposal, words, taken)
    return _statement(items)


def _plain_items(plain: Sequence[ColumnProposal], words: set[str]) -> Iterator[tuple[str, list[str]]]:
    for kinds, comment in (
        (
            ("integer", "number"),
            "Numbers. NULL is filled with the training mean, and a feature of its own marks it.",
        ),
        (("boolean",), "Yes or no."),
        (("string",), "Text is a category. A value that training hardly saw counts as unknown."),
    ):
        chosen = [column for column in plain if column.section.type in kinds]
        many = [column for column in chosen if kinds == ("string",) and column.look.distinct > 100]
        few = [column for column in chosen if column not in many]
        if few:
            yield comment, [_name(column.look.name, words) for column in few]
        if many:
            counts = ", ".join(f"{column.look.name} {column.look.distinct:,}" for column in many)
            note = (
                f"Text of many values ({counts}): min_count and max_size of [features] say which are known."
            )
            yield note, [_name(column.look.name, words) for column in many]


def _moment_items(
    column: ColumnProposal, proposal: Proposal, words: set[str], taken: set[str]
) -> Iterator[tuple[str, list[str]]]:
    """A date taken apart: what repeats goes round a circle, so that December is beside January."""
    look = column.look
    name = _name(look.name, words)
    alias = _alias(look.name)
    is_time = isinstance(proposal.split, TimeSplit) and proposal.split.column == look.name
    found: list[str] = []

    def add(expression: str, suffix: str) -> None:
        own = f"{alias}_{suffix}"
        while own.casefold() in taken:
            own += "_"
        taken.add(own.casefold())
        found.append(f"{expression} AS {own}")

    days = _span_days(look)
    note = f"{look.name}, taken apart: what repeats goes round a circle, so that December is beside January."
    if is_time and days > 366:
        note += " Not the year: later ones are in no training row."
    elif days > 366:
        add(f"year({name})", "year")
    if days > 31:
        for function in ("sin", "cos"):
            add(f"{function}(6.283185307179586 * dayofyear({name}) / 365.25)", f"season_{function}")
    if days > 6:
        add(f"isodow({name})", "weekday")
    if look.kind == "timestamp":
        for function in ("sin", "cos"):
            add(f"{function}(6.283185307179586 * hour({name}) / 24)", f"hour_{function}")
    if not found:
        add(f"day({name})", "day")
    yield note, found


def _span_days(look: ColumnLook) -> float:
    assert look.low is not None
    assert look.high is not None
    span = look.high - look.low
    return span / _DAY_US if look.kind == "timestamp" else span


def _name(name: str, words: set[str]) -> str:
    return name if _BARE_NAME.fullmatch(name) and name.lower() not in words else quote(name)


def _alias(name: str) -> str:
    """A name for what is computed from the column: ``Date Egg`` → ``date_egg``."""
    alias = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()
    return alias if alias and not alias[0].isdigit() else f"x_{alias}".rstrip("_")


def _statement(items: Sequence[tuple[str, list[str]]]) -> str:
    lines = [
        "-- From a row of the table to what the network sees. DuckDB runs it for training, the served graph",
        "-- computes the same. Add what you know: docs/reference/features.md has the language.",
        "SELECT",
    ]
    last = sum(len(expressions) for _, expressions in items)
    number = 0
    for comment, expressions in items:
        lines += [f"  -- {line}" for line in _wrap(comment)]
        for expression in expressions:
            number += 1
            lines.append(f"  {expression}{',' if number < last else ''}")
    return "\n".join([*lines, "FROM raw"]) + "\n"


def _wrap(comment: str) -> Iterator[str]:
    line = ""
    for word in comment.split():
        if line and len(line) + len(word) >= _WIDTH:
            yield line
            line = ""
        line = f"{line} {word}".lstrip()
    yield line
