"""Processes that publish and promote at the same moment, in a folder and in a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.places import new_prefix
from tests.support.registry_commands import ask, list_broken
from tests.support.registry_racers import MODEL, Order, Racers, start_racers
from tests.support.s3_proxy import S3Proxy
from tests.support.soak import SIZES, Summary
from timberline.registry.aliases import inspect_history, read_alias
from timberline.registry.names import PRODUCTION
from timberline.registry.store import open_store

RACERS = range(SIZES.racers)
ROUNDS = range(SIZES.races)


@pytest.fixture(scope="module")
def racers(proxy: S3Proxy) -> Iterator[Racers]:
    """Processes for both stores; they ask the server itself, so that no proxy lines them up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.upstream)
        with start_racers(len(RACERS)) as racers:
            yield racers


@pytest.fixture(params=["folder", "bucket"])
def location(request: pytest.FixtureRequest, proxy: S3Proxy, tmp_path: Path) -> str:
    """Where a registry may be made, of either kind."""
    return str(tmp_path / "registry") if request.param == "folder" else new_prefix("s3://registry")


def test_racing_publishers_get_numbers_without_gap_or_double(location: str, racers: Racers) -> None:
    """A number given twice would let one release overwrite another; a gap would look like a lost one."""
    summary = Summary(f"publishers, {_tell_kind(location)}")
    for number in ROUNDS:
        outcomes = racers.race([Order(location, "publish")] * len(RACERS))
        first = number * len(RACERS) + 1
        assert sorted(outcome.number or 0 for outcome in outcomes) == list(range(first, first + len(RACERS)))
    checks = ask(location, "verify")
    assert not list_broken(checks)
    assert {check["name"] for check in checks.value} == {
        f"{MODEL}@{number}" for number in range(1, len(RACERS) * len(ROUNDS) + 1)
    }
    summary.show(publishers=len(RACERS), rounds=len(ROUNDS), versions=len(checks.value))


def test_one_of_racing_promoters_wins_and_the_others_are_told(location: str, racers: Racers) -> None:
    """Each saw the same champion: a second winner would replace one that it was not compared with."""
    summary = Summary(f"promoters, {_tell_kind(location)}")
    racers.race([Order(location, "publish")] * len(RACERS))
    winners = []
    for number in ROUNDS:
        orders = [Order(location, "move", version=place + 1, expected=number or None) for place in RACERS]
        moves = [outcome.record for outcome in racers.race(orders) if outcome.record]
        assert len(moves) == 1, moves
        assert read_alias(open_store(location), MODEL, PRODUCTION) == moves[0]
        winners += moves
    history = inspect_history(open_store(location), MODEL, PRODUCTION)
    assert history.problems == []
    assert history.chain == winners
    assert [record.sequence for record in winners] == list(range(1, len(ROUNDS) + 1))
    assert not list_broken(ask(location, "verify"))
    summary.show(promoters=len(RACERS), rounds=len(ROUNDS))


def _tell_kind(location: str) -> str:
    return "bucket" if "://" in location else "folder"
