"""Functions of text: what they may be given, so that a graph can answer as DuckDB does.

ONNX computes with text in three ways: it compares it with known words, joins it, and asks whether all of it
matches a regular expression. So text is *whole* (a column, a constant, a choice between such, what ``||``
joins), or it is *cut* from whole text by functions of which one can say which texts they turn into a
given word: those are the texts that match an expression, and words are all that a category or a comparison
ever asks for. A character is a code point, as in DuckDB.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from timberline.training.features.build import coalesce
from timberline.training.features.expressions import (
    Call,
    Expression,
    ExpressionError,
    Literal,
    ValueType,
    is_whole_text,
)

# Longer texts count as that long: eight bits, and an expression each.
LONGEST = 255
# How far `left`, `right` and `split_part` count; RE2 repeats no more often than a thousand times.
_MOST = 1000
CASES = ("lower", "upper")
TRIMS = ("trim", "ltrim", "rtrim")
CUTS = {*CASES, *TRIMS, "left", "right", "split_part"}
TESTS = {"like", "ilike", "regexp_full_match"}
# What one word, and no longer expression, can be undone of.
_OF_WORDS = {*TRIMS, "left", "right"}
# All that a pattern may have, so that RE2 reads it in every version, and no table of Unicode's is asked.
_TOKEN = re.compile(
    r"""\\[dDwWsSbBAz] | \\[^\w\s] | \\[tnrfv]
    | \[\^?\]?(?:\[:\^?[a-z]+:\] | \\[dDwWsStnrfv] | \\[^\w\s] | [^\]\\])*\]
    | \((?!\?) | \(\?(?:[ims]+:|:|P<\w+>) | \) | (?:[*+?]|\{\d+(?:,\d*)?\})\??(?![*+?{])
    | [.^$|] | [^\\[\](){}*+?.^$|]""",
    re.VERBOSE,
)
_FLAGS = re.compile(r"\(\?[ims]+\)")


def cut(function: str, value: Expression, *arguments: Expression) -> Expression:
    """One of `CUTS`; NULL where the text is NULL.

    Raises:
        ExpressionError: the value is not text, or an argument is not what can be undone.
    """
    _need_text(value, function)
    if isinstance(value, Literal):
        raise ExpressionError(f"{function}() of a constant is a constant", "Write what it is.")
    _refuse_inner(function, value)
    if function in {"left", "right"}:
        _read_count(function, arguments[0], 1)
    if function == "split_part":
        delimiter, part = arguments
        if (
            not isinstance(delimiter, Literal)
            or not isinstance(delimiter.value, str)
            or len(delimiter.value) != 1
        ):
            raise ExpressionError(
                "split_part takes one character in quotes to split at", "split_part(x, ',', 1)."
            )
        _read_count(function, part, -_MOST)
    return Call(function, (value, *arguments), ValueType.VARCHAR, value.nullable)


def _read_count(function: str, count: Expression, least: int) -> None:
    is_whole = isinstance(count, Literal) and count.type is ValueType.BIGINT and count.value is not None
    if not is_whole or not least <= count.low <= _MOST or count.low == 0:
        raise ExpressionError(f"{function} takes a whole constant up to {_MOST:,}, and not 0")


def _refuse_inner(function: str, value: Expression) -> None:
    """Refuse what can be undone of words only below what makes more than words of them."""
    if isinstance(value, Call) and value.operator in CUTS:
        inner = list_cuts(value)
        for below in inner:
            if below.operator in _OF_WORDS and function not in CASES:
                raise ExpressionError(
                    f"{function} of {below.operator} cannot be computed in the graph",
                    f"lower, upper and split_part of it can be, and {below.operator} of {function}."
                    if function == "split_part"
                    else "One of the two can be, with lower, upper and split_part.",
                )
    elif not is_whole_text(value):
        raise ExpressionError(
            f"{function} takes a column, or what is joined or chosen of columns",
            "Apply it to each column inside of CASE or coalesce.",
        )


def list_cuts(value: Expression) -> list[Call]:
    """The `CUTS` around whole text, the outer one first; the last one's argument is that text."""
    found: list[Call] = []
    while isinstance(value, Call) and value.operator in CUTS:
        found.append(value)
        value = value.arguments[0]
    return found


def concat(values: Sequence[Expression]) -> Expression:
    """``a || b``: NULL where one of them is NULL.

    Raises:
        ExpressionError: one of them is not text that the graph has.
    """
    parts: list[Expression] = []
    for value in values:
        _need_text(value, "||", "Numbers have many spellings: name them with CASE.")
        if not is_whole_text(value):
            raise ExpressionError(
                "|| joins columns and constants",
                "Join first, and apply lower, trim and the like to the whole.",
            )
        parts += value.arguments if isinstance(value, Call) and value.operator == "concat" else (value,)
    return Call("concat", tuple(parts), ValueType.VARCHAR, any(part.nullable for part in parts))


def concat_skipping_null(values: Sequence[Expression]) -> Expression:
    """``concat(a, b)``, for which NULL is nothing."""
    nothing = Literal("", ValueType.VARCHAR)
    return concat([coalesce([value, nothing]) if value.nullable else value for value in values])


def like(value: Expression, pattern: Expression, *, escape: str = "", folded: bool = False) -> Expression:
    """``LIKE`` or, ``folded``, ``ILIKE``; in the call ``\\`` escapes.

    Raises:
        ExpressionError: the value is not text, or the pattern no constant.
    """
    text = _read_pattern("ILIKE" if folded else "LIKE", value, pattern)
    parts, is_escaped = [], False
    for character in text:
        if not is_escaped and escape and character == escape:
            is_escaped = True
            continue
        is_special = character in "%_" and not is_escaped
        parts.append(character if is_special else quote_like(character))
        is_escaped = False
    if is_escaped:
        raise ExpressionError("the pattern ends with its escape character")
    return _test("ilike" if folded else "like", value, "".join(parts))


def quote_like(text: str) -> str:
    """``text`` itself as a pattern of `like`'s calls."""
    return re.sub(r"([%_\\])", r"\\\1", text)


def holds(value: Expression, part: Expression, form: str) -> Expression:
    """``starts_with`` (form ``{}%``), ``ends_with`` (``%{}``) or ``contains`` (``%{}%``)."""
    text = _read_pattern("starts_with, ends_with and contains", value, part)
    return _test("like", value, form.format(quote_like(text)))


def matches(value: Expression, pattern: Expression, flags: str, *, anywhere: bool) -> Expression:
    """``regexp_full_match`` or, ``anywhere``, ``regexp_matches``.

    Raises:
        ExpressionError: RE2 would refuse the pattern, or its versions read it in different ways.
    """
    name = "regexp_matches" if anywhere else "regexp_full_match"
    text = _read_pattern(name, value, pattern)
    if isinstance(value, Call) and value.operator in CUTS:
        raise ExpressionError(
            f"{name} takes a column, and got {value.operator}()",
            "Write (?i) in front of the pattern, or use LIKE.",
        )
    if set(flags) - set("isc"):
        raise ExpressionError(
            f"{name} takes the options 'i', 's' and 'c'", "Write (?i) or (?s) in the pattern."
        )
    _check_pattern(text)
    own = "".join(sorted(set(flags) - {"c"}))
    front = f"(?{own})" if own else ""
    return _test(
        "regexp_full_match", value, f"(?s:.*){front}(?:{text})(?s:.*)" if anywhere else f"{front}{text}"
    )


def length(value: Expression) -> Expression:
    """The number of characters, at most `LONGEST`."""
    _need_text(value, "length")
    inner = list_cuts(value)
    if not is_whole_text(inner[-1].arguments[0] if inner else value) or any(
        c.operator not in CASES for c in inner
    ):
        raise ExpressionError("length takes a column, or what is joined or chosen of columns")
    whole = inner[-1].arguments[0] if inner else value
    return Call("length", (whole,), ValueType.BIGINT, whole.nullable, 0.0, float(LONGEST))


def _test(operator: str, value: Expression, pattern: str) -> Call:
    arguments = (value, Literal(pattern, ValueType.VARCHAR))
    return Call(operator, arguments, ValueType.BOOLEAN, value.nullable, low=0, high=1)


def _read_pattern(name: str, value: Expression, pattern: Expression) -> str:
    _need_text(value, name)
    if not isinstance(pattern, Literal) or not isinstance(pattern.value, str):
        raise ExpressionError(f"{name} takes a constant text as its pattern")
    for below in list_cuts(value):
        if below.operator in _OF_WORDS:
            raise ExpressionError(
                f"{name} of {below.operator}() cannot be computed in the graph",
                "Compare it with =, IN or CASE.",
            )
    if not list_cuts(value) and (not is_whole_text(value) or isinstance(value, Literal)):
        raise ExpressionError(f"{name} takes a column, or what is joined or chosen of columns")
    return pattern.value


def _need_text(value: Expression, name: str, hint: str = "") -> None:
    if value.type is not ValueType.VARCHAR:
        raise ExpressionError(f"{name} takes text, and got {value.type}", hint)


def _check_pattern(pattern: str) -> None:
    """Hold a regular expression to what every version of RE2 reads alike."""
    body = _FLAGS.sub("", pattern, count=1) if _FLAGS.match(pattern) else pattern
    tokens: list[str] = []
    while (place := len("".join(tokens))) < len(body):
        token = _TOKEN.match(body, place)
        if token is None:
            raise ExpressionError(
                f"in a regular expression, {body[place : place + 12]!r} is not supported",
                "Groups, classes like [a-z], \\d \\w \\s and [[:alpha:]], . | * + ? {1,3} ^ $ and \\b are.",
            )
        tokens.append(token[0])
    plain = re.sub(r"\[:\^?[a-z]+:\]", "a", body).replace(r"\z", r"\Z")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(plain)
    except (re.error, OverflowError) as error:
        raise ExpressionError(f"{pattern!r} is no regular expression: {error}") from None
    if _count_repeats(tokens) > _MOST:
        raise ExpressionError(f"a regular expression repeats a part at most {_MOST:,} times")


def _count_repeats(tokens: Sequence[str]) -> int:
    """How often a part is repeated at most, by counts in braces around one another; RE2 has a limit."""
    groups, last = [1], 1
    for token in tokens:
        if token.startswith("("):
            groups.append(1)
        elif token == ")":
            last = groups.pop()
        elif token.startswith("{"):
            last *= max(int(count) for count in re.findall(r"\d+", token))
        else:
            last = 1
        if not token.startswith("("):
            groups[-1] = max(groups[-1], last)
    return groups[0]
