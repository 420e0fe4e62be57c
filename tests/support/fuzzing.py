"""Endless wrong requests from a seed: valid bodies and drawn ones, and what chance makes of them.

drawn = [*draw_trees(200, seed=1), *draw_documented(document, 200, seed=1)]
fuzzer = Fuzzer(list_valid_seeds(), drawn, seed=1)
attack = fuzzer.make()       # ready to be sent; the n-th is the same in every run

Hypothesis and schemathesis make seeds, as they are slow and make bodies that mean something; the
mutations make some 30,000 bodies a second of them.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.support.tiny_model import MIXED_COLUMNS, MIXED_ROWS, NUMERIC_COLUMNS, NUMERIC_ROWS

Header = tuple[bytes, bytes]

_JSON = b"application/json"
_OCTETS = b"application/octet-stream"
_CSV = b"text/csv"
_TYPE, _CODING, _LENGTH = b"content-type", b"content-encoding", b"inference-header-content-length"
_MODELS = {"tiny": (NUMERIC_COLUMNS, NUMERIC_ROWS), "tiny_text": (MIXED_COLUMNS, MIXED_ROWS)}
_NAMES = [column.name for column in MIXED_COLUMNS]
TARGETS = (
    *(
        b"/predict",
        b"/predict/",
        b"/invocations",
        b"/predict/tiny",
        b"/predict/tiny_text",
        b"/predict/nobody",
    ),
    *(b"/v2/models/tiny/infer", b"/v2/models/tiny_text/infer", b"/v2/models/nobody/infer"),
    *(b"/v2/models/tiny/versions/1/infer", b"/v2/models/tiny/versions/2/infer", b"/v2/repository/index"),
    *(b"/predict/%ff", b"/predict/%00", b"/predict/..%2f..", b"/v2/models/%E2%98%83/infer", b"/nowhere"),
)
_QUERIES = (b"", b"?probabilities=false", b"?probabilities=", b"?%ff=%00", b"?a&b", b"?" + b"x" * 2000)
_TYPES = (
    *(_JSON, _CSV, b"text/csv; header=absent", b"text/csv; header=present", _OCTETS),
    *(
        b"application/json; charset=utf-16",
        b"application/json;",
        b"text/plain",
        b"",
        b"\xff/\xfe",
        b"a" * 300,
    ),
)
_CODINGS = (b"gzip", b"x-gzip", b"deflate", b"identity", b"br", b"gzip, gzip", b"", b"\xe9")
_LENGTHS = (b"0", b"1", b"-1", b"99999999999999999999", b"1e3", b"", b"10", b"2", b"\xb2", b"0x10")
# Pieces that mean something to one of the readers, or once broke one somewhere.
_PIECES = (
    *(
        b"null",
        b"true",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1e-999",
        b"9" * 400,
        b"9007199254740993",
        b"-0",
        b"0.1",
    ),
    *(
        b"1e308",
        b"1e39",
        b"0x10",
        b"1_000",
        b"+1",
        b".5",
        b"5.",
        b"\xd9\xa1",
        b"\xc2\xb2",
        b'""',
        b"''",
        b"{}",
        b"[]",
    ),
    *(
        b'{"instances":[',
        b'"inputs":',
        b'"parameters":{"probabilities":false}',
        b'"data":',
        b'"shape":[',
        b"]}",
    ),
    *(
        b'"binary_data_size":4',
        b'"binary_data_output":true',
        b'"datatype":"BYTES"',
        b'"id":"x"',
        b'"outputs":',
    ),
    *(
        b"[" * 70,
        b'{"a":' * 70,
        b"]" * 70,
        b"[" * 9000,
        b'{"a":' * 3000,
        b"\\ud800",
        b"\\u0000",
        b"\\",
        b"\xed\xa0\x80",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xff",
        b"\x00",
        b"\xf0\x9f\x8c\xb2",
        b"\xe2\x80\xae",
        b"\xc0\x80",
        b"\r\n",
        b"\n",
        b'"',
        b",",
    ),
    *(
        b"\x1f\x8b\x08",
        b"\x00\x00\xc0\x7f",
        b"\x00\x00\x80\xff",
        b"\x01\x00\x00\x00",
        b"\xff\xff\xff\x7f",
        b":",
        b"-",
    ),
    *(b'"%b":1' % name.encode() for name in _NAMES),
)

# Of a body, in bytes: chance makes some that are far longer, and one of them takes the time of a hundred.
_LONGEST = 40_000


class Seed(NamedTuple):
    """A request that is taken apart for mutation."""

    target: bytes
    headers: tuple[Header, ...]
    body: bytes


class Attack(NamedTuple):
    """A request as it is sent; ``is_framed`` if it is valid HTTP, so that its connection goes on."""

    target: bytes
    request: bytes
    is_framed: bool = True


class Fuzzer:
    """Makes attacks; see the module.

    Args:
        valid: seeds for two of three attacks; only what is nearly right gets far.
        drawn: seeds for the third.
        seed: of everything that chance decides.
    """

    def __init__(self, valid: Sequence[Seed], drawn: Sequence[Seed], seed: int) -> None:
        self._seeds = (valid, valid, drawn)
        self._random = random.Random(seed)

    def make(self) -> Attack:
        """The next attack."""
        chance = self._random
        seed = chance.choice(chance.choice(self._seeds))
        body = seed.body
        for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 2, 3, 6))):
            body = chance.choice(_MUTATIONS)(chance, body)
        if chance.random() < 0.02:
            body += chance.choice(self._seeds[0]).body
        body = body[:_LONGEST]
        target = seed.target if chance.random() < 0.9 else chance.choice(TARGETS) + chance.choice(_QUERIES)
        headers = list(seed.headers)
        if chance.random() < 0.15:
            body = _confuse(chance, headers, body)
        return Attack(target, _frame(chance, target, headers, body))

    def make_unframed(self) -> Attack:
        """The next attack on the reading of HTTP itself; its connection is the last thing it has."""
        chance = self._random
        target, request, _ = self.make()
        end = request.index(b"\r\n\r\n") + 4
        head, body = request[:end], request[end:]
        if chance.random() < 0.5:
            head = chance.choice(_MUTATIONS)(chance, head)
        else:
            head = head.replace(b"content-length: ", chance.choice(_WRONG_LENGTHS), 1)
        return Attack(target, head + body, is_framed=False)


_WRONG_LENGTHS = (
    *(b"content-length: -", b"content-length: 9", b"content-length: 99999999999999999", b"x: "),
    *(b"content-length: 1\r\ncontent-length: ", b"transfer-encoding: chunked\r\ncontent-length: "),
    *(
        b"transfer-encoding: gzip\r\ncontent-length: ",
        b"upgrade: h2c\r\nconnection: upgrade\r\ncontent-length: ",
    ),
    *(b"expect: 100-continue\r\ncontent-length: ", b"x\x00y: z\r\ncontent-length: ", b"content-length:\r\n "),
)


def _frame(chance: random.Random, target: bytes, headers: Sequence[Header], body: bytes) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    head = b"POST %b HTTP/1.1\r\nhost: x\r\n%b" % (target, lines)
    if chance.random() < 0.05:
        half = len(body) // 2
        parts = [part for part in (body[:half], body[half:]) if part]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        return b"%btransfer-encoding: chunked\r\n\r\n%b0\r\n\r\n" % (head, chunks)
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


def _confuse(chance: random.Random, headers: list[Header], body: bytes) -> bytes:
    """Declare the body to be something else, or make it what it is not declared to be."""
    what = chance.randrange(6)
    if what == 0:
        headers[:] = [header for header in headers if header[0] != _TYPE]
        headers.append((_TYPE, chance.choice(_TYPES)))
    elif what == 1:
        headers.append((_CODING, chance.choice(_CODINGS)))
    elif what == 2:
        headers[:] = [header for header in headers if header[0] != _LENGTH]
        headers.append((_LENGTH, chance.choice(_LENGTHS)))
    elif what == 3:
        headers.append((b"accept", chance.choice((_OCTETS, _JSON, b"text/html", b"\xff"))))
    else:
        name, squeeze = chance.choice(((b"gzip", gzip.compress), (b"deflate", zlib.compress)))
        headers.append((_CODING, name))
        body = squeeze(body)
        if what == 5:
            body = chance.choice(_MUTATIONS)(chance, body)
    return body


# Mutations of bytes


def _flip_bit(chance: random.Random, body: bytes) -> bytes:
    if not body:
        return b"\x01"
    place = chance.randrange(len(body))
    return b"%b%c%b" % (body[:place], body[place] ^ 1 << chance.randrange(8), body[place + 1 :])


def _set_byte(chance: random.Random, body: bytes) -> bytes:
    place = chance.randrange(len(body) + 1)
    return b"%b%c%b" % (body[:place], chance.randrange(256), body[place + 1 :])


def _truncate(chance: random.Random, body: bytes) -> bytes:
    return body[: chance.randrange(len(body) + 1)]


def _remove(chance: random.Random, body: bytes) -> bytes:
    start, end = _range(chance, body)
    return body[:start] + body[end:]


def _double(chance: random.Random, body: bytes) -> bytes:
    start, end = _range(chance, body)
    return body[:end] + body[start:]


def _repeat(chance: random.Random, body: bytes) -> bytes:
    start, end = _range(chance, body[:200])
    return body[:start] + body[start:end] * chance.choice((2, 3, 70)) + body[end:]


def _insert(chance: random.Random, body: bytes) -> bytes:
    place = chance.randrange(len(body) + 1)
    return body[:place] + chance.choice(_PIECES) + body[place:]


def _overwrite(chance: random.Random, body: bytes) -> bytes:
    start, end = _range(chance, body)
    return body[:start] + chance.choice(_PIECES) + body[end:]


def _replace_value(chance: random.Random, body: bytes) -> bytes:
    """Put something else behind a colon or comma, so that the rest stays JSON or CSV."""
    places = [index for index, byte in enumerate(body[:4000]) if byte in b":,["]
    if not places:
        return body
    start = chance.choice(places) + 1
    end = start
    while end < len(body) and body[end] not in b",]}\n":
        end += 1
    return body[:start] + chance.choice(_PIECES) + body[end:]


def _replace_all(chance: random.Random, body: bytes) -> bytes:
    return chance.randbytes(chance.randrange(64))


def _range(chance: random.Random, body: bytes) -> tuple[int, int]:
    start = chance.randrange(len(body) + 1)
    return start, min(len(body), start + chance.choice((1, 1, 2, 4, 16, 64, len(body))))


Mutation = Callable[[random.Random, bytes], bytes]
_MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bit, _set_byte, _truncate, _remove, _double, _repeat),
    *(_insert, _insert, _overwrite, _replace_value, _replace_value, _replace_value, _replace_all),
)


# Seeds


def list_valid_seeds() -> list[Seed]:
    """Every kind of body that is answered, for both models."""
    seeds = [_seed("/v2/repository/index", {"ready": True})]
    for model, (columns, rows) in _MODELS.items():
        names = [column.name for column in columns]
        objects = [dict(zip(names, row, strict=True)) for row in rows]
        path = f"/predict/{model}"
        seeds += [_seed(path, row) for row in objects]
        seeds.append(_seed(path, {"instances": objects}))
        seeds.append(_seed(path, {"instances": [list(row) for row in rows]}))
        seeds.append(_seed(path, {"instances": [list(row) for row in rows] * 10}))
        seeds.append(_seed(path, {"instances": objects, "parameters": {"probabilities": False}}))
        lines = [",".join("" if value is None else str(value).lower() for value in row) for row in rows]
        csv = "\n".join([",".join(names), *lines]).encode()
        seeds.append(Seed(path.encode(), ((_TYPE, _CSV),), csv))
        seeds.append(Seed(path.encode(), ((_TYPE, _CSV),), "\n".join(lines).encode()))
        seeds.append(Seed(path.encode(), ((_TYPE, _CSV),), "\n".join(lines * 60).encode()))
        seeds += _list_tensor_seeds(f"/v2/models/{model}/infer", columns, rows)
    floats = bytes.fromhex("0000484100002042000000000000c07f") * 3
    for headers in (((_TYPE, _OCTETS),), ((_TYPE, _OCTETS), (b"accept", _OCTETS))):
        seeds.append(Seed(b"/predict", headers, floats))
    on_short_way = [seed._replace(target=b"/predict") for seed in seeds if seed.target == b"/predict/tiny"]
    return [*seeds, *on_short_way, Seed(b"/invocations", ((_TYPE, _CSV),), b"1,2,0,3\n")]


def _list_tensor_seeds(path: str, columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[Seed]:
    inputs = []
    for index, column in enumerate(columns):
        data = [row[index] for row in rows]
        inputs.append({"name": column.name, "shape": [3], "datatype": column.datatype, "data": data})
    numbers = [[row[index] for index, c in enumerate(columns) if c.datatype != "BYTES"] for row in rows]
    matrix = {"name": "numeric", "shape": [3, 4], "datatype": "FP64"}
    tensors = [{**matrix, "data": [[v if v is None else float(v) for v in row] for row in numbers]}]
    blobs = [{**matrix, "parameters": {"binary_data_size": 96}}]
    rest = np.array(numbers, dtype="<f8").tobytes()  # None → NaN
    if len(columns) > len(NUMERIC_COLUMNS):
        text = {"name": "text", "shape": [3, 2], "datatype": "BYTES"}
        tensors.append({**text, "data": ["clay", "a", "sand", "", "peat", None]})
        strings = b"".join(b"\x04\x00\x00\x00clay\x01\x00\x00\x00x" for _ in range(3))
        blobs.append({**text, "parameters": {"binary_data_size": len(strings)}})
        rest += strings
    outputs = [{"name": "label"}, {"name": "probabilities", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": blobs, "outputs": outputs}).encode()
    binary = Seed(path.encode(), ((_TYPE, _OCTETS), (_LENGTH, b"%d" % len(head))), head + rest)
    return [_seed(path, {"id": "7", "inputs": inputs}), _seed(path, {"inputs": tensors}), binary]


def draw_trees(count: int, seed: int) -> list[Seed]:
    """JSON trees of any shape, and trees that look like rows and tensors, drawn by hypothesis."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    names = st.sampled_from([*_NAMES, "instances", "inputs", "parameters", "data", "name"]) | st.text(
        max_size=9
    )
    trees = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4)
    )
    rows = st.dictionaries(st.sampled_from(_NAMES), leaves, max_size=6) | st.lists(leaves, max_size=6)
    batches = st.fixed_dictionaries({"instances": st.lists(rows, max_size=4)}, optional={"parameters": trees})
    tensor = st.fixed_dictionaries(
        {
            "name": st.sampled_from([*_NAMES, "numeric", "text"]),
            "shape": st.lists(st.integers(-1, 5), max_size=3) | trees,
            "datatype": st.sampled_from(["FP64", "FP32", "INT64", "BOOL", "BYTES", "FP16", "UINT8", ""]),
        },
        optional={"data": st.lists(leaves, max_size=8) | trees, "parameters": trees},
    )
    requests = st.fixed_dictionaries(
        {"inputs": st.lists(tensor, max_size=4)},
        optional={"outputs": trees, "id": trees, "parameters": trees},
    )
    paths = st.sampled_from([target.decode() for target in TARGETS[:12]])
    drawn = _draw(st.tuples(paths, trees | rows | batches | requests), count, seed)
    return [_seed(path, value) for path, value in drawn]


