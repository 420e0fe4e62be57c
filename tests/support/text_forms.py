"""Random expressions over text, and texts that are hard: odd cases of letters, blanks, marks, new lines."""

from __future__ import annotations

import random

from timberline.registry.signature import Column
from timberline.training.features import FeatureError, parse_features

COLUMNS = (Column(name="t", datatype="BYTES"), Column(name="u", datatype="BYTES", is_nullable=True))
# Letters with one small form and two capitals, or with none; accents, blanks, a byte order mark; and what
# patterns and quotes are written with.
_CHARACTERS = [*"aAbBkKsSiI ,.'%_\\-[]()^$|\n\t\r0", *"äÄßẞſKİıσςΣǅǆΩώ😀日", "\u0301", "\u00a0", "\u3000"]
_CHARACTERS += ["\u200d", "\ufeff", "\U0010ffff", "\ue000"]
_PATTERNS = ["[a-z]+", "^a", ".", "a$", "(?i)k", "(?s).*a", "[[:space:]]", r"\s", "a|b|", r"\W", "[^a]*"]
_PATTERNS += [r"\bA", "(?:a|k){1,2}.?"]


class TextForms:
    """Draws expressions and rows; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._words = [self._word() for _ in range(150)]
        self._words += ["a" * count for count in (254, 255, 256, 300)]
        self._words += [" ", "\u00a0", "a,b", "a,b,c", ",", ",,", "a,"]

    def rows(self, count: int) -> dict[str, list[object]]:
        """Rows of `COLUMNS`, of which every eighth text is NULL where one may be."""
        draw, words = self._draw, self._words
        nulls: list[object] = [None] * (len(words) // 8)
        return {
            "t": [draw.choice(words) for _ in range(count)],
            "u": [draw.choice([*words, *nulls]) for _ in range(count)],
        }

    def expression(self) -> str:
        """A condition on text, or its length; the language refuses some."""
        draw, base = self._draw, self._base()
        value = base
        for _ in range(draw.choice([0, 1, 1, 2, 3])):
            value = self._cut(value)
        match draw.randrange(8):
            case 0 | 1:
                return f"{value} = {self._constant()}"
            case 2 | 3:
                return (
                    f"{value} IN ({', '.join(self._constant() for _ in range(draw.choice([2, 3, 6, 12])))})"
                )
            case 4:
                parts = ["%", "_", *draw.choices(_CHARACTERS, k=6)]
                pattern = "".join(draw.choices(parts, k=draw.randrange(5)))
                return f"{value} {draw.choice(['LIKE', 'ILIKE', 'NOT LIKE'])} {_quote(pattern)}"
            case 5:
                return f"{draw.choice(['starts_with', 'ends_with', 'contains'])}({value}, {self._constant()})"
            case 6:
                function = draw.choice(["regexp_full_match", "regexp_matches"])
                return f"{function}({base}, {_quote(draw.choice(_PATTERNS))})"
        return draw.choice([f"{base} = {self._base()}", f"length(left({base}, 9))", f"length({base}) > 3"])

    def _word(self) -> str:
        return "".join(self._draw.choices(_CHARACTERS, k=self._draw.choice([0, 1, 1, 2, 2, 3, 4, 8])))

    def _constant(self) -> str:
        return _quote(self._draw.choice(self._words) if self._draw.random() < 0.6 else self._word())

    def _base(self) -> str:
        forms = ["t", "u", "t || u", "coalesce(u, t)", f"u || {self._constant()}", "if(u IS NULL, t, u)"]
        return self._draw.choice([*forms, "concat(t, u)", f"nullif(t, {self._constant()})"])

    def _cut(self, value: str) -> str:
        draw = self._draw
        function = draw.choice(["lower", "upper", "trim", "ltrim", "rtrim", "left", "right", "split_part"])
        if function in {"left", "right"}:
            return f"{function}({value}, {draw.randint(1, 4)})"
        if function == "split_part":
            return (
                f"split_part({value}, {_quote(draw.choice(_CHARACTERS))}, {draw.choice([1, 2, 3, -1, -2])})"
            )
        return f"{function}({value})"


def is_in_the_language(expression: str) -> bool:
    """Whether it can be a feature."""
    try:
        parse_features(f"SELECT {expression} AS f FROM raw", COLUMNS)
    except FeatureError:
        return False
    return True


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
