"""The text of features.sql, and how a refusal points into it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from timberline.training.errors import FeatureError
from timberline.training.features.language import SUPPORTED


class Source:
    """One file's SQL; knows the line and column of every part of it.

    Args:
        sql: the file's text.
        file: its name, as errors tell it.
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
            return [tree for tree in sqlglot.parse(self._sql, read="duckdb") if tree is not None]
        except ParseError as error:
            first = error.errors[0]
            raise self._error(
                f"not valid SQL at {first['highlight']!r}: {_plain(first['description'])}",
                f"{first['line']}:{max(first['col'] - len(first['highlight']), 0) + 1}",
            ) from None
        except SqlglotError as error:
            raise self._error(f"not valid SQL: {str(error).splitlines()[0]}", "1:1") from None

    def refuse(self, node: exp.Expr, what: str, hint: str = "") -> FeatureError:
        """The error that says ``what`` is wrong at ``node`` and what is supported."""
        offset = _offset(node)
        before = self._sql[:offset]
        line, column = before.count("\n") + 1, offset - before.rfind("\n")
        return self._error(what, f"{line}:{column}", hint)

    def name_of(self, function: exp.Expr) -> str:
        """A function's name as the author wrote it, or as sqlglot knows it."""
        if "start" in function.meta:
            return self._sql[function.meta["start"] : function.meta["end"] + 1].lower()
        return function.sql_name().lower() if isinstance(function, exp.Func) else function.name

    def _error(self, what: str, position: str, hint: str = "") -> FeatureError:
        front = f"{hint} " if hint else ""
        return FeatureError(f"{what}.", where=f"{self._file}:{position}", hint=front + SUPPORTED)


def _plain(description: str) -> str:
    """The parser's message without the names of its classes."""
    missing = description.startswith("Required keyword")
    return "something is missing before it" if missing else description.partition(" but got <")[0]


def _offset(node: exp.Expr) -> int:
    """Where the node starts in the text; the nearest enclosing node's start if it has no text of its own."""
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


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?`` for a misspelt name, or nothing."""
    by_folded = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.5)
    return f"Did you mean {by_folded[near[0]]!r}?" if near else ""
