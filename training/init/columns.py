"""What every column of the table holds: its type, how it is written, and which words stand for nothing.

All is read as text first, every row of it; a type is proposed where every value has it. What a column is
for is decided in `training.init.proposal`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from timberline.registry.moments import DATE_TEXT, LARGEST_MOMENT, TIMESTAMP_TEXT
from timberline.registry.rows import quote
from timberline.registry.runs import ROW_COLUMN
from timberline.registry.signature import Thousands
from timberline.training.config import (
    ColumnKind,
    ColumnSection,
    CsvSource,
    EtlSection,
    ModelConfig,
    ModelSection,
    RandomSplit,
    TargetSection,
)
from timberline.training.data.database import Connection, fetch_aggregates, fetch_row, literal, literals
from timberline.training.data.hints import DAYS, TIMES
from timberline.training.data.ingest import RAW, read_source
from timberline.training.data.source_files import open_source_files
from timberline.training.errors import DatasetError
from timberline.training.init.form import Form

CELLS = "cells"  # the table of all cells as text, columns c0, c1, …

# Words for "no value". The first are that wherever they stand; the others only where they are what keeps a
# column from being numbers, dates or truth values.
_CLEAR_NULLS = ("NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "\\N")
_OTHER_NULLS = frozenset(
    {"n/a", "na", "none", "nil", "null", "nan", "-nan", "?", "-", "--", ".", "*", "missing", "unknown", "\\n"}
)
_LONGEST_NULL = 12
_PAIRS = (("true", "false"), ("yes", "no"), ("t", "f"), ("y", "n"), ("on", "off"))
# The words that DuckDB itself takes for truth values.
_OWN_WORDS = frozenset({"true", "false", "t", "f"})
# What may be a number, however it is written.
_LOOSE_NUMBER = r"[+-]?[0-9][0-9., '_]*[0-9]([eE][+-]?[0-9]+)?|[+-]?[0-9.,]+"
_EXPONENT = "([eE][+-]?[0-9]+)?"
_COMPACT_DAY = "(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|[12][0-9]|3[01])"
_NAMED_LIKE_A_DATE = re.compile(r"date|day|time|dt", re.IGNORECASE)
_SWAPPED = str.maketrans({"m": "d", "d": "m"})
_LONGEST_WHOLE = 18  # digits that 64 bits hold, whatever they are
_CODES = re.compile(r"zip|postal|postcode|fips", re.IGNORECASE)
_SAMPLE = 200
# Whole numbers with a decimal mark, of so few values, are said to be whole.
_FEW = 20


class _Marks(NamedTuple):
    """How numbers are written."""

    decimal: Literal[".", ","] = "."
    thousands: Thousands = ""

    @property
    def pattern(self) -> str:
        """What the whole of a number matches."""
        point = re.escape(self.decimal)
        plain = rf"([0-9]+{point}?[0-9]*|{point}[0-9]+)"
        if not self.thousands:
            return rf"[+-]?{plain}{_EXPONENT}"
        grouped = rf"[1-9][0-9]{{0,2}}({re.escape(self.thousands)}[0-9]{{3}})+({point}[0-9]*)?"
        return rf"[+-]?({grouped}|{plain}{_EXPONENT})"


# The first that fits the most columns is the table's.
_MARKS = (
    _Marks(),
    _Marks(".", ","),
    _Marks(",", ""),
    _Marks(",", "."),
    _Marks(".", " "),
    _Marks(",", " "),
    _Marks(".", "'"),
    _Marks(".", "_"),
)


@dataclass(frozen=True)
class ColumnLook:
    """One column: ``name`` in the file, ``cell`` in `CELLS`.

    ``rows`` have a value, of which ``distinct`` differ. ``low`` and ``high`` are numbers (of a date, its
    days; of a timestamp, its microseconds). ``words``: the spellings of true and of false.
    """

    name: str
    cell: str
    kind: ColumnKind
    rows: int
    nulls: int
    distinct: int
    format: str | None = None
    low: float | None = None
    high: float | None = None
    mean_length: float = 0.0
    words: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableLook:
    """The table: its rows in `CELLS`, its columns, and ``etl`` with the words and marks that they need.

    ``unreadable``: the columns that can only be read past, and why.
    """

    rows: int
    rejected: int
    columns: tuple[ColumnLook, ...]
    unreadable: dict[str, str]
    etl: EtlSection
    remarks: tuple[str, ...] = ()

    def find(self, name: str) -> ColumnLook | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True)
class _Cells:
    """The distinct values of one column, with their blanks, and how many rows have each."""

    name: str
    cell: str
    rest: str  # SQL: what is neither empty nor a word for nothing, without blanks around it
    nulls: frozenset[str]  # words for nothing, as written, that stand in it


def look_at_table(connection: Connection, form: Form, target: str, file: Path, scratch: Path) -> TableLook:
    """Read the whole table into `CELLS`, as the ETL reads it, and look at every column of it.

    Args:
        file: the table, and ``form`` how it is written.
        scratch: a folder for what has to be written anew.
        target: whose values stay as they are written, unless they are whole numbers.

    Raises:
        DatasetError: no row of it can be read, or too many lines cannot.
    """
    known, types, rejected = _read_cells(connection, form, file, scratch, target)
    rows = fetch_row(connection, f"SELECT count(*) FROM {CELLS}")[0]
    if not rows:
        raise DatasetError("has no row below its header", where=file.name)
    cells = _find_nulls(connection, known)
    marks, remarks = (_Marks(), ()) if form.is_parquet else _find_marks(connection, cells, form.etl)
    columns: list[ColumnLook] = []
    adopted: set[str] = set()
    wanted = [_aggregates(cell.rest, marks) for cell in cells]
    for cell, found in zip(cells, fetch_aggregates(connection, wanted, CELLS), strict=True):
        looked, words = _look(connection, cell, found, marks, types[cell.name], is_target=cell.name == target)
        columns.append(looked)
        adopted |= words
    etl = msgspec.structs.replace(
        form.etl,
        decimal=marks.decimal,
        thousands=marks.thousands,
        null_text=_list_nulls(cells, adopted, form.etl.delimiter),
        true_text=_list_words(columns, 0),
        false_text=_list_words(columns, 1),
    )
    if all(word.casefold() in _OWN_WORDS for word in (*etl.true_text, *etl.false_text)):
        etl = msgspec.structs.replace(etl, true_text=(), false_text=())
    looked_at = {column.name: column for column in _count_nulls(connection, cells, columns, etl.null_text)}
    names = form.names or tuple(types)
    return TableLook(
        rows=rows,
        rejected=rejected,
        columns=tuple(
            looked_at.get(name) or ColumnLook(name, "NULL", "string", 0, rows, 0)
            for name in dict.fromkeys(names)
        ),
        unreadable=find_unreadable(names, target),
        etl=etl,
        remarks=(*form.remarks, *remarks),
    )


def _read_cells(
    connection: Connection, form: Form, file: Path, scratch: Path, target: str
) -> tuple[dict[str, str], dict[str, str], int]:
    """Fill `CELLS` with the columns that can be kept, in the order of the file.

    Returns:
        The column of `CELLS` of each name; DuckDB's type of each (of CSV's, ""); the lines not read.
    """
    if form.is_parquet:
        # DuckDB would take `[1]`, `*` and `?` in a name for a pattern.
        path = literal(re.sub(r"[*?\[]", r"[\g<0>]", str(form.path)))
        source = f"read_parquet({path}, hive_partitioning=false)"
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        types = {name: type_ for name, type_, *_ in described}
        connection.execute(
            f"CREATE VIEW {RAW} AS SELECT *, row_number() OVER () - 1 AS __row__ FROM {source}"
        )
    else:
        types = dict.fromkeys(form.names, "")
        config = _text_config(form, target)
        sources = open_source_files(config, [file], scratch / "sources")
        read_source(connection, config, sources)
    unreadable = find_unreadable(form.names or list(types), target)
    cells = {name: f"c{number}" for number, name in enumerate(types) if name not in unreadable}
    items = ", ".join(f"CAST({quote(name)} AS VARCHAR) AS {cell}" for name, cell in cells.items())
    kind = "TABLE" if form.is_parquet else "VIEW"
    connection.execute(f"CREATE {kind} {CELLS} AS SELECT {ROW_COLUMN}, {items} FROM {RAW}")
    rejected = 0
    if not form.is_parquet:
        rejected = fetch_row(connection, "SELECT count(DISTINCT line) FROM reject_errors")[0]
    return cells, types, rejected


def _text_config(form: Form, target: str) -> ModelConfig:
    """A model of which the ETL reads every column as text, but for those that it cannot keep."""
    unreadable = find_unreadable(form.names, target)
    return ModelConfig(
        model=ModelSection(name="init"),
        source=CsvSource(path=""),
        columns={
            name: ColumnSection(type="string", role="ignored" if name in unreadable else "input")
            for name in form.names
        },
        target=TargetSection(column=target),
        split=RandomSplit(),
        etl=form.etl,
    )


def find_unreadable(names: Sequence[str], target: str) -> dict[str, str]:
    """The columns that can only be read past, and why."""
    reasons: dict[str, str] = {}
    known = {target.casefold(): target}
    for name in names:
        if not name:
            reasons[name] = "has no name"
        elif names.count(name) > 1:
            reasons[name] = "several columns are called so; rename them to use them"
        elif name.startswith("__") and name.endswith("__"):
            reasons[name] = "has a name of the ETL's own columns; rename it to use it"
        elif (twin := known.setdefault(name.casefold(), name)) != name:
            reasons[name] = f"differs from {twin!r} by case only; rename it to use it"
    return reasons


def _find_nulls(connection: Connection, known: Mapping[str, str]) -> list[_Cells]:
    """The columns with the words for nothing in each."""
    words = literals(sorted(_OTHER_NULLS | {word.casefold() for word in _CLEAR_NULLS}))
    wanted = [
        (
            f"list(DISTINCT {cell}) FILTER (length({cell}) < {_LONGEST_NULL} "
            f"AND lower(trim({cell})) IN {words} OR trim({cell}) = '')",
        )
        for cell in known.values()
    ]
    cells = []
    for (name, cell), (found,) in zip(
        known.items(), fetch_aggregates(connection, wanted, CELLS), strict=True
    ):
        rest = f"trim({cell})"
        if found:
            rest = f"CASE WHEN {cell} NOT IN {literals(sorted(found))} THEN {rest} END"
        cells.append(_Cells(name, cell, rest, frozenset(found or ())))
    return cells


def _find_marks(
    connection: Connection, cells: Sequence[_Cells], etl: EtlSection
) -> tuple[_Marks, tuple[str, ...]]:
    """The decimal mark and the thousands separator that make the most columns numbers, and a doubt."""
    usual, *_ = _MARKS
    wanted = [(_fits(cell.rest, usual.pattern), _fits(cell.rest, _LOOSE_NUMBER)) for cell in cells]
    if not any(loose and not fits for fits, loose in fetch_aggregates(connection, wanted, CELLS)):
        return usual, ()
    counts = {}
    for marks in _MARKS:
        wanted_one = [(_fits(cell.rest, marks.pattern),) for cell in cells]
        counts[marks] = sum(fits is True for (fits,) in fetch_aggregates(connection, wanted_one, CELLS))
    best = max(_MARKS, key=lambda marks: counts[marks])
    if best == _Marks(".", ",") and counts[_Marks(",", "")] == counts[best]:
        # Where commas do not part the cells they more often are decimal marks.
        chosen = _Marks(",", "") if etl.delimiter == ";" else best
        return chosen, ("every comma stands before three digits: 1,234 may be meant as 1234 or as 1.234",)
    return best, ()


def _fits(value: str, pattern: str) -> str:
    """SQL: whether all values match; NULL when there are none."""
    return f"bool_and(regexp_full_match({value}, {literal(pattern)}))"


def _aggregates(rest: str, marks: _Marks) -> tuple[str, ...]:
    """What is asked of every column: see `_look`."""
    value = _number_sql(rest, marks)
    return (
        f"count({rest})",
        f"count(DISTINCT {rest})",
        f"avg(length({rest}))",
        _fits(rest, rf"[+-]?[0-9]{{1,{_LONGEST_WHOLE}}}"),
        _fits(rest, marks.pattern),
        f"count_if(regexp_full_match({rest}, '[+-]?0[0-9]+'))",
        _fits(rest, "[+-]?[0-9]+"),
        f"min({value})",
        f"max({value})",
        f"bool_and({value} = trunc({value}))",
    )


def _look(
    connection: Connection,
    cell: _Cells,
    found: tuple[Any, ...],
    marks: _Marks,
    type_: str,
    *,
    is_target: bool,
) -> tuple[ColumnLook, frozenset[str]]:
    """The column; and its words for nothing, if its type depends on them."""
    rest = cell.rest
    rows, distinct, length, _, numeric, *_ = found
    look = ColumnLook(cell.name, cell.cell, "string", rows, 0, distinct, mean_length=length or 0.0)
    # A value may read "?" or "none" and be one; NA and its like are none.
    clear = frozenset(word for word in cell.nulls if word.strip() in ("", *_CLEAR_NULLS))
    if not rows:
        return look, clear
    if type_:
        return _look_parquet(connection, look, rest, type_), cell.nulls
    if numeric:
        return _look_at_numbers(connection, look, rest, found), cell.nulls
    if not is_target and (words := _find_words(connection, rest)):
        return replace(look, kind="boolean", words=words), cell.nulls
    if (moment := _find_moment(connection, rest)) is not None:
        return replace(look, **moment), cell.nulls
    return replace(look, remarks=tuple(_find_signs(connection, rest, marks.pattern))), clear


def _find_signs(connection: Connection, rest: str, number: str) -> Iterator[str]:
    """A remark on numbers that a currency or a per cent sign makes text."""
    signed, percent = rf"[+-]?[$€£¥] ?{number}", rf"{number} ?%"
    for pattern, sign in ((signed, "a currency sign"), (percent, "a per cent sign")):
        if fetch_row(connection, f"SELECT {_fits(rest, pattern)} FROM {CELLS}")[0]:
            yield f"numbers with {sign}: they are text until the file has them without"


def _look_parquet(connection: Connection, look: ColumnLook, rest: str, type_: str) -> ColumnLook:
    base = type_.partition("(")[0]
    if base == "BOOLEAN":
        return replace(look, kind="boolean")
    if base == "DATE":
        return _with_days(connection, look, rest, "date", None)
    if base in ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S"):
        return _with_days(connection, look, rest, "timestamp", None)
    if base in ("FLOAT", "DOUBLE", "DECIMAL"):
        kind: ColumnKind = "number"
    elif base.endswith("INT") or base == "INTEGER":
        kind = "integer"
    else:
        return look
    low, high = fetch_row(
        connection,
        f"SELECT min(TRY_CAST({rest} AS DOUBLE)), max(TRY_CAST({rest} AS DOUBLE)) FROM {CELLS}",
    )
    return replace(look, kind=kind, low=low, high=high)


def _look_at_numbers(
    connection: Connection, look: ColumnLook, rest: str, found: tuple[Any, ...]
) -> ColumnLook:
    *_, is_whole, _, padded, is_digits, low, high, is_integral = found
    if is_whole and padded:
        return replace(look, remarks=("digits with leading zeros are a code, so text",))
    if is_whole and _CODES.search(look.name) and look.distinct > _FEW:
        return replace(look, remarks=("by its name a code and no quantity, so text",))
    if not is_whole and is_digits:
        return replace(look, remarks=("whole numbers beyond 64 bits, so text",))
    if is_whole and _NAMED_LIKE_A_DATE.search(look.name) and look.distinct > 1:
        fits, parses = fetch_row(
            connection,
            f"SELECT {_fits(rest, _COMPACT_DAY)}, "
            f"bool_and(try_strptime({rest}, '%Y%m%d') IS NOT NULL) FILTER ({rest} IS NOT NULL) FROM {CELLS}",
        )
        if fits and parses:
            return _with_days(connection, look, rest, "date", "%Y%m%d")
    remarks: tuple[str, ...] = ()
    if is_whole and max(abs(low), abs(high)) >= 2**53:
        return replace(look, remarks=("whole numbers beyond ±(2^53 - 1), so text",))
    if not is_whole and is_integral and look.distinct <= _FEW:
        remarks = ("whole numbers, written with a decimal mark",)
    return replace(look, kind="integer" if is_whole else "number", low=low, high=high, remarks=remarks)


def _number_sql(rest: str, marks: _Marks) -> str:
    """The number that the text is."""
    text = f"replace({rest}, {literal(marks.thousands)}, '')" if marks.thousands else rest
    return f"TRY_CAST(replace({text}, {literal(marks.decimal)}, '.') AS DOUBLE)"


def _find_words(connection: Connection, rest: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The spellings of true and false, if the column has both and nothing else."""
    found = [
        word
        for (word,) in connection.execute(
            f"SELECT DISTINCT {rest} AS word FROM {CELLS} WHERE {rest} IS NOT NULL ORDER BY word LIMIT 7"
        ).fetchall()
    ]
    for true, false in _PAIRS:
        yes = tuple(word for word in found if word.casefold() == true)
        no = tuple(word for word in found if word.casefold() == false)
        if yes and no and len(yes) + len(no) == len(found):
            return yes, no
    return None


