"""Functions of text as regular expressions: ONNX has no other operator that computes with text.

``lower(x) = 'abc'`` holds of the texts that match ``[Aa][Bb][Cc]``: a function of text, asked whether its
result is a word, is an expression over its argument. `undo` makes that expression, one function at a time.
Which letters become which, and what a blank is, is asked of DuckDB itself, for every code point.

A category asks which of a thousand words it is. One expression a word would be a thousand nodes; so the
words are numbered, and an expression each tells the bits of the number: ten nodes of about 2 µs, whose
time hardly grows with the words, as RE2 runs through a text once.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from timberline.exporter.compiler.scalars import Scalar, ScalarGraph
from timberline.training.features import Call
from timberline.training.features.texts import CASES, LONGEST, TRIMS

# The operator set that brings RegexFullMatch and StringConcat; ONNX Runtime 1.17 has them.
TEXT_OPSET = 20
# From how many words on their number is told by its bits, and not by an expression a word.
_MOST_APART = 4
# How many words one expression has: RE2 gives up one of tens of thousands.
_MOST_TOGETHER = 1000
# All of them but the halves of pairs, which are no characters.
_CODE_POINTS = ((1, 0xD800), (0xE000, 0x110000))


@dataclass(frozen=True)
class Atom:
    """``least`` to ``most`` characters (None: no end) among ``characters`` or, ``is_negated``, all others."""

    characters: frozenset[int]
    is_negated: bool = False
    least: int = 1
    most: int | None = 1


# One way to match: these one behind the other. A language is all of several ways.
Sequel = tuple[Atom, ...]
Language = tuple[Sequel, ...]
_ANY = Atom(frozenset(), is_negated=True)
_ANYTHING = replace(_ANY, least=0, most=None)


def word(text: str) -> Language:
    """Nothing but ``text``."""
    return (tuple(Atom(frozenset({ord(character)})) for character in text),)


def like_language(pattern: str) -> Language:
    """What matches a pattern of the calls ``like`` and ``ilike``, in which ``\\`` escapes."""
    atoms, is_escaped = [], False
    for character in pattern:
        if character == "\\" and not is_escaped:
            is_escaped = True
            continue
        special = {} if is_escaped else {"%": _ANYTHING, "_": _ANY}
        atoms.append(special.get(character, Atom(frozenset({ord(character)}))))
        is_escaped = False
    return (tuple(atoms),)


def undo(call: Call, language: Language) -> Language:
    """The texts that ``call``, one of `training.features.texts.CUTS`, turns into one of ``language``."""
    match call.operator:
        case "lower" | "upper":
            return _map(language, functools.partial(_undo_case, call.operator))
        case "trim" | "ltrim" | "rtrim":
            return _undo_trim(call.operator, language)
        case "left" | "right":
            return _undo_end(language, int(call.arguments[1].low), is_left=call.operator == "left")
    _, delimiter, part = call.arguments
    assert call.operator == "split_part"
    return _undo_split(language, ord(str(getattr(delimiter, "value", ""))), int(part.low))


def fold_language(language: Language) -> Language:
    """The texts that are in ``language`` once both are in small letters."""
    small = _case_map("lower")
    lowered = _map(language, lambda characters: frozenset(small.get(c, c) for c in characters))
    return _map(lowered, functools.partial(_undo_case, "lower"))


def _map(language: Language, change: Callable[[frozenset[int]], frozenset[int]]) -> Language:
    changed = (tuple(replace(atom, characters=change(atom.characters)) for atom in way) for way in language)
    return tuple(way for way in changed if all(atom.characters or atom.is_negated for atom in way))


@functools.cache
def _case_map(function: str) -> Mapping[int, int]:
    """The code points that DuckDB's function changes, and to which."""
    assert function in CASES
    return dict(_ask(f"i, unicode({function}(chr(i)))", f"{function}(chr(i)) <> chr(i)"))


@functools.cache
def _blanks() -> frozenset[int]:
    """The code points that DuckDB's trim takes away."""
    return frozenset(code for code, _ in _ask("i, 0", "trim(chr(i)) = ''"))


