"""What each column is for, how the rows are split and trained on: the proposal that becomes model.toml.

A proposal says what it is unsure of: `Proposal.warnings` are for whoever called, the remarks of a column
stand beside it in the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from timberline.registry.errors import ConfigError
from timberline.registry.runs import ROW_COLUMN
from timberline.registry.signature import ClassLabel
from timberline.training.config import (
    ColumnSection,
    EtlSection,
    HashSplit,
    RandomSplit,
    Split,
    TimeSplit,
)
from timberline.training.data.database import Connection, fetch_row
from timberline.training.data.splits import mix_rows
from timberline.training.errors import DatasetError
from timberline.training.init.columns import CELLS, ColumnLook, TableLook

# A whole-number target beyond these is a quantity; the ETL draws the same line.
_MOST_WHOLE_CLASSES = 20
_MOST_CLASSES = 1000
# Rows of a class below which its recall says nothing, and below which a split may have none.
_FEW_ROWS = 10
# Distinct values per row from which text tells rows apart instead of describing them.
_ALMOST_UNIQUE, _OFTEN_UNIQUE, _LONG_TEXT = 0.9, 0.5, 20
_FEW_VALUES = 12
_MANY_CATEGORIES = 100
# Beyond these columns the same question at every other one is no help.
_WIDE = 60
# Columns with an embedding of their own; a table of more goes into a plain network.
_MOST_EMBEDDED = 200
# A column is a leak if it alone leaves a twentieth of the errors, and one row of a hundred at most.
_LEAK_SHARE, _LEAK_ERRORS = 0.05, 0.01
_LEAK_LEAST_ROWS, _LEAK_EDGE_ROWS = 20, 100
_IS_ASKED = f"{mix_rows(ROW_COLUMN, 0, 'init')} % 5 = 0"
_LIKE_AN_ID = re.compile(
    r"(^|[^a-z])(id|ids|key|uuid|guid|index|idx|rownames?|row|number|no|nr|num|serial)($|[^a-z])"
)


@dataclass(frozen=True)
class ColumnProposal:
    """A column as model.toml declares it, and what is said beside it."""

    look: ColumnLook
    section: ColumnSection
    remarks: tuple[str, ...] = ()

    @property
    def is_input(self) -> bool:
        """Whether features.sql may read it; the target is told apart by its name."""
        return self.section.role == "input"


class Line(NamedTuple):
    """A setting with what is said beside it."""

    key: str
    value: Any
    comment: str


@dataclass(frozen=True)
class Proposal:
    """A model folder before it is written."""

    target: str
    classes: tuple[ClassLabel, ...]
    columns: tuple[ColumnProposal, ...]
    split: Split
    etl: EtlSection
    training: dict[str, Any]
    network: dict[str, Any]
    gate: tuple[Line, ...]
    rows: int
    remarks: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def inputs(self) -> tuple[ColumnProposal, ...]:
        """What features.sql may read."""
        return tuple(c for c in self.columns if c.is_input and c.look.name != self.target)


@dataclass
class _Findings:
    """What was found so far: words beside a column by its name, and warnings."""

    beside: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def say(self, name: str, remark: str) -> None:
        self.beside.setdefault(name, []).append(remark)

    def warn(self, name: str, remark: str, shown: str = "") -> None:
        self.say(name, remark)
        self.warnings.append(shown or f"{name}: {remark}")


def propose(
    connection: Connection,
    table: TableLook,
    *,
    target: str,
    time: str | None = None,
    groups: Sequence[str] = (),
    where: str,
) -> Proposal:
    """Decide what every column is for.

    Raises:
        ConfigError: a column that was named is not there.
        DatasetError: nothing can be classified by this target, or the rows have no order in time.
    """
    for option, name in (("--target", target), ("--time", time), *(("--group", name) for name in groups)):
        if name is not None:
            _require_column(table, option, name, where)
    found = _Findings()
    chosen = table.find(target)
    assert chosen is not None
    kind, counts = _read_classes(connection, chosen, table.rows, where)
    _warn_of_classes(found, target, counts, table.rows)
    if table.rejected:
        found.warnings.append(
            f"{table.rejected:,} lines cannot be read; [etl] max_reject_fraction tolerates them: see rejects"
        )
    roles = {column.name: _find_role(table, column, target, time, groups, found) for column in table.columns}
    inputs = [c for c in table.columns if roles[c.name] == "input" and c.name != target]
    has_leak = _find_leaks(connection, inputs, chosen, found)
    columns = tuple(
        _declare(
            column,
            roles[column.name],
            kind if column is chosen else None,
            found,
            is_wide=len(table.columns) > _WIDE,
        )
        for column in table.columns
    )
    if not any(column.is_input and column.look.name != target for column in columns):
        raise DatasetError(
            "has no column to predict from: every other one is constant, empty or tells the rows apart",
            where=where,
        )
    split = _choose_split(table, time, groups, where)
    return Proposal(
        target=target,
        classes=tuple(ClassLabel(value=value, label=value) for value in counts),
        columns=columns,
        split=split,
        etl=_with_rejects(table),
        **_choose_training(table.rows, len(inputs), split, has_leak=has_leak),
        rows=table.rows,
        remarks=table.remarks,
        warnings=tuple(found.warnings),
    )


def _require_column(table: TableLook, option: str, name: str, where: str) -> None:
    names = [column.name for column in table.columns]
    if name in table.unreadable:
        raise ConfigError(f"names {name!r}: {table.unreadable[name]}", where=option)
    if name in names:
        return
    folded = {other.strip().casefold(): other for other in names}
    near = difflib.get_close_matches(name.strip().casefold(), folded, n=1)
    shown = ", ".join(map(repr, names))
    raise ConfigError(
        f"names no column of {where}: {name!r}",
        where=option,
        hint=f"Did you mean {folded[near[0]]!r}?" if near else f"It has {shown[:300]}.",
    )


def _read_classes(
    connection: Connection, target: ColumnLook, rows: int, where: str
) -> tuple[Literal["string", "integer"], dict[str, int]]:
    """The type of the target, and the rows of each class in the order of the probabilities."""
    place = f"{where}: target {target.name!r}"
    if target.nulls:
        raise DatasetError(
            f"is NULL in {target.nulls:,} of {rows:,} rows, and nothing can be learned from them",
            where=place,
            hint="Remove these rows from the file, or write into them what they are.",
        )
    if target.kind in ("date", "timestamp"):
        raise DatasetError(
            f"holds a {target.kind}, and a class is wanted",
            where=place,
            hint="Predict a column of few values each; a date can be cut into classes in the source.",
        )
    found = connection.execute(
        f"SELECT {target.cell}, count(*) FROM {CELLS} GROUP BY ALL ORDER BY ALL LIMIT {_MOST_CLASSES + 1}"
    ).fetchall()
    counts = dict(found)
    if len(counts) < 2:
        raise DatasetError(
            f"has the one value {next(iter(counts))!r}", where=place, hint="Is it the column to predict?"
        )
    _refuse_quantity(target, counts, rows, place)
    if target.kind == "integer" and all(re.fullmatch(r"0|-?[1-9][0-9]*", value) for value in counts):
        return "integer", {value: counts[value] for value in sorted(counts, key=int)}
    if target.kind == "number":
        return "string", {value: counts[value] for value in sorted(counts, key=_as_number)}
    return "string", counts


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text.replace(",", ".")), text
    except ValueError:
        return 0.0, text


def _refuse_quantity(target: ColumnLook, counts: dict[str, int], rows: int, place: str) -> None:
    rare = sum(count < _FEW_ROWS for count in counts.values())
    is_number = target.kind in ("number", "integer")
    hint = (
        "Regression is not supported: cut the quantity into classes in the source, such as low, middle and "
        "high, and predict that column."
    )
    if is_number and len(counts) > _MOST_WHOLE_CLASSES:
        many = f"more than {_MOST_CLASSES:,}" if len(counts) > _MOST_CLASSES else len(counts)
        raise DatasetError(
            f"has {many} different numbers, which are a quantity and no classes", where=place, hint=hint
        )
    if target.kind == "number" and any(_as_number(value)[0] % 1 for value in counts):
        raise DatasetError("has fractions, which are a quantity and no classes", where=place, hint=hint)
    if target.kind == "integer" and 2 * rare > len(counts):
        raise DatasetError(
            f"has fewer than {_FEW_ROWS} rows for {rare} of its {len(counts)} numbers, which look like a "
            "quantity and not like classes",
            where=place,
            hint=hint,
        )
    if len(counts) > _MOST_CLASSES or 3 * len(counts) > rows:
        many = f"more than {_MOST_CLASSES:,}" if len(counts) > _MOST_CLASSES else f"{len(counts):,}"
        raise DatasetError(
            f"has {many} different values in {rows:,} rows, too many for classes",
            where=place,
            hint="Is it the column to predict? If it is, join its values into fewer ones in the source.",
        )


def _warn_of_classes(found: _Findings, target: str, counts: dict[str, int], rows: int) -> None:
    rare = {value: count for value, count in counts.items() if count < _FEW_ROWS}
    if rare:
        shown = ", ".join(f"{value!r} ({count})" for value, count in list(rare.items())[:5])
        found.warn(target, f"classes of fewer than {_FEW_ROWS} rows can hardly be learned: {shown}")
    largest = max(counts.values())
    if largest > 0.95 * rows:
        found.warn(target, f"one class has {largest / rows:.1%} of the rows: look at recall, not at accuracy")


def _find_role(
    table: TableLook,
    column: ColumnLook,
    target: str,
    time: str | None,
    groups: Sequence[str],
    found: _Findings,
) -> Literal["input", "key", "ignored"]:
    if column.name in (target, time):
        return "input"
    if column.name in groups:
        found.say(column.name, "the rows of one value stay together in one split")
        return "key"
    reason = _why_ignored(table, column, found)
    if reason:
        found.say(column.name, reason)
        return "ignored"
    return "input"


def _why_ignored(table: TableLook, column: ColumnLook, found: _Findings) -> str:
    """Why a column describes no row; "" if it may."""
    if column.name in table.unreadable:
        reason = table.unreadable[column.name]
        if column.name:
            found.warnings.append(f"{column.name}: {reason}")
        return reason
    is_one = column.distinct == 1 and not column.nulls
    reasons = {
        "is empty in every row": not column.rows,
        "has the same value in every row": is_one,
        f"numbers the rows ({column.distinct:,} different values)": _is_running(table, column),
        **_text_reasons(column),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _text_reasons(column: ColumnLook) -> dict[str, bool]:
    share = column.distinct / max(column.rows, 1)
    is_text = column.kind == "string" and column.rows > _FEW_VALUES
    shown = f"({column.distinct:,} values in {column.rows:,} rows)"
    return {
        f"tells the rows apart {shown}": is_text and share >= _ALMOST_UNIQUE,
        f"is free text {shown}": is_text and share >= _OFTEN_UNIQUE and column.mean_length >= _LONG_TEXT,
    }


def _is_running(table: TableLook, column: ColumnLook) -> bool:
    """Whether all are different whole numbers, without gaps or called like those of rows."""
    if column.kind != "integer" or not column.distinct == column.rows == table.rows:
        return False
    assert column.low is not None
    assert column.high is not None
    return column.high - column.low + 1 == column.distinct or bool(_LIKE_AN_ID.search(_words(column.name)))


def _words(name: str) -> str:
    """``PassengerId`` → ``passenger_id``: the words of a name apart."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _find_leaks(
    connection: Connection, inputs: Sequence[ColumnLook], target: ColumnLook, found: _Findings
) -> bool:
    """Warn of each column that alone tells the class of rows that it was not looked up in; is there one?

    A fifth of the rows is asked: what is the most frequent class of the same value in the others, or of
    the next smaller number there? A column that is nearly always right knows the answer.
    """
    total, majority = fetch_row(
        connection,
        f"SELECT coalesce(sum(rows), 0), coalesce(max(rows), 0) FROM "
        f"(SELECT count(*) AS rows FROM {CELLS} WHERE {_IS_ASKED} GROUP BY {target.cell})",
    )
    if total < _LEAK_LEAST_ROWS:
        return False
    has_leak = False
    # At a threshold the neighbour of one row is on the other side.
    tolerated = max(_LEAK_ERRORS * total, total >= _LEAK_EDGE_ROWS)
    for column in inputs:
        wrong = total - _count_right(connection, column, target)
        if wrong <= min(tolerated, _LEAK_SHARE * (total - majority)):
            has_leak = True
            found.warn(
                column.name,
                f"alone predicts {target.name} in {1 - wrong / total:.1%} of held-out rows. Is it known "
                f"before {target.name} is? If not, it leaks the answer: ignore it",
            )
    return has_leak


