"""The language of features.sql: its closed set of operators, and its text with the place of every error.

The docs quote the table of operators. Where DuckDB's own choice would be an error at run
time or would differ between a table and a graph, the meaning is fixed here, and `program` writes SQL
that has it:

- NULL and NaN are one value, NULL. Division by zero gives infinity (0/0: NULL), as in DuckDB 2.
- ``-0`` is ``0`` where its sign would show: in a divisor, the base of a power, atan2.
- ``//`` and ``%`` by zero give NULL (DuckDB: an error for whole numbers).
- Numbers are computed in DOUBLE, decimals like ``0.1`` too (DuckDB: DECIMAL). Whole numbers do
  not overflow; they are exact up to 2**53.
- CAST to BIGINT rounds half to even, as DuckDB does from DOUBLE; out-of-range is not checked.
- Anything beyond the range of FLOAT becomes infinite in the final cast (DuckDB: an error).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, SqlglotError

from timberline.training.errors import FeatureError

# operator → (how it is written, what it means)
OPERATORS: dict[str, tuple[str, str]] = {
    "add": ("a + b", "sum"),
    "sub": ("a - b", "difference"),
    "mul": ("a * b", "product"),
    "div": ("a / b", "quotient, never whole-number division; x/0 is ±infinity, 0/0 is NULL"),
    "intdiv": ("a // b", "whole numbers only: quotient cut towards zero; NULL when b is 0"),
    "mod": ("a % b, mod(a, b)", "remainder with the sign of a; NULL when b is 0 or a is infinite"),
    "neg": ("-a", "negation; binds tighter than ^, as in DuckDB: -2^2 is 4"),
    "abs": ("abs(a)", "magnitude"),
    "sign": ("sign(a)", "-1, 0 or 1"),
    "sqrt": ("sqrt(a)", "square root; NULL below 0"),
    "cbrt": ("cbrt(a)", "cube root"),
    "exp": ("exp(a)", "e to the power of a"),
    "ln": ("ln(a), log(a), log10(a), log2(a), log(base, a)", "logarithm; -infinity at 0, NULL below"),
    "pow": ("a ^ b, a ** b, pow(a, b), power(a, b)", "power; NULL for a root of a negative number"),
    "sin": ("sin(a)", "sine of radians; NULL at infinity"),
    "cos": ("cos(a)", "cosine of radians; NULL at infinity"),
    "tan": ("tan(a)", "sin(a) / cos(a)"),
    "asin": ("asin(a)", "arc sine; NULL outside [-1, 1]"),
    "acos": ("acos(a)", "arc cosine; NULL outside [-1, 1]"),
    "atan": ("atan(a)", "arc tangent"),
    "atan2": ("atan2(y, x)", "angle of the point (x, y); the sign of a zero is ignored"),
    "bit_and": ("a & b", "bits of whole numbers that both have; NULL beyond ±2^53"),
    "bit_or": ("a | b", "bits that one has; NULL beyond ±2^53"),
    "bit_xor": ("xor(a, b)", "bits that one alone has; NULL beyond ±2^53"),
    "floor": ("floor(a)", "largest whole number not above a"),
    "ceil": ("ceil(a), ceiling(a)", "smallest whole number not below a"),
    "trunc": ("trunc(a)", "a cut towards zero"),
    "round": ("round(a), round(a, digits)", "half away from zero; digits a whole constant"),
    "greatest": ("greatest(a, b, ...)", "largest that is not NULL"),
    "least": ("least(a, b, ...)", "smallest that is not NULL"),
    "eq": (
        "a = b, a IN (...), CASE a WHEN b",
        "equal; what is cut from text, as lower does, with a constant only",
    ),
    "ne": ("a <> b, a != b", "not equal; of text as ="),
    "lt": ("a < b", "numbers only"),
    "le": ("a <= b, a BETWEEN b AND c", "numbers only"),
    "gt": ("a > b", "numbers only"),
    "ge": ("a >= b", "numbers only"),
    "and": ("a AND b", "three-valued"),
    "or": ("a OR b", "three-valued"),
    "not": ("NOT a", "three-valued"),
    "is_null": ("a IS NULL, a IS NOT NULL", "never NULL itself"),
    "case": ("CASE ... END, if(c, a, b), nullif(a, b)", "first branch that is true; NULL without ELSE"),
    "coalesce": ("coalesce(a, b, ...), ifnull(a, b)", "first that is not NULL"),
    "year": ("year(d)", "proleptic Gregorian, as ISO 8601; 1 BC is 0"),
    "quarter": ("quarter(d)", "1 to 4"),
    "month": ("month(d)", "1 to 12"),
    "day": ("day(d), dayofmonth(d)", "1 to 31"),
    "dayofyear": ("dayofyear(d)", "1 to 366"),
    "dayofweek": ("dayofweek(d), weekday(d)", "0 (Sunday) to 6"),
    "isodow": ("isodow(d)", "1 (Monday) to 7"),
    "week": ("week(d), weekofyear(d)", "of ISO 8601, 1 to 53"),
    "isoyear": ("isoyear(d)", "the year that the ISO week is of"),
    "hour": ("hour(ts)", "0 to 23; 0 of a date"),
    "minute": ("minute(ts)", "0 to 59; 0 of a date"),
    "second": ("second(ts)", "0 to 59, cut to whole seconds; 0 of a date"),
    "epoch": ("epoch(d)", "seconds since 1970-01-01, with a fraction"),
    "date_trunc": (
        "date_trunc('unit', d)",
        "the start of its year, quarter, month, week (Monday), day, hour, minute or second, a TIMESTAMP",
    ),
    "date_diff": (
        "date_diff('unit', a, b), d2 - d1",
        "how many starts of such a unit lie between; weeks are whole sevens of days; DATE - DATE is days",
    ),
    "last_day": ("last_day(d)", "the last DATE of its month"),
    "date_add": ("d + n, d - n", "DATE and whole days; NULL beyond 99,999,999 days from 1970-01-01"),
    "to_date": ("CAST(ts AS DATE)", "the day, in UTC"),
    "to_timestamp": ("CAST(d AS TIMESTAMP)", "its first microsecond"),
    "to_double": ("CAST(a AS DOUBLE)", "a boolean becomes 0 or 1"),
    "to_bigint": ("CAST(a AS BIGINT), CAST(a AS INTEGER)", "half to even; a boolean becomes 0 or 1"),
    "to_float": ("CAST(a AS FLOAT)", "rounded to 32 bits; infinite beyond their range"),
    "lookup": (
        "map {'a': 1, 'b': 2}[x], map(['a'], [1])[x], [10, 20][i], list_extract([10, 20], i)",
        "constant of a key, or of a place from 1 on (negative: from the end); NULL where there is none",
    ),
    "lower": (
        "lower(x), lcase(x)",
        "small letters, one for one; to be compared with constants, or a category",
    ),
    "upper": ("upper(x), ucase(x)", "capital letters, one for one, as lower"),
    "trim": (
        "trim(x)",
        "without the blanks at both ends: spaces, and no tabs; compared or a category, as lower",
    ),
    "ltrim": ("ltrim(x)", "without the blanks in front"),
    "rtrim": ("rtrim(x)", "without the blanks at the end"),
    "left": (
        "left(x, 3), substr(x, 1, 3)",
        "the first characters, a constant number; compared or a category, as lower",
    ),
    "right": ("right(x, 3)", "the last characters, as left"),
    "split_part": (
        "split_part(x, ',', 2)",
        "a part, from 1 on (negative: from the end), of text split at one character; '' where there is none",
    ),
    "concat": (
        "x || ' ' || y, concat(x, y)",
        "joined text; with || NULL where one is, which concat passes over",
    ),
    "length": ("length(x), len(x)", "number of characters; 255 of longer texts"),
    "like": (
        "x LIKE 'a%', x NOT LIKE '_b', starts_with(x, 'a'), ends_with(x, 'b'), contains(x, 'c')",
        "% is any text, _ one character; the pattern is a constant",
    ),
    "ilike": ("x ILIKE 'a%'", "LIKE of lower(x)"),
    "regexp_full_match": (
        "regexp_full_match(x, 'a|b'), regexp_matches(x, 'a.*b', 'i')",
        "whether all of the text matches a constant pattern, or some of it",
    ),
}

# Written with the operators above: how → what it means.
REWRITTEN: dict[str, str] = {
    "CAST(a AS BOOLEAN)": "whether a number is not 0",
    "TRY_CAST(a AS type)": "of numbers, as CAST, and NULL beyond the range of INTEGER, BIGINT or FLOAT",
    "radians(a), degrees(a), pi()": "products with a constant",
    "trunc(a, digits)": "as round, towards zero",
    "isnan(a)": "as a IS NULL, since NaN is NULL",
    "isinf(a), isfinite(a)": "whether it is, or is not, plus or minus infinity",
    "~a, a << n, a >> n": "-a - 1; a * 2^n; floor(a / 2^n), n a whole constant",
    "a IS DISTINCT FROM b, a IS NOT DISTINCT FROM b": "as <> and =, where NULL is a value like any other",
    "a IS TRUE, a IS FALSE, a IS NOT TRUE": "never NULL itself",
    "extract(part FROM d), date_part('part', d)": "the functions of dates by their names",
    "DATE '2013-05-01', TIMESTAMP '2013-05-01 10:00:00'": "constants; beside a date, in quotes alone",
}

# Where the language is described; every refusal ends with it.
REFERENCE = "docs/reference/features.md"
_EXCERPT_CHARS = 96


class _DuckDB(DuckDB):
    """DuckDB's SQL, with the index of a list as it is written: sqlglot's counts from 0, and simplifies it."""

    INDEX_OFFSET = 0


class Source:
    """One file's SQL; knows the line and column of every part of it.

    Args:
        sql: the file's text.
        file: its name in errors.
    """

    def __init__(self, sql: str, file: str) -> None:
        self._sql = sql
        self._file = file

    def parse(self) -> list[exp.Expr]:
        """The statements of the file, untyped.

        Raises:
            FeatureError: it is not SQL as DuckDB reads it.
        """
        try:
            return [tree for tree in sqlglot.parse(self._sql, read=_DuckDB) if tree is not None]
        except ParseError as error:
            first = error.errors[0]
            raise self._error(
                f"not valid SQL at {first['highlight']!r}: {_plain(first['description'])}",
                first["line"],
                max(first["col"] - len(first["highlight"]), 0) + 1,
            ) from None
        except SqlglotError as error:
            raise self._error(f"not valid SQL: {str(error).splitlines()[0]}", 1, 1) from None

    def refuse(self, node: exp.Expr, what: str, hint: str = "") -> FeatureError:
        """The error for ``what`` is wrong at ``node``; ``hint`` is the nearest thing that is right."""
        offset = _offset(node)
        before = self._sql[:offset]
        return self._error(what, before.count("\n") + 1, offset - before.rfind("\n"), hint)

    def name_of(self, function: exp.Expr) -> str:
        """A function's name as the author wrote it, or as sqlglot knows it."""
        if "start" in function.meta:
            return self._sql[function.meta["start"] : function.meta["end"] + 1].lower()
        return function.sql_name().lower() if isinstance(function, exp.Func) else function.name

    def is_function(self, node: exp.Expr) -> bool:
        """Whether it is written with a name and parentheses, and not as an operator."""
        return "start" in node.meta

    def behind(self, function: exp.Expr) -> str:
        """The text behind a function's name."""
        return self._sql[function.meta["end"] + 1 :] if "end" in function.meta else ""

    def _error(self, what: str, line: int, column: int, hint: str = "") -> FeatureError:
        lines = self._sql.split("\n")
        excerpt = _excerpt(lines[min(line, len(lines)) - 1].rstrip(), line, column)
        return FeatureError(
            what,
            where=f"{self._file}:{line}:{column}",
            hint=hint,
            excerpt=f"{excerpt}\nThe language is described in {REFERENCE}.",
        )