def _find_moment(connection: Connection, rest: str) -> dict[str, Any] | None:
    """Type, format and range of a column of dates or times, by the first way to write them that fits all."""
    sample = [
        value
        for (value,) in connection.execute(
            f"SELECT DISTINCT {rest} AS value FROM {CELLS} WHERE {rest} IS NOT NULL "
            f"ORDER BY value LIMIT {_SAMPLE}"
        ).fetchall()
    ]
    if not all(re.search(r"\d", value) and 6 <= len(value) <= 40 for value in sample):
        return None
    is_iso_date, is_iso_time = fetch_row(
        connection,
        f"SELECT {_fits(rest, DATE_TEXT)}, {_fits(rest, TIMESTAMP_TEXT)} FROM {CELLS}",
    )
    if is_iso_date and (found := _range(connection, rest, "date", None)):
        return found
    if is_iso_time and (found := _range(connection, rest, "timestamp", None)):
        return found
    formats = [(day + time, "timestamp" if time else "date") for time in TIMES for day in DAYS]
    fitting = [(way, kind) for way, kind in formats if _parses(connection, sample, way)]
    fitting = [(way, kind) for way, kind in fitting if _range(connection, rest, kind, way) is not None]
    if not fitting:
        return None
    chosen, kind = fitting[0]
    found = _range(connection, rest, kind, chosen)
    assert found is not None
    twins = [way for way, _ in fitting[1:] if way == chosen.translate(_SWAPPED)]
    if twins:
        remark = f"day and month may be the other way round: {twins[0]} fits every value too"
        found["remarks"] = (remark,)
    return found


