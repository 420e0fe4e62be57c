"""A stage runs once for the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from timberline.registry.errors import StageError
from timberline.registry.runtime.receipts import RECEIPT
from timberline.registry.runtime.stages import Stage, digest_code, digest_value, read_receipt, require_receipt

INPUTS = {"raw": "1", "config": "2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a stage "etl" that has run on INPUTS."""
    folder = tmp_path / "etl"
    with Stage("etl", folder, INPUTS).fill() as partial:
        (partial / "table").write_bytes(b"rows")
        (partial / "plots").mkdir()
        (partial / "plots" / "one.png").write_bytes(b"dots")
    return folder


def test_stage_is_current_for_the_inputs_it_was_made_from(folder: Path) -> None:
    """Otherwise every `timberline serve` would train again."""
    receipt = Stage("etl", folder, INPUTS).find_receipt()
    assert receipt
    assert set(receipt.outputs) == {"table", "plots/one.png"}


@pytest.mark.parametrize(
    ("stage", "inputs"),
    [
        ("etl", {**INPUTS, "raw": "9"}),
        ("etl", {"raw": "1"}),
        ("etl", {**INPUTS, "more": "3"}),
        ("train", INPUTS),
    ],
)
def test_stage_is_not_current_for_other_inputs(folder: Path, stage: str, inputs: dict[str, str]) -> None:
    """A stale result that is taken for a fresh one is worse than an hour of work."""
    assert Stage(stage, folder, inputs).find_receipt() is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "receipt", "no receipt"])
def test_damaged_stage_is_not_current(folder: Path, damage: str) -> None:
    """A disk that lost a block must cost a re-run and not a wrong model."""
    spoil: dict[str, Callable[[], object]] = {
        "flip": lambda: (folder / "table").write_bytes(b"rowz"),
        "cut": lambda: (folder / "table").write_bytes(b"row"),
        "remove": (folder / "plots" / "one.png").unlink,
        "receipt": lambda: (folder / RECEIPT).write_bytes(b"{"),
        "no receipt": (folder / RECEIPT).unlink,
    }
    spoil[damage]()
    assert Stage("etl", folder, INPUTS).find_receipt() is None


def test_a_later_stage_names_the_command_that_is_missing(folder: Path, tmp_path: Path) -> None:
    """Whoever starts in the middle reads what to run first, and damaged files go no further."""
    receipt = require_receipt(folder, "timberline etl")
    assert receipt.inputs == INPUTS
    with pytest.raises(StageError, match=r"has not run. Run `timberline etl`"):
        require_receipt(tmp_path / "none", "timberline etl")
    (folder / "table").write_bytes(b"rowz")
    with pytest.raises(StageError, match=r"other bytes than the receipt says. Run `timberline etl` again"):
        require_receipt(folder, "timberline etl")


def test_failed_stage_leaves_no_receipt(tmp_path: Path) -> None:
    """Half a result must not look finished."""

    def break_off() -> None:
        with Stage("etl", tmp_path / "etl", INPUTS).fill() as partial:
            (partial / "table").write_bytes(b"rows")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_equal_work_leaves_equal_receipts(folder: Path, tmp_path: Path) -> None:
    """Later stages take the receipt's digest as input; a time or path in it would re-run them all."""
    with Stage("etl", tmp_path / "again", dict(reversed(INPUTS.items()))).fill() as partial:
        (partial / "plots").mkdir()
        (partial / "plots" / "one.png").write_bytes(b"dots")
        (partial / "table").write_bytes(b"rows")
    first, second = read_receipt(folder), read_receipt(tmp_path / "again")
    assert first
    assert second
    assert first.digest == second.digest
    assert (folder / RECEIPT).read_bytes() == (tmp_path / "again" / RECEIPT).read_bytes()


def test_digest_of_a_value_does_not_depend_on_key_order() -> None:
    """The same settings in another order are the same settings."""
    assert digest_value({"a": 1, "b": [1, 2]}) == digest_value({"b": [1, 2], "a": 1})
    assert digest_value({"a": 1}) != digest_value({"a": 2})


def test_the_digest_of_code_follows_every_file_and_its_name(tmp_path: Path) -> None:
    """A stage must run again when its program changed, and must not when only its caches did."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "fit.py").write_text("a = 1\n")
    first = digest_code(tmp_path)
    (tmp_path / "deep" / "fit.pyc").write_bytes(b"\0")
    assert digest_code(tmp_path) == first
    (tmp_path / "deep" / "fit.py").write_text("a = 2\n")
    changed = digest_code(tmp_path)
    (tmp_path / "deep" / "fit.py").rename(tmp_path / "deep" / "loop.py")
    assert len({first, changed, digest_code(tmp_path)}) == 3
