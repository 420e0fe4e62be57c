"""What a pipeline sees of the gate: one exit code an outcome, and the outcome on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.support.evaluations import ANY_SPEED, publish_judged
from tests.support.registry_tree import folder_of
from timberline.registry.aliases import read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.store import MODEL_FILE, Store, open_store
from timberline.registry.verdict import VERDICT_FILE, decode_verdict

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0
# A first version is judged by the floors alone, so that no outcome depends on this machine's speed.
QUICK = ["--looks", "1", "--window-s", "0.5", "--set", "duet.min_pairs=2", "--set", "duet.warmup_pairs=2"]
QUICK += ["--set", "duet.max_standstill_share=1"]  # of half a second, a hiccup is much


def _publish(store: Store, min_accuracy: float) -> int:
    """A candidate that is right in 9 of 10 held-out rows, with this floor."""
    limits = msgspec.structs.replace(ANY_SPEED, min_accuracy=min_accuracy)
    return publish_judged(store, alias="candidate", gate=limits)


def _publish_damaged(store: Store) -> int:
    version = _publish(store, 0.5)
    path = folder_of(store.open_version("tiny", version)) / MODEL_FILE
    path.write_bytes(path.read_bytes()[:-1])
    return version


def _run(module: str, store: Store, data: Path, *words: str) -> tuple[int, dict[str, object], str]:
    command = [sys.executable, "-m", module, *words, "--model", "tiny", "--registry", store.location]
    if module == "benchmarks":
        command += ["--data", str(data)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


@pytest.mark.parametrize(
    ("outcome", "code", "publish"),
    [
        ("PASS", 0, lambda store: _publish(store, 0.5)),
        ("BLOCK", 1, lambda store: _publish(store, 0.99)),
        ("INCONCLUSIVE", 2, lambda store: _publish(store, 0.9)),
        ("INVALID", 3, _publish_damaged),
    ],
    ids=["PASS", "BLOCK", "INCONCLUSIVE", "INVALID"],
)
def test_each_outcome_has_its_exit_code_and_only_a_pass_promotes(
    tmp_path: Path, outcome: str, code: int, publish: Callable[[Store], int]
) -> None:
    """A pipeline goes on at 0 alone, and tells "no" from "do not know" from "could not find out"."""
    store = open_store(tmp_path / "registry")
    version = publish(store)
    ended, told, log = _run("benchmarks", store, tmp_path / "data", "gate", *QUICK)
    assert (ended, told.get("outcome")) == (code, outcome), log
    stored = store.read_document("tiny", version, VERDICT_FILE)
    assert stored is not None
    assert decode_verdict(stored).outcome == outcome
    promoted, _, log = _run("registry", store, tmp_path, "promote")
    production = read_alias(store, "tiny", PRODUCTION)
    assert (promoted == 0) == (outcome == "PASS") == (production is not None), log


def test_wrong_use_has_no_outcome(tmp_path: Path) -> None:
    """2 is also the code of a wrong setting, as everywhere in the house; only stdout tells them apart."""
    store = open_store(tmp_path / "registry")
    _publish(store, 0.5)
    ended, told, log = _run("benchmarks", store, tmp_path / "data", "gate", "--set", "duet.seconds=1")
    assert (ended, told) == (2, {}), log
    assert "seconds" in log