def _parses(connection: Connection, sample: Sequence[str], way: str) -> bool:
    values = ", ".join(f"({literal(value)})" for value in sample)
    return bool(
        fetch_row(
            connection,
            f"SELECT bool_and(try_strptime(value, {literal(way)}) IS NOT NULL) "
            f"FROM (VALUES {values}) AS v(value)",
        )[0]
    )


def _range(connection: Connection, rest: str, kind: Any, way: str | None) -> dict[str, Any] | None:
    """None unless every value is a moment that is so written."""
    moment = _moment_sql(rest, kind, way)
    rows, known, low, high = fetch_row(
        connection, f"SELECT count({rest}), count({moment}), min({moment}), max({moment}) FROM {CELLS}"
    )
    if known < rows or not rows or max(abs(low), abs(high)) > LARGEST_MOMENT:
        return None
    return {"kind": kind, "format": way, "low": low, "high": high}


def _moment_sql(rest: str, kind: str, way: str | None) -> str:
    """Days or microseconds since 1970 as SQL; NULL where it cannot be read."""
    if way is not None:
        moment = f"try_strptime({rest}, {literal(way)})"
    else:
        moment = f"TRY_CAST(regexp_replace({rest}, 'Z$', '+00') AS TIMESTAMP)"
    return f"epoch_us({moment})" if kind == "timestamp" else f"epoch_us({moment}) // 86400000000"


