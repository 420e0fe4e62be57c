"""Bodies of the allowed size that grow when they are read: rows, tensors, names and nesting without end.

Each is a whole request for one model, made when it is asked for, as it is 16 MiB long. Those of
`STALL` are the nine that the service was first brought down with; the others are their siblings.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping

import msgspec

from timberline.benchmarks.load.connections import write_post
from timberline.registry.manifest import Manifest

_JSON = "content-type: application/json"
_CSV = "content-type: text/csv"
_LINES = "content-type: application/jsonlines"
_OCTETS = "content-type: application/octet-stream"
_GZIP = "content-encoding: gzip"
# Below the bound, so that it is not the length that is refused.
_MARGIN_BYTES = 10


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What the bodies speak of: a model, a column of numbers, one of text if there is one."""

    model: str
    number: str
    text: str
    max_body_bytes: int


def choose_subject(manifest: Manifest, max_body_bytes: int) -> Subject:
    """The first column of each kind; without one of that kind the first of all."""
    columns = manifest.signature.columns
    numbers = [column.name for column in columns if column.datatype in {"INT64", "FP64"}]
    texts = [column.name for column in columns if column.datatype == "BYTES"]
    first = columns[0].name
    return Subject(
        model=manifest.model,
        number=(numbers or [first])[0],
        text=(texts or [first])[0],
        max_body_bytes=max_body_bytes,
    )