def write_sql(node: exp.Expr) -> str:
    """The expression in one line, in DuckDB's spelling, for people."""
    return node.sql(_DuckDB, comments=False, normalize_functions="lower")


def _excerpt(line: str, number: int, column: int) -> str:
    """The line with its number, and a caret below the column; of a long line, what is around it."""
    start = max(0, column - 1 - _EXCERPT_CHARS // 2) if len(line) > _EXCERPT_CHARS else 0
    shown = line[start : start + _EXCERPT_CHARS].replace("\t", " ")
    front = f"  {number} | " + ("…" if start else "")
    back = "…" if start + _EXCERPT_CHARS < len(line) else ""
    return f"{front}{shown}{back}\n{'^':>{len(front) + column - start}}"


def _plain(description: str) -> str:
    """The parser's message without the names of its classes."""
    missing = description.startswith("Required keyword")
    return "something is missing before it" if missing else description.partition(" but got <")[0]


def _offset(node: exp.Expr) -> int:
    """The node's position in the text, or that of the nearest enclosing node that has one."""
    around: exp.Expr | None = node
    while around is not None:
        own = around.meta.get("start")
        if own is not None:
            return int(own)
        inside = [n.meta["start"] for n in around.walk() if "start" in n.meta]
        if inside:
            return int(min(inside))
        around = around.parent
    return 0


def nearest(name: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """``did you mean 'x'?`` for a misspelt name, or nothing."""
    by_folded = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return f"Did you mean {by_folded[near[0]]!r}?" if near else ""