def _count_right(connection: Connection, column: ColumnLook, target: ColumnLook) -> int:
    """The rows asked whose class the column alone tells."""
    value = f"coalesce(trim({column.cell}), '')"
    if column.kind in ("integer", "number"):
        value = f"coalesce(TRY_CAST(replace({column.cell}, ',', '.') AS DOUBLE), '-inf')"
    return int(
        fetch_row(
            connection,
            f"""
            WITH rows AS (
                SELECT {value} AS value, {target.cell} AS class, {_IS_ASKED} AS is_asked FROM {CELLS}
            ),
            asked AS (SELECT value, class FROM rows WHERE is_asked),
            known AS (
                SELECT value, mode(class ORDER BY class) AS class FROM rows WHERE NOT is_asked GROUP BY value
            )
            SELECT count(*) FILTER (known.class = asked.class)
            FROM asked ASOF JOIN known ON asked.value >= known.value
            """,
        )[0]
    )


def _declare(
    column: ColumnLook,
    role: Literal["input", "key", "ignored"],
    target_kind: Literal["string", "integer"] | None,
    found: _Findings,
    *,
    is_wide: bool,
) -> ColumnProposal:
    said = found.beside.get(column.name, [])
    if role == "ignored":
        return ColumnProposal(column, ColumnSection(type="string", role="ignored"), tuple(said))
    if target_kind is not None:
        return ColumnProposal(column, ColumnSection(type=target_kind), tuple(said))
    section = ColumnSection(type=column.kind, role=role, nullable=column.nulls > 0, format=column.format)
    hints = _hints(column, is_wide=is_wide) if role == "input" else ()
    return ColumnProposal(column, section, (*column.remarks, *hints, *said))