def _ask(what: str, condition: str) -> list[tuple[int, int]]:
    points = " UNION ALL ".join(
        f"SELECT CAST(range AS INTEGER) AS i FROM range{part}" for part in _CODE_POINTS
    )
    with duckdb.connect() as connection:
        found: list[tuple[int, int]] = connection.execute(
            f"SELECT {what} FROM ({points}) WHERE {condition}"
        ).fetchall()
    return found


def _undo_case(function: str, characters: frozenset[int]) -> frozenset[int]:
    changed = _case_map(function)
    kept = {character for character in characters if character not in changed}
    return frozenset(kept | {source for source, result in changed.items() if result in characters})


def _undo_trim(function: str, language: Language) -> Language:
    """Of words: blanks around a text that neither begins nor, at its trimmed sides, ends with one."""
    assert function in TRIMS
    blanks = Atom(_blanks(), least=0, most=None)
    ways = []
    for way in language:
        atoms = list(way)
        for side in ({"ltrim": (0,), "rtrim": (-1,)}.get(function, (0, -1))) if atoms else ():
            atoms[side] = replace(atoms[side], characters=atoms[side].characters - _blanks())
        if all(atom.characters for atom in atoms):
            front = () if function == "rtrim" else (blanks,)
            back = () if function == "ltrim" or (not atoms and front) else (blanks,)
            ways.append((*front, *atoms, *back))
    return tuple(ways)


def _undo_end(language: Language, count: int, *, is_left: bool) -> Language:
    """Of words: one shorter than ``count`` is the whole text, one as long is followed by anything."""
    ways = []
    for way in language:
        if len(way) < count:
            ways.append(way)
        elif len(way) == count:
            ways.append((*way, _ANYTHING) if is_left else (_ANYTHING, *way))
    return tuple(ways)


def _undo_split(language: Language, delimiter: int, part: int) -> Language:
    at = Atom(frozenset({delimiter}))
    inner = Atom(frozenset({delimiter}), is_negated=True, least=0, most=None)
    ways = []
    for way in language:
        kept = _without(way, delimiter)
        if kept is None:
            continue
        before = (inner, at) * (abs(part) - 1)
        if part > 0:
            ways += [(*before, *kept), (*before, *kept, at, _ANYTHING)]
        else:
            after = (at, inner) * (-part - 1)
            ways += [(*kept, *after), (_ANYTHING, at, *kept, *after)]
        if all(atom.least == 0 for atom in kept):  # '' is among them: that of too few parts
            ways += [(inner, *((at, inner) * count)) for count in range(abs(part) - 1)]
    return tuple(ways)


def _without(way: Sequel, character: int) -> Sequel | None:
    """What of ``way`` does without the character; None if nothing does."""
    kept = []
    for atom in way:
        if atom.is_negated:
            kept.append(replace(atom, characters=atom.characters | {character}))
        elif atom.characters - {character}:
            kept.append(replace(atom, characters=atom.characters - {character}))
        elif atom.least:
            return None
    return tuple(kept)


# Languages as RE2 reads them.


def write_pattern(languages: Iterable[Language]) -> str:
    """The expression that all of a text in one of ``languages`` matches, and no other text.

    What ways have in common around the longest stretch of a known length stands in front of them and behind:
    a thousand ways that each begin with any number of blanks are beyond the memory of RE2's automaton.
    """
    groups: dict[tuple[Sequel, Sequel], dict[str, None]] = {}
    for language in languages:
        for way in language:
            front, middle, back = _split(way)
            groups.setdefault((front, back), {})[_write_sequel(middle)] = None
    ways = [
        f"{_write_sequel(front)}(?:{'|'.join(middles)}){_write_sequel(back)}"
        for (front, back), middles in groups.items()
    ]
    # A class without a member matches nothing.
    return f"(?:{'|'.join(ways)})" if ways else r"[^\x{0}-\x{10FFFF}]"


