"""Which setting of model.toml would have read what was refused, in words that can be copied into it."""

from __future__ import annotations

import collections
import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from timberline.registry.moments import parse_moment
from timberline.registry.signature import Moment
from timberline.training.config import MOMENTS, ColumnSection, EtlSection, ModelConfig
from timberline.training.data.source_files import ENCODING_HINT, SourceFile

NOT_UTF_8 = "is not UTF-8 text"
# Those that a header is looked through for when it lacks a column.
_DELIMITERS = (",", ";", "\t", "|", "||", "::", " ")
# Lines among which the names of the columns may stand.
_LOOKED_AT_LINES = 100
_REFUSED_TEXT = re.compile(r'"(.*)" (?:is|has|names) ', re.DOTALL)
_NULL_WORDS = frozenset(("na", "n/a", "#n/a", "nan", "null", "none", "nil", "?", "-", "--", ".", "missing"))
_SHARE = 0.9
# How people write a day, and a time behind it; where two fit, the first.
DAYS = (
    *("%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%d-%m-%Y", "%m-%d-%Y"),
    *("%Y/%m/%d", "%Y.%m.%d", "%Y-%m-%d", "%Y%m%d", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y"),
    *("%d %B %Y", "%B %d, %Y", "%a %b %d %Y"),
)
TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", " %H%M%S", "T%H%M%S")
# A year of four digits and of two are told apart by it: 13 is a year too.
_YEAR_1000 = parse_moment("1000-01-01", "date")


def hint_missing_column(config: ModelConfig, source: SourceFile, name: str) -> str:
    """What to change where no column of the file is called ``name``."""
    folded = {other.strip().casefold(): other for other in source.header}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return _hint_header(config, source) or (
        f"Is it {folded[near[0]]!r}? Correct [columns]." if near else "Correct [columns]."
    )


def hint_undeclared_column(config: ModelConfig, source: SourceFile, name: str) -> str:
    """What to change where the column ``name`` of the file is not declared."""
    is_bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    key = name if is_bare else _toml(name)
    return (
        _hint_header(config, source)
        or f'Declare it, or read past it: {key} = {{ type = "string", role = "ignored" }}.'
    )


def hint_refused_cells(config: ModelConfig, refused: Iterable[tuple[str, str]]) -> str:
    """What would have read some of the cells, with a blank behind; "" if nothing is known that would.

    ``refused``: column ("" where the row is at fault) and reason, as table ``rejects`` has them.
    """
    texts: dict[str, list[str]] = collections.defaultdict(list)
    for column, reason in refused:
        if reason == NOT_UTF_8:
            return f"{ENCODING_HINT} "
        if column in config.columns and (found := _REFUSED_TEXT.match(reason)):
            texts[column].append(found[1])
    hints = [_hint_cells(config, config.columns[column], found) for column, found in texts.items()]
    return "".join(f"{hint} " for hint in dict.fromkeys(hints) if hint)


def hint_format(moment: Moment, texts: Sequence[str]) -> str:
    """What would read the texts as dates or timestamps; "" if nothing is known that would."""
    if moment == "date" and _reads(texts, "timestamp", None):
        return 'A time of day is part of a timestamp: declare the column as type = "timestamp".'
    for kind in dict.fromkeys((moment, "timestamp")):
        times = ("",) if kind == "date" else TIMES
        fitting = [day + time for day in DAYS for time in times if _reads(texts, kind, day + time)]
        if fitting:
            shown = " or ".join(f'format = "{time_format}"' for time_format in fitting[:2])
            declared = "" if kind == moment else f'type = "{kind}" and '
            return f"Say how it is written: {declared}{shown} in its column."
    return ""


def _hint_header(config: ModelConfig, source: SourceFile) -> str:
    """Where the names of the columns are to be found, if they are; "" if not."""
    if source.is_parquet or not config.etl.header:
        return ""
    declared = set(config.columns)
    line = config.etl.delimiter.join(source.header)
    found = {
        delimiter: len(set(line.split(delimiter)) & declared)
        for delimiter in (config.etl.delimiter, *_DELIMITERS)
    }
    best = max(found, key=lambda delimiter: found[delimiter])
    if found[best] > found[config.etl.delimiter]:
        return f"Its delimiter is another one: set [etl] delimiter = {_toml(best)}."
    if found[best]:
        return ""
    for number, cells in _first_lines(config, source):
        if len(declared.intersection(cells)) > len(declared) / 2:
            return f"The names stand in line {number}: set [etl] skip_lines = {number - 1}."
    if len(source.header) == len(declared):
        return "If no line has the names, set [etl] header = false."
    return ""


def _first_lines(config: ModelConfig, source: SourceFile) -> Iterator[tuple[int, Sequence[str]]]:
    with source.path.open("rb") as file:
        for number, line in zip(range(1, _LOOKED_AT_LINES + 1), file, strict=False):
            cells = line.decode("utf-8", "replace").strip("\r\n").split(config.etl.delimiter)
            yield number, [cell.strip(' "') for cell in cells]


def _hint_cells(config: ModelConfig, column: ColumnSection, texts: Sequence[str]) -> str:
    nulls = [text for text in texts if text.strip().casefold() in _NULL_WORDS]
    if len(nulls) >= _SHARE * len(texts):
        words = ", ".join(map(_toml, dict.fromkeys((*config.etl.null_text, *nulls[:3]))))
        return f"What stands for no value belongs to [etl] null_text = [{words}] (and nullable = true)."
    if column.type == "boolean":
        return _hint_words(config.etl, texts)
    if column.type in ("integer", "number"):
        return _hint_number(config.etl, texts)
    return hint_format(MOMENTS[column.type], texts) if column.type in MOMENTS else ""


def _hint_words(etl: EtlSection, texts: Sequence[str]) -> str:
    found = ", ".join(map(_toml, texts[:4]))
    if etl.true_text:
        return f"Neither etl.true_text nor etl.false_text has {found}: add each to one of them."
    words = 'true_text = ["Yes"] and false_text = ["No"]'
    return f"Name all words of boolean columns, as {words} in [etl]; found {found}."


def _hint_number(etl: EtlSection, texts: Sequence[str]) -> str:
    other = "," if etl.decimal == "." else "."
    for decimal in (etl.decimal, other):
        for thousands in (",", ".", " ", "'", "_"):
            grouped = rf"[+-]?[1-9]\d{{0,2}}(?:[{thousands}]\d{{3}})+(?:[{decimal}]\d*)?"
            if thousands == decimal or not any(re.fullmatch(grouped, text.strip()) for text in texts):
                continue
            if _most(texts, rf"{grouped}|[+-]?\d*(?:[{decimal}]\d*)?"):
                setting = f" and decimal = {_toml(decimal)}" if decimal != etl.decimal else ""
                return f"Digits are in groups of three: set [etl] thousands = {_toml(thousands)}{setting}."
    if etl.thousands != other and any(
        re.fullmatch(rf"[+-]?\d*[{other}]\d+([eE][+-]?\d+)?", text.strip()) for text in texts
    ):
        return f'Numbers are written with "{other}": set [etl] decimal = "{other}".'
    return ""


def _most(texts: Sequence[str], pattern: str) -> bool:
    return sum(bool(re.fullmatch(pattern, text.strip())) for text in texts) >= _SHARE * len(texts)


def _reads(texts: Sequence[str], moment: Moment, time_format: str | None) -> bool:
    return sum(_is_moment(text, moment, time_format) for text in texts) >= _SHARE * len(texts)


def _is_moment(text: str, moment: Moment, time_format: str | None) -> bool:
    try:
        value = parse_moment(text, moment, time_format)
    except ValueError:
        return False
    return moment == "timestamp" or value >= _YEAR_1000


def _toml(text: str) -> str:
    return msgspec.json.encode(text).decode()