def _hints(column: ColumnLook, *, is_wide: bool) -> Iterator[str]:
    if (
        not is_wide
        and column.kind == "integer"
        and 2 < column.distinct <= _FEW_VALUES
        and column.low is not None
    ):
        yield f'{column.distinct} different numbers: if they are codes, type = "string" makes them categories'
    if column.kind == "string" and column.distinct > _MANY_CATEGORIES:
        yield f"{column.distinct:,} different values"
    if column.nulls and column.rows + column.nulls >= _FEW_VALUES and column.nulls > column.rows:
        yield f"NULL in {column.nulls / (column.rows + column.nulls):.0%} of the rows"


def _choose_split(table: TableLook, time: str | None, groups: Sequence[str], where: str) -> Split:
    if time is not None and groups:
        raise ConfigError(
            "--time and --group are given, and a split is by one of them", where="timberline init"
        )
    if groups:
        return HashSplit(key=tuple(groups))
    if time is None:
        return RandomSplit()
    column = table.find(time)
    assert column is not None
    if column.nulls:
        raise DatasetError(
            f"is NULL in {column.nulls:,} of {table.rows:,} rows, which have no place in time",
            where=f"{where}: --time {time!r}",
            hint="Give another column, or fill this one.",
        )
    if column.kind not in ("date", "timestamp", "integer", "number"):
        raise DatasetError(
            "is text: no way to write dates fits all of its values",
            where=f"{where}: --time {time!r}",
            hint="Correct the values that are no dates, or write them all in one way (2013-05-01).",
        )
    return TimeSplit(column=time)


