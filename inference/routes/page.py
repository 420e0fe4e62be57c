"""The page at ``/`` for a person's browser: one file that asks for nothing but this service.

The sources lie in ``static/`` and are put together as they stand, once for every version. What
comes from a manifest is data (JSON that a script reads, text that is escaped), never markup; the
policy lets the browser run the page's own script and style only, known by their digests.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shlex
import weakref
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any

import msgspec

from timberline.inference.formats.request import Answer, Header, read_accept
from timberline.inference.models.versions import VERSION_HEADER, LiveVersion
from timberline.registry.manifest import Golden, Histogram, Manifest
from timberline.registry.moments import write_row
from timberline.registry.signature import Column

_STATIC = Path(__file__).with_name("static")
# In this order one script: each uses what stands before it.
_SCRIPTS = ("dom.js", "quality.js", "fields.js", "predict.js", "traffic.js")
# What could end the element that the data stands in, or make a script of it.
_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}
# Enough to see the shape of a row; a row of fifty columns does not fit a terminal's line.
_FEW = 3
# Values of golden rows that the page carries at most: 64 rows of 125 columns, some 20 KB.
_MAX_GOLDEN_VALUES = 8_000
# Bars are a few pixels high: their heights are whole percents of the highest.
_FULL_HEIGHT = 100
_NUMBERED = re.compile(r"(.*\D)(\d+)")


class PageBuilder:
    """Builds the page of a version when it is first asked for, and keeps the last one.

    Args:
        root_path: before every path that it asks for.
    """

    def __init__(self, root_path: str = "") -> None:
        self._root_path = root_path
        self._built: tuple[weakref.ref[LiveVersion], Answer] | None = None

    def answer(self, live: LiveVersion) -> Answer:
        """The page of ``live``."""
        if self._built is None or self._built[0]() is not live:
            version = (VERSION_HEADER, f"{live.model}@{live.version}".encode())
            page = write_page(live.manifest, self._root_path)
            self._built = (weakref.ref(live), Answer(200, (*page_headers(), version), page))
        return self._built[1]


def prefers_page(accept: bytes) -> bool:
    """Whether a client with this Accept header asks for HTML rather than JSON.

    Only a client that names ``text/html`` does, as browsers do; ``*/*`` is a program's.
    """
    ranges = read_accept(accept)
    page, data = (ranges[name][0] if name in ranges else 0 for name in ("text/html", "application/json"))
    return page > 0 and page >= data


def write_page(manifest: Manifest, root_path: str = "") -> bytes:
    """The whole page about one version; without a ``root_path`` it asks for what lies beside it."""
    style, script, template = _read_sources()
    data = msgspec.json.encode({"root": root_path, **describe_version(manifest)}).decode().translate(_ESCAPES)
    page = template.substitute(
        name=html.escape(f"{manifest.model}@{manifest.version}"),
        title=html.escape(manifest.title),
        description=html.escape(manifest.description),
        model=html.escape(manifest.model),
        root=html.escape(f"{root_path}/" if root_path else ""),
        style=style,
        script=script,
        data=data,
    )
    return page.encode()


@cache
def page_headers() -> tuple[Header, ...]:
    """The headers of every page: what it may do is what it must, and no more."""
    style, script, _ = _read_sources()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_digest(script)}'",
            f"style-src '{_digest(style)}'",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    return (
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"referrer-policy", b"no-referrer"),
        (b"vary", b"accept"),
    )


@cache
def _read_sources() -> tuple[str, str, Template]:
    style = (_STATIC / "page.css").read_text("utf-8")
    script = "".join((_STATIC / name).read_text("utf-8") for name in _SCRIPTS)
    return style, script, Template((_STATIC / "page.html").read_text("utf-8"))


def _digest(source: str) -> str:
    """A source expression of Content Security Policy Level 3 for an inline element's text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def pick_example(manifest: Manifest) -> dict[str, Any]:
    """The first golden row's values: every column that must be given, and the first few of the others."""
    columns = manifest.signature.columns
    row = write_row(manifest.golden.rows[0], columns)
    example: dict[str, Any] = {}
    for column, value in zip(columns, row, strict=True):
        if not column.may_be_absent or (value is not None and len(example) < _FEW):
            example[column.name] = value
    return example


def write_curl(manifest: Manifest, host: str, port: int) -> str:
    """A line for a shell that asks for one prediction."""
    # Listening everywhere is no address to ask.
    asked = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    body = msgspec.json.encode(pick_example(manifest)).decode()
    return f"curl -s http://{asked}:{port}/predict -H 'content-type: application/json' -d {shlex.quote(body)}"


def describe_version(manifest: Manifest) -> dict[str, Any]:
    """Everything that the page shows, ready for JSON.

    ``columns`` leave out what is not known; their ``histogram`` has ``heights`` (percent of the
    highest density) between ``edges``. ``groups`` are indexes of columns, see `find_groups`.
    """
    columns, golden = manifest.signature.columns, manifest.golden
    groups = find_groups(columns, golden)
    grouped = {index for group in groups for index in group["columns"]}
    kept = max(1, _MAX_GOLDEN_VALUES // len(columns))
    rows = [write_row(row, columns) for row in golden.rows[:kept]]
    return {
        "model": manifest.model,
        "version": manifest.version,
        "classes": manifest.signature.classes,
        "columns": [
            _describe_column(column, None if index in grouped else manifest.histograms.get(column.name))
            for index, column in enumerate(columns)
        ],
        "groups": groups,
        "golden": {"rows": rows, "classes": golden.class_indexes[:kept]},
        "metrics": manifest.metrics,
        "about": list(_describe_origin(manifest)),
    }


def find_groups(columns: Sequence[Column], golden: Golden) -> list[dict[str, Any]]:
    """Columns that are one choice spread over several indicators, as ``{"name", "columns"}``.

    They are INT64 or BOOL columns of 0 and 1 whose names differ in the number at their end only
    (``Soil_Type1``, ``Soil_Type2``, …), and in every golden row exactly one of them is 1.
    """
    by_prefix: dict[str, list[tuple[int, int]]] = {}
    for index, column in enumerate(columns):
        match = _NUMBERED.fullmatch(column.name)
        if match and _is_indicator(column):
            by_prefix.setdefault(match[1], []).append((int(match[2]), index))
    groups = []
    for prefix, members in by_prefix.items():
        indexes = [index for _, index in sorted(members)]
        if len(indexes) > 1 and all(sum(row[i] == 1 for i in indexes) == 1 for row in golden.rows):
            groups.append({"name": prefix.rstrip("_- ."), "columns": indexes})
    return groups


def _is_indicator(column: Column) -> bool:
    if column.is_nullable or column.datatype not in {"INT64", "BOOL"}:
        return False
    low, high = column.minimum, column.maximum
    # An indicator that training never saw set has the range 0 to 0.
    return column.datatype == "BOOL" or (low is not None and high is not None and 0 <= low <= high <= 1)


def _describe_column(column: Column, histogram: Histogram | None) -> dict[str, Any]:
    known, is_whole = find_categories(column, histogram)
    default, minimum, maximum = write_row((column.default, column.minimum, column.maximum), (column,) * 3)
    facts = {
        "name": column.name,
        "type": column.moment or column.datatype,
        "default": default,
        "nullable": column.is_nullable or None,
        "unit": column.unit,
        "description": column.description,
        "minimum": minimum,
        "maximum": maximum,
        "categories": known or None,
        "isWhole": is_whole or None,
        "histogram": _describe_histogram(histogram) if histogram and column.datatype != "BOOL" else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def find_categories(column: Column, histogram: Histogram | None) -> tuple[tuple[str, ...], bool]:
    """The values of a text column that training saw, and whether these are all: of many the commonest."""
    if column.categories:
        return column.categories, True
    return (histogram.categories or () if histogram is not None else ()), False


def _describe_histogram(histogram: Histogram) -> dict[str, Any] | None:
    if histogram.edges is None:
        return None
    widths = [high - low for low, high in pairwise(histogram.edges)]
    if not all(width > 0 for width in widths):
        return None
    densities = [count / width for count, width in zip(histogram.counts, widths, strict=True)]
    highest = max(densities)
    return {
        "edges": [float(f"{edge:.6g}") for edge in histogram.edges],
        "heights": [round(_FULL_HEIGHT * density / highest) if highest else 0 for density in densities],
    }


def _describe_origin(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Names and values of the facts in the page's last table."""
    lineage, signature = manifest.lineage, manifest.signature
    yield "Version", f"{manifest.model}@{manifest.version}"
    yield "Created", manifest.created_at
    yield "Raw features", str(len(signature.columns))
    yield "Classes", str(len(signature.classes))
    yield (
        "Class prior",
        {"none": "as in training", "given": "given", "em": "estimated by EM"}[manifest.prior.method],
    )
    yield "ONNX opset", str(manifest.opset)
    yield "Training run", lineage.run_id
    yield "Git commit", lineage.git_commit or "not known"
    yield "Data", lineage.data_fingerprint
    yield "Test split", lineage.test_fingerprint
    for name, digest in sorted(manifest.files.items()):
        yield name, digest.sha256
    yield "Made with", ", ".join(f"{name} {version}" for name, version in sorted(manifest.producers.items()))
    yield "Attribution", lineage.attribution