def draw_documented(document: Mapping[str, Any], count: int, seed: int) -> list[Seed]:
    """Bodies that the service's own OpenAPI document allows, and as many that it forbids, by schemathesis."""
    schema = schemathesis.openapi.from_dict(dict(document))
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    posts = [operation for operation in operations if operation.method.upper() == "POST"]
    strategies = [
        operation.as_strategy(generation_mode=mode)
        for operation in posts
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    ]
    each = -(-count // len(strategies))
    return [_take_apart(case) for strategy in strategies for case in _draw(strategy, each, seed)]


def _take_apart(case: Any) -> Seed:
    sent = requests.Request(**case.as_transport_kwargs(base_url="http://x")).prepare()
    body: Any = sent.body or b""
    headers = [(_encode(name).lower(), _encode(value)) for name, value in sent.headers.items()]
    return Seed(
        _encode(sent.path_url),
        # The others are the client's own, and not the same in every run.
        tuple((name, value) for name, value in headers if name in {_TYPE, _CODING, _LENGTH, b"accept"}),
        _encode(body),
    )


def _encode(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _draw(strategy: st.SearchStrategy[Any], count: int, seed: int) -> list[Any]:
    """``count`` or some fewer values, the same in every run."""
    found: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    with contextlib.suppress(Unsatisfiable):  # there is nothing wrong that can be sent
        collect()
    return found


def _seed(path: str, value: Any) -> Seed:
    return Seed(path.encode(), ((_TYPE, _JSON),), json.dumps(value).encode())