def list_bodies(subject: Subject) -> Mapping[str, Callable[[], bytes]]:
    """Every request by its name, in the order of the table."""
    made = _Bodies(subject)
    return {
        "10,000 good rows": made.good_rows,
        "rows [],[],…": lambda: made.predict(made.rows(b"[]")),
        "rows {},{},…": lambda: made.predict(made.rows(b"{}")),
        "rows of one column": lambda: made.predict(made.rows(b'{"%b":1}' % made.number)),
        "CSV of short lines": lambda: made.csv(b"1\n" * (made.size // 2)),
        "OIP, id of colons": lambda: made.infer(made.long_id(b":")),
        "OIP, nested data": lambda: made.infer(made.data(b"[]")),
        "gzip of {},{},…": lambda: made.predict_gzip(made.rows(b"{}")),
        "gzip of OIP, nested data": lambda: made.infer_gzip(made.data(b"[]")),
        "rows 1,1,…": lambda: made.predict(made.rows(b"1")),
        "deep nesting": lambda: made.predict(made.fill_plain(b'{"instances":', b"[", b"")),
        "many names": made.many_names,
        "one name, many times": lambda: made.predict(made.fill(b"{", b'"%b":1' % made.number, b"}")),
        "one huge number": lambda: made.predict(made.fill_plain(b'{"%b":' % made.number, b"9", b"}")),
        "text of escapes": lambda: made.predict(made.fill_plain(b'{"%b":"' % made.text, rb"\u0061", b'"}')),
        "text of colons": lambda: made.predict(made.fill_plain(b'{"%b":"' % made.text, b":", b'"}')),
        "spaces": lambda: made.predict(b" " * made.size),
        "JSON lines of {}": lambda: made.post("/predict", b"{}\n" * (made.size // 3), _LINES),
        "CSV of one quoted field": lambda: made.csv(made.fill_plain(b'"', b"1\n", b'"')),
        "CSV of commas": lambda: made.csv(b"," * made.size),
        "CSV of quotes": lambda: made.csv(b'"",' * (made.size // 3)),
        "float32, zeros": lambda: made.post("/predict", bytes(made.size // 4 * 4), _OCTETS),
        "OIP, long numbers": lambda: made.infer(made.data(b"0.12345678901234567890123")),
        "OIP, long shape": lambda: made.infer(
            made.fill(
                b'{"inputs":[{"name":"%b","datatype":"FP64","data":[1],"shape":[' % made.number, b"1", b"]}]}"
            )
        ),
        "OIP, many inputs": lambda: made.infer(made.fill(b'{"inputs":[', made.tensor(b"[1]"), b"]}")),
        "OIP, many outputs": lambda: made.infer(
            made.fill(b'{"inputs":[%b],"outputs":[' % made.tensor(b"[1]"), b'{"name":"label"}', b"]}")
        ),
        "OIP, many parameters": made.many_parameters,
        "OIP, binary empty texts": lambda: made.post(made.infer_path, *made.empty_texts()),
        "gzip of OIP, binary empty texts": made.gzip_of_empty_texts,
    }


class _Bodies:
    """The pieces they are made of; ``size`` is how long a body may become."""

    def __init__(self, subject: Subject) -> None:
        self.size = subject.max_body_bytes - _MARGIN_BYTES
        self.number = subject.number.encode()
        self.text = subject.text.encode()
        self.infer_path = f"/v2/models/{subject.model}/infer"

    def post(self, path: str, body: bytes, *headers: str) -> bytes:
        return write_post(path, body, "host: 127.0.0.1", *headers)

    def predict(self, body: bytes) -> bytes:
        return self.post("/predict", body, _JSON)

    def csv(self, body: bytes) -> bytes:
        return self.post("/predict", body, _CSV)

    def infer(self, body: bytes) -> bytes:
        return self.post(self.infer_path, body, _JSON)

    def predict_gzip(self, body: bytes) -> bytes:
        return self.post("/predict", gzip.compress(body, 9), _JSON, _GZIP)

    def infer_gzip(self, body: bytes) -> bytes:
        return self.post(self.infer_path, gzip.compress(body, 9), _JSON, _GZIP)

    def fill(self, before: bytes, unit: bytes, after: bytes) -> bytes:
        """As many units as there is room for, with commas between."""
        count = (self.size - len(before) - len(after)) // (len(unit) + 1)
        return before + (unit + b",") * (count - 1) + unit + after

    def fill_plain(self, before: bytes, unit: bytes, after: bytes) -> bytes:
        """As `fill`, without commas."""
        return before + unit * ((self.size - len(before) - len(after)) // len(unit)) + after

    def rows(self, row: bytes) -> bytes:
        return self.fill(b'{"instances":[', row, b"]}")

    def tensor(self, data: bytes) -> bytes:
        return b'{"name":"%b","datatype":"FP64","shape":[1],"data":%b}' % (self.number, data)

    def data(self, element: bytes) -> bytes:
        before, _, after = b'{"inputs":[%b]}'.partition(b"%b")
        head, _, tail = self.tensor(b"[]").rpartition(b"[]")
        return self.fill(before + head + b"[", element, b"]" + tail + after)

    def long_id(self, letter: bytes) -> bytes:
        return self.fill_plain(b'{"id":"', letter, b'","inputs":[%b]}' % self.tensor(b"[1]"))

    def good_rows(self) -> bytes:
        rows = b",".join(b'{"%b":%d}' % (self.number, n) for n in range(10_000))
        return self.predict(b'{"instances":[%b]}' % rows)

    def many_names(self) -> bytes:
        return self.predict(b"{%b}" % self._names())

    def many_parameters(self) -> bytes:
        return self.infer(b'{"parameters":{%b},"inputs":[%b]}' % (self._names(), self.tensor(b"[1]")))

    def empty_texts(self) -> tuple[bytes, str, str]:
        """One BYTES tensor of strings of no length, each of which takes four bytes: body and headers."""
        count = (self.size - 1000) // 4
        tensor = {
            "name": self.text.decode(),
            "datatype": "BYTES",
            "shape": [count],
            "parameters": {"binary_data_size": 4 * count},
        }
        head = msgspec.json.encode({"inputs": [tensor]})
        length = f"inference-header-content-length: {len(head)}"
        return head + bytes(4 * count), _OCTETS, length

    def gzip_of_empty_texts(self) -> bytes:
        body, *headers = self.empty_texts()
        return self.post(self.infer_path, gzip.compress(body, 9), *headers, _GZIP)

    def _names(self) -> bytes:
        """A million names, each another; fewer where a body may not be as long."""
        return b",".join(b'"k%d":1' % n for n in range(min(1_000_000, self.size // 16)))
