"""What the page at ``/`` is told of a version: the manifest's facts, and what a form needs to know."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from timberline.registry.manifest import Golden, Histogram, Manifest
from timberline.registry.signature import Column

# Values of golden rows that the page carries at most: 64 rows of 125 columns, some 20 KB.
_MAX_GOLDEN_VALUES = 8_000
# A text field offers no more than this; beyond it, typing is quicker than looking.
_MAX_CATEGORIES = 500
# Bars are a few pixels high: their heights are whole percents of the highest.
_FULL_HEIGHT = 100
_NUMBERED = re.compile(r"(.*\D)(\d+)")


def describe_version(manifest: Manifest) -> dict[str, Any]:
    """Everything that the page shows, ready for JSON.

    ``columns`` leave out what is not known; their ``histogram`` has ``heights`` (percent of the
    highest density) between ``edges``. ``groups`` are indexes of columns, see `find_groups`.
    """
    columns, golden = manifest.signature.columns, manifest.golden
    groups = find_groups(columns, golden)
    grouped = {index for group in groups for index in group["columns"]}
    kept = max(1, _MAX_GOLDEN_VALUES // len(columns))
    return {
        "model": manifest.model,
        "version": manifest.version,
        "classes": manifest.signature.classes,
        "columns": [
            _describe_column(column, None if index in grouped else manifest.histograms.get(column.name))
            for index, column in enumerate(columns)
        ],
        "groups": groups,
        "golden": {"rows": golden.rows[:kept], "classes": golden.class_indexes[:kept]},
        "metrics": manifest.metrics,
        "about": _describe_origin(manifest),
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
    categories = column.categories[:_MAX_CATEGORIES] if column.categories else None
    facts = {
        "name": column.name,
        "type": column.datatype,
        "default": column.default,
        "nullable": column.is_nullable or None,
        "unit": column.unit,
        "description": column.description,
        "minimum": column.minimum,
        "maximum": column.maximum,
        "categories": categories,
        "histogram": _describe_histogram(histogram) if histogram and column.datatype != "BOOL" else None,
    }
    return {key: value for key, value in facts.items() if value is not None}


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


def _describe_origin(manifest: Manifest) -> list[tuple[str, str]]:
    """Names and values of the facts in the page's last table."""
    return list(_origin(manifest))


def _origin(manifest: Manifest) -> Iterator[tuple[str, str]]:
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
