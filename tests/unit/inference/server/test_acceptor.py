"""Who takes the next connection."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from timberline.inference.server.acceptor import ConnectionCounts, bind_socket
from timberline.registry.errors import ConfigError


@pytest.fixture
def workers() -> Iterator[list[ConnectionCounts]]:
    """Three workers' views of one memory; nobody has entered."""
    fd = ConnectionCounts.create_memory(3)
    yield [ConnectionCounts(fd, 3, slot) for slot in range(3)]
    os.close(fd)


def test_who_has_more_than_another_is_ahead(workers: list[ConnectionCounts]) -> None:
    """The rule that spreads connections: the next one is for who has fewest."""
    for worker in workers:
        worker.enter()
    assert not any(worker.has_most() for worker in workers)
    workers[0].add(1)
    assert [worker.has_most() for worker in workers] == [True, False, False]
    workers[1].add(1)
    workers[2].add(1)
    assert not any(worker.has_most() for worker in workers)
    workers[2].add(-1)
    assert [worker.has_most() for worker in workers] == [True, True, False]


def test_nobody_waits_for_a_worker_that_is_not_there(workers: list[ConnectionCounts]) -> None:
    """A free slot, a leaving and a killed worker take no connections: they are nobody's peers."""
    workers[0].enter()
    workers[0].add(5)
    assert not workers[0].has_most()
    workers[1].enter()
    assert workers[0].has_most()
    workers[1].leave()
    workers[1].add(1)  # what was in the queue
    assert not workers[0].has_most()
    assert not workers[1].has_most()
    workers[2].enter()
    workers[0].clear(2)  # as the supervisor does for one that was killed
    assert not workers[0].has_most()


def test_a_process_on_its_own_is_never_ahead() -> None:
    """It has nobody to leave connections to."""
    alone = ConnectionCounts()
    alone.enter()
    alone.add(100)
    assert not alone.has_most()


def test_an_address_that_cannot_be_had_is_named() -> None:
    """The commonest mistake at a start."""
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1:80: cannot listen"):
        bind_socket("192.0.2.1", 80)
