"""Chance decides who comes first: in a pair, at the start, and in waiting. The gate's own processes.

Whoever is always second finds the caches warm: 10 to 13 % of a request.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby, pairwise, product
from pathlib import Path

import msgspec
import psutil
import pytest

from tests.support.disturbance import disturbing
from tests.support.manifests import build_manifest
from tests.support.service import running_service
from tests.support.tiny_model import publish_numeric
from timberline.benchmarks.measure.duet import open_duet
from timberline.benchmarks.measure.records import Observation, Plan, Target, read_observations
from timberline.benchmarks.measure.services import drive, launch_driver
from timberline.benchmarks.measure.workload import golden_bodies
from timberline.benchmarks.settings import load_gate_settings
from timberline.registry.store import open_store

ARMS = ("candidate", "champion")
PAIRS = 200


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """One service that is asked as both arms, so that nothing but chance tells them apart."""
    folder = tmp_path_factory.mktemp("order")
    store = open_store(folder)
    manifest = store.open_version("tiny", publish_numeric(store)).manifest
    with running_service(folder, "tiny") as running:
        targets = tuple(
            Target(
                arm=arm,
                url=f"http://{running.host}:{running.port}",
                model="tiny",
                version=manifest.version,
                classes=tuple(label.value for label in manifest.signature.classes),
                atol=manifest.golden.atol,
                golden=golden_bodies(manifest, arm),
            )
            for arm in ARMS
        )
        yield Plan(
            targets=targets,
            bodies=golden_bodies(manifest, "candidate"),
            users=1,
            window_s=1.0,  # up to three times as long on a busy machine, until the pairs are there
            warmup_cycles=3,
            seed="",
            request_timeout_s=10.0,
            observations="",
            min_cycles=PAIRS,
        )


def measure(plan: Plan, folder: Path, *seeds: str) -> list[list[tuple[str, ...]]]:
    """For each seed the arms of every pair in the order asked, as the gate's Locust process asks them."""
    log, found = folder / "locust.log", []
    with launch_driver(log=log, stop_timeout_s=10.0) as driver:
        for number, seed in enumerate(seeds):
            path = folder / f"{number}.csv.gz"
            told = msgspec.structs.replace(plan, seed=seed, observations=str(path))
            outcome = drive(driver, told, timeout_s=60.0, log=log)
            assert outcome.failures == 0, outcome.first_failure
            pairs = list_pairs(read_observations(path))
            assert len(pairs) >= PAIRS
            found.append(pairs[:PAIRS])
    return found


def list_pairs(observations: list[Observation]) -> list[tuple[str, ...]]:
    """The arms of every pair in the order asked; positions and times agree about it."""
    pairs = []
    for _, both in groupby(observations, key=lambda seen: seen.pair):
        asked = sorted(both, key=lambda seen: seen.sent_s)
        assert [seen.position for seen in asked] == [0, 1]
        assert len({seen.body for seen in asked}) == 1
        pairs.append(tuple(seen.arm for seen in asked))
    return pairs


def test_chance_decides_who_is_first_in_a_pair(plan: Plan, tmp_path: Path) -> None:
    """Each arm is first in about half of the pairs, by no pattern, and the seed alone says in which."""
    first, again, other = measure(plan, tmp_path, "one", "one", "two")
    for pairs in (first, again, other):
        counts = Counter(pair[0] for pair in pairs)
        assert {frozenset(pair) for pair in pairs} == {frozenset(ARMS)}
        assert all(0.4 < counts[arm] / len(pairs) < 0.6 for arm in ARMS), counts
        turns = sum(before != after for before, after in pairwise(pairs)) / (len(pairs) - 1)
        assert 0.4 < turns < 0.6, "one follows the other by a pattern"
    assert first == again
    assert first != other


def restart(folder: Path, seed: int, count: int) -> list[tuple[str, str]]:
    """For each restart the arm that was started first, and the one that was waited for and is asked first."""
    versions = {arm: build_manifest(version=number) for number, arm in enumerate(ARMS, 1)}
    short = {"seed": seed, "window_s": 1e-6, "warmup_pairs": 0, "min_pairs": 1}
    settings = msgspec.structs.replace(load_gate_settings().duet, **short)
    programs = dict.fromkeys(ARMS, ("tests.support.announcing_service",))
    found = []

    def note(processes: Mapping[str, psutil.Process], is_over: threading.Event) -> None:
        arms = [arm for arm in processes if arm in ARMS]
        assert sorted(arms) == sorted(ARMS)
        # The kernel numbers processes in the order of their start.
        found.append((min(arms, key=lambda arm: processes[arm].pid), arms[0]))

    names = {arm: f"{manifest.model}@{manifest.version}" for arm, manifest in versions.items()}
    with (
        disturbing(note, names),
        open_duet(str(folder), versions, (), settings, folder, programs) as duet,
    ):
        for number in range(1, count + 1):
            duet.run_restart(number)
    assert len(found) == count
    return found


def test_chance_decides_who_is_started_and_who_is_waited_for_first(tmp_path: Path) -> None:
    """Two coins: who starts second is often ready second, and who is waited for last looks slow to start."""
    first = restart(tmp_path, 1, 24)
    assert all(3 <= Counter(first)[ways] <= 9 for ways in product(ARMS, ARMS)), Counter(first)
    assert restart(tmp_path, 1, 6) == first[:6]
    assert restart(tmp_path, 2, 6) != first[:6]