def _with_days(connection: Connection, look: ColumnLook, rest: str, kind: Any, way: str | None) -> ColumnLook:
    return replace(look, **(_range(connection, rest, kind, way) or {}))


def _list_nulls(cells: Iterable[_Cells], adopted: set[str], delimiter: str) -> tuple[str, ...]:
    words = {word for word in adopted if delimiter not in word and '"' not in word}
    return ("", *sorted(words - {""}))


def _list_words(columns: Iterable[ColumnLook], which: int) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for column in columns for word in column.words[which]))


def _count_nulls(
    connection: Connection, cells: Sequence[_Cells], columns: Sequence[ColumnLook], words: Sequence[str]
) -> list[ColumnLook]:
    """The columns with what they hold once ``words`` are NULL; and which of them a text column loses."""
    values = [
        f"CASE WHEN {column.cell} NOT IN {literals(words)} THEN {column.cell} END" for column in columns
    ]
    wanted = [(f"count({value})", f"count(DISTINCT {value})", "count(*)") for value in values]
    counted = []
    for cell, column, (rows, distinct, total) in zip(
        cells, columns, fetch_aggregates(connection, wanted, CELLS), strict=True
    ):
        lost = sorted(word for word in cell.nulls & frozenset(words) if word.strip())
        remarks = column.remarks
        if lost and column.kind == "string":
            remarks = (*remarks, f"{', '.join(map(repr, lost))} is taken for NULL; is it a value here?")
        counted.append(replace(column, rows=rows, distinct=distinct, nulls=total - rows, remarks=remarks))
    return counted