def _choose_training(rows: int, inputs: int, split: Split, *, has_leak: bool) -> dict[str, Any]:
    """Sections that fit the number of rows: a small table needs a small network and more epochs."""
    test_rows = round(rows * getattr(split, "test", 0.2))
    if rows < 3000:
        network: dict[str, Any] = {"widths": [64, 64], "dropout": 0.2, "bins": 16}
        training: dict[str, Any] = {"epochs": 60, "weight_decay": 1e-3, "early_stopping_patience": 15}
    elif rows < 30_000:
        network = {"widths": [128, 128], "dropout": 0.2, "bins": 24}
        training = {"epochs": 30, "weight_decay": 1e-3, "early_stopping_patience": 6}
    else:
        network = {"widths": [256, 256], "dropout": 0.1}
        training = {"epochs": 30 if rows < 200_000 else 12, "early_stopping_patience": 4}
    if inputs > _MOST_EMBEDDED:
        # An embedding of every column takes a millisecond a row, and learns little from so many.
        network = {"kind": "mlp", "widths": network["widths"], "dropout": 0.3, "scaling": "standard"}
    # Twice the standard error of a share of one half, of which two versions on the same rows differ by less.
    drop = max(round(1.0 / max(test_rows, 1) ** 0.5, 3), 0.006)
    lines = [Line("max_accuracy_drop", drop, f"{test_rows:,} test rows cannot prove a smaller one")]
    is_time = isinstance(split, TimeSplit)
    if is_time or has_leak:
        why = (
            "what a simple model sees in the earliest rows may hold for the latest ones by chance"
            if is_time
            else "where one column tells the answer, looking it up is as good as any network"
        )
        lines.append(Line("baseline", "warn", f"or block; {why}"))
    return {"network": network, "training": training, "gate": tuple(lines)}


def _with_rejects(table: TableLook) -> EtlSection:
    if not table.rejected:
        return table.etl
    share = table.rejected / (table.rows + table.rejected)
    if share > 0.05:
        raise DatasetError(
            f"has {table.rejected:,} lines that cannot be read, of {table.rows + table.rejected:,}",
            where="the file",
            hint="Their number of cells differs from the others', or a quote is wrong: correct the file.",
        )
    return msgspec.structs.replace(
        table.etl, max_reject_fraction=min(1.0, float(f"{share * 1.2:.1g}") + 1e-6)
    )
