"""Texts of dates and timestamps, good and odd, and formats that read them; the same for the same seed."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from timberline.registry.moments import check_time_format
from timberline.registry.signature import Moment

_NAMES = {
    "b": ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    "B": ("January", "May", "September", "Sept", "December"),
    "a": ("Mon", "Tue", "Sun", "Sunday"),
    "A": ("Monday", "Wednesday", "Sunday", "Sun"),
    "p": ("AM", "PM", "A.M."),
}
_YEARS = ("2013", "1999", "2255", "2256", "1684", "1683", "13", "0", "0000", "0001", "9999", "20134")
_OFFSETS = ("+02", "-0230", "+02:30", "-02:30:15", "+2", "Z", "-99", "+02:60", "+023015", "+02:3")
_ISO_TAILS = (
    *("", "", "Z", "Z", "z", " Z", "+02", "-02:30", "+0230", "+2", "+24:00", "+02:60", "+23:59", "-23:59"),
    *(" UTC", " Europe/Berlin", "+02:30:10"),
)
# Of each numeric letter, one beyond its largest value.
_BEYOND = {"m": 13, "d": 32, "j": 367, "H": 25, "I": 13, "M": 61, "S": 61, "y": 100}
_DAYS = (("Y", "m", "d"), ("y", "m", "d"), ("d", "b", "Y"), ("B", "d", "Y"), ("Y", "j"), ("a", "d", "m", "Y"))
_TIMES = ((), ("H", "M"), ("H", "M", "S"), ("I", "M", "p"), ("H", "M", "S", "f"), ("H", "M", "z"), ("I", "p"))
_SEPARATORS = ((".",), ("-",), ("/",), (" ",), ("",), (", ",), ("-", "%%", "x", "  ", "é", "'", "\\"))
_MIDNIGHTS = (
    "T00:00",
    " 00:00:00",
    "T00:00:00.00Z",
    " 00:00:00.01",
    " 00:00:00 ",
    "T00:00-0000",
    " 00:00:00+00:00",
    "T00:00+0",
)


def iso_texts(draw: random.Random, count: int) -> list[str]:
    """Texts that are ISO 8601, or nearly."""
    return [_spoil(draw, _iso_text(draw), 0.1) for _ in range(count)]


def time_formats(draw: random.Random, count: int) -> Iterator[tuple[Moment, str, list[str]]]:
    """``count`` formats that model.toml may have, for which type, and texts that follow them, or nearly."""
    while count:
        moment: Moment = draw.choice(("date", "timestamp"))
        parts = _format_parts(draw)
        try:
            check_time_format("".join(parts), moment)
        except ValueError:
            continue
        count -= 1
        texts = [_spoil(draw, "".join(_fill(draw, part) for part in parts), 0.15) for _ in range(200)]
        yield moment, "".join(parts), [*texts, "epoch", " EPOCH", "infinity", "-infinity", ""]


def _iso_text(draw: random.Random) -> str:
    year = draw.choice((*_YEARS, *(str(draw.randrange(1684, 2256)) for _ in range(40))))
    day = f"{year}-{draw.randrange(draw.choice((0, 1)), 13):02}-{draw.randrange(1, 33):02}"
    if draw.random() < 0.4:
        return day + draw.choice(("", *_MIDNIGHTS))
    second = f":{draw.randrange(61):02}" if draw.random() < 0.8 else ""
    if second and draw.random() < 0.5:
        second += "." + _digits(draw)
    return (
        f"{day}{draw.choice('TT  t')}{draw.randrange(25):02}:{draw.randrange(61):02}{second}"
        f"{draw.choice(_ISO_TAILS)}"
    )


def _format_parts(draw: random.Random) -> list[str]:
    day = list(draw.choice(_DAYS))
    draw.shuffle(day)
    separators = draw.choice(_SEPARATORS)
    parts = [draw.choice(("", "", "x ", " "))]
    for letter in (*day, *draw.choice(_TIMES)):
        hyphen = "-" if letter in _BEYOND and draw.random() < 0.3 else ""
        parts += [f"%{hyphen}{letter}", draw.choice(separators)]
    return parts[:-1]


def _fill(draw: random.Random, part: str) -> str:
    if not re.fullmatch("%-?[A-Za-z]", part):
        return part.replace("%%", "%")
    letter = part[-1]
    if letter == "Y":
        return draw.choice(_YEARS)
    if letter == "z":
        return draw.choice(_OFFSETS)
    if letter == "f":
        return _digits(draw)
    if letter in _NAMES:
        name = draw.choice(_NAMES[letter])
        return draw.choice((name, name.upper(), name.lower()))
    highest = _BEYOND[letter]
    # Time and again midnight, which is all the time that a date may have.
    number = 0 if letter in "HMS" and draw.random() < 0.4 else draw.randrange(highest + 1)
    return str(number).zfill(draw.choice((1, 2, 2, 2, 3)))


def _digits(draw: random.Random) -> str:
    return "".join(draw.choice("00123456789") for _ in range(draw.randrange(9)))


def _spoil(draw: random.Random, text: str, share: float) -> str:
    if text and draw.random() < share:
        at = draw.randrange(len(text))
        text = text[:at] + draw.choice(" x0:-\n\u017f") + text[at + draw.randrange(2) :]
    if draw.random() < share:
        text = draw.choice((" ", "\t\n")) + text.replace(" ", "  ") + draw.choice((" ", "\r", ""))
    return text