def _split(way: Sequel) -> tuple[Sequel, Sequel, Sequel]:
    """What is before the longest stretch without an atom of any length; that stretch; and what is behind."""
    edges = [-1, *(place for place, atom in enumerate(way) if atom.most is None), len(way)]
    start, end = max(itertools.pairwise(edges), key=lambda pair: pair[1] - pair[0])
    return way[: start + 1], way[start + 1 : end], way[end:]


def _write_sequel(way: Sequel) -> str:
    return "".join(map(_write_atom, way))


def _write_atom(atom: Atom) -> str:
    if atom.is_negated and not atom.characters:
        text = "(?s:.)"
    elif len(atom.characters) == 1 and not atom.is_negated:
        text = _write_character(*atom.characters)
    elif not atom.is_negated and _is_letter(atom.characters):
        text = f"(?:{'|'.join(map(_write_character, sorted(atom.characters)))})"
    else:
        text = f"[{'^' if atom.is_negated else ''}{''.join(_write_ranges(sorted(atom.characters)))}]"
    bounds = (atom.least, atom.most)
    if bounds == (1, 1):
        return text
    return f"{text}*" if bounds == (0, None) else f"{text}{{{atom.least},{atom.most or ''}}}"


def _is_letter(characters: frozenset[int]) -> bool:
    """Whether they are the two cases of an ASCII letter.

    RE2 makes "s in any case" of ``[Ss]``, and of ``[Ss]|x`` a class of all cases of s: with U+017F.
    """
    return len(characters) == 2 and max(characters) < 128 and len({chr(c).lower() for c in characters}) == 1


def _write_ranges(characters: Sequence[int]) -> list[str]:
    starts = [c for index, c in enumerate(characters) if index == 0 or characters[index - 1] != c - 1]
    ends = [c for index, c in enumerate(characters) if characters[index + 1 : index + 2] != [c + 1]]
    return [
        _write_character(low) + ("" if low == high else f"-{_write_character(high)}")
        for low, high in zip(starts, ends, strict=True)
    ]


def _write_character(code: int) -> str:
    character = chr(code)
    return character if character.isascii() and character.isalnum() else rf"\x{{{code:X}}}"


def length_patterns() -> list[str]:
    """An expression for each bit, from the lowest, of the length of a text; of `LONGEST` if it is longer."""
    patterns = []
    for bit in range(LONGEST.bit_length()):
        half, whole = 1 << bit, 2 << bit
        last = LONGEST + 1 - half  # from here on the bit is set in every length
        repeated = rf"(?:.{{{whole}}}){{0,{last // whole - 1}}}"
        between = rf"{repeated}.{{{half},{whole - 1}}}|" if last > half else ""
        patterns.append(rf"(?s:{between}.{{{last},}})")
    return patterns


# Scalars.


def write_words(
    graph: ScalarGraph, text: Scalar, cuts: Sequence[Call], numbers: Mapping[str, float]
) -> Scalar:
    """The number of the word that ``cuts``, the outer one first, make of ``text``; 0 if it is none."""
    languages = {}
    for known, number in numbers.items():
        language = word(known)
        for call in cuts:
            language = undo(call, language)
        languages[number] = language
    if len(languages) <= _MOST_APART:
        found = [graph.make("matches", text, payload=write_pattern([one])) for one in languages.values()]
        return graph.make("pick_one", *found, payload=tuple(languages)) if found else graph.number(0.0)
    places = list(languages)
    bits = []
    for bit in range(len(places).bit_length()):
        chosen = [languages[number] for place, number in enumerate(places, 1) if place >> bit & 1]
        parts = [chosen[start : start + _MOST_TOGETHER] for start in range(0, len(chosen), _MOST_TOGETHER)]
        bits.append(graph.some([graph.make("matches", text, payload=write_pattern(part)) for part in parts]))
    return graph.make("pick", *bits, payload=(0.0, *places))


def write_length(graph: ScalarGraph, text: Scalar) -> Scalar:
    """The length of ``text``, at most `LONGEST`."""
    bits = [graph.make("matches", text, payload=pattern) for pattern in length_patterns()]
    return graph.make("weigh", *bits, payload=tuple(float(1 << bit) for bit in range(len(bits))))
