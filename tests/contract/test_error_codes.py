"""The codes of errors, which programs compare and metrics count by."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from timberline.registry.errors import LifecycleError

PARTS = ("benchmarks", "exporter", "inference", "registry", "training")
GOLDEN = Path(__file__).parent / "golden" / "error_codes.txt"


def _walk(kind: type[LifecycleError]) -> Iterator[type[LifecycleError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _walk(below)


def test_codes_and_exit_codes_stay() -> None:
    """A code is derived from a class's name; a class that is renamed must not rename it unseen."""
    modules = {import_module(f"timberline.{part}.errors").__name__ for part in PARTS}
    found = {kind for kind in _walk(LifecycleError) if kind.__module__ in modules}
    lines = sorted(f"{kind.code} {kind.exit_code}" for kind in found)
    assert lines == GOLDEN.read_text("utf-8").splitlines()
    assert len({kind.code for kind in found}) == len(found)
