"""What comes from outside and is not what it should be: one error, whatever is wrong with it."""

from __future__ import annotations

import random

import msgspec
import pytest

from timberline.registry.runtime.documents import decode_json, decode_toml


class _Part(msgspec.Struct):
    name: str
    count: int = 0


_GOOD = b'{"name": "h\xc3\xa9llo", "count": 12, "more": [1.5, {"x": null}]}'


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "truncated"),
        (b"\x00\x00", "malformed"),
        (b'{"name": "h\xe9llo"}', "not UTF-8: byte 11 is 0xe9"),
        (b'{"name": "\xc3\xa9", "unknown": "\xff"}', "not UTF-8: byte 27 is 0xff"),
        (b'{"name": "x", "more": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"name": 7}', "Expected `str`"),
        (b"[]", "Expected `object`"),
    ],
)
def test_json_of_another_kind_is_one_error(data: bytes, what: str) -> None:
    """A caller that catches the error of the parser must have caught everything a damaged file can do."""
    with pytest.raises(msgspec.DecodeError, match=what):
        decode_json(data, _Part)


def test_json_with_any_bytes_changed_is_read_or_one_error() -> None:
    """The same for damage of any other kind."""
    rng = random.Random(7)
    refused = 0
    for _ in range(20_000):
        data = bytearray(_GOOD)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            decode_json(bytes(data), _Part)
        except msgspec.DecodeError:
            refused += 1
    assert 0 < refused < 20_000


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"a = ", "Invalid value"),
        (b'title = "B\xe4ume"', "not UTF-8: byte 10 is 0xe4"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"a = " + b"9" * 5_000, "4300 digits"),
        ("a = ü", "Invalid value"),
    ],
)
def test_toml_that_is_none_is_one_error(data: bytes | str, what: str) -> None:
    """A file that an editor saved as Latin-1 is a wrong file, not a fault of the program."""
    with pytest.raises(msgspec.DecodeError, match=what):
        decode_toml(data)


def test_what_is_right_is_read() -> None:
    """The errors are for what is wrong only."""
    assert decode_json(_GOOD, _Part) == _Part(name="héllo", count=12)
    assert decode_json(b"[1, 2]", list[int]) == [1, 2]
    assert decode_toml('title = "Bäume"\n'.encode()) == decode_toml('title = "Bäume"') == {"title": "Bäume"}
