"""A request that works, for a person who has just started the service."""

from __future__ import annotations

import shlex
from typing import Any

import msgspec

from timberline.registry.manifest import Manifest

# Enough to see the shape of a row; a row of fifty columns does not fit a terminal's line.
_FEW = 3


def pick_example(manifest: Manifest) -> dict[str, Any]:
    """The first golden row's values: every column that must be given, and the first few of the others."""
    row = manifest.golden.rows[0]
    example: dict[str, Any] = {}
    for column, value in zip(manifest.signature.columns, row, strict=True):
        if not column.may_be_absent or (value is not None and len(example) < _FEW):
            example[column.name] = value
    return example


def write_curl(manifest: Manifest, host: str, port: int) -> str:
    """A line for a shell that asks for one prediction."""
    # Listening everywhere is no address to ask.
    asked = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    body = msgspec.json.encode(pick_example(manifest)).decode()
    return f"curl -s http://{asked}:{port}/predict -H 'content-type: application/json' -d {shlex.quote(body)}"
