"""Counts that processes share: nothing lost, nothing going backwards, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.synchronize import Event

import pytest

from timberline.inference.metrics import shared_memory
from timberline.inference.metrics.shared_memory import Memory, Slot, attach, create_memory

KEY = ("counter", "rows", 'ünï "quoted"')
INCREMENTS = 200_000
DEADLINE_S = 60.0

# Forked, so that the children inherit the memory's descriptor as workers do.
_fork = multiprocessing.get_context("fork")


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Memory with two slots."""
    created = create_memory(2)
    yield created
    os.close(created.fd)


def read_sum(memory: Memory, key: tuple[str, ...] = KEY) -> list[float]:
    """The values of ``key`` over all slots."""
    return next(group.sum() for group in memory.read().values() if group.key == key)


def count_up(fd: int, slot: int, started: Event, increments: int | None) -> None:
    """A worker: count, for ever if ``increments`` is None."""
    values = attach(fd, 2, slot).add(KEY, 2)
    values[0] += 1.0
    started.set()
    done = 1
    while increments is None or done < increments:
        values[0] += 1.0
        done += 1


def start(memory: Memory, slot: int, increments: int | None) -> multiprocessing.process.BaseProcess:
    """A worker process that has counted once."""
    started = _fork.Event()
    process = _fork.Process(target=count_up, args=(memory.fd, slot, started, increments))
    process.start()
    assert started.wait(DEADLINE_S)
    return process


def test_two_processes_add_up_while_a_third_reads(memory: Memory) -> None:
    """A page read from any worker has everybody's counts, and no later page has less."""
    workers = [start(memory, slot, INCREMENTS) for slot in (0, 1)]
    seen = [0.0]
    while any(worker.is_alive() for worker in workers):
        seen.append(read_sum(memory)[0])
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    seen.append(read_sum(memory)[0])
    assert seen == sorted(seen)
    assert seen[-1] == 2 * INCREMENTS


def test_a_process_killed_in_the_middle_loses_nothing_and_its_heir_goes_on(memory: Memory) -> None:
    """A worker may be killed at any instruction; a counter that falls looks like a reset, and rates lie."""
    total = 0.0
    for _ in range(5):
        worker = start(memory, 0, None)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        found = read_sum(memory)[0]
        assert found > total
        total = found
    assert len(next(iter(memory.read().values())).parts) == 1  # one block, taken over each time


def test_gauges_of_a_dead_process_are_not_counted_and_its_heir_resets_them(memory: Memory) -> None:
    """A request that its worker took to the grave is in flight no longer."""
    dead = _fork.Process(target=_leave_gauge, args=(memory.fd,))
    dead.start()
    dead.join()
    (group,) = memory.read().values()
    assert group.sum() == [3.0]
    assert group.sum_of(memory.read_pids()) == [0.0]
    attach(memory.fd, 2, 1)
    assert group.sum() == [0.0]
    assert memory.read_pids() == {1: os.getpid()}


def _leave_gauge(fd: int) -> None:
    attach(fd, 2, 1).add(("gauge", "in_flight"), 1, is_gauge=True)[0] = 3.0


def test_a_half_written_block_is_overwritten_by_the_heir(memory: Memory) -> None:
    """A process can be killed between writing a block and declaring it; what it left is no count."""
    slot = Slot(memory, 0)
    used = slot._head[shared_memory._USED]
    slot.add(("torn",), 3)[1] = 7.0
    slot._head[shared_memory._USED] = used  # as if killed before this was moved
    heir = attach(memory.fd, 2, 0)
    assert not memory.read()
    assert list(heir.add(("after",), 4)) == [0.0] * 4
    assert [group.key for group in memory.read().values()] == [("after",)]


def test_a_released_slot_belongs_to_nobody(memory: Memory) -> None:
    """The supervisor knows that a worker ended before its number is free for another process."""
    Slot(memory, 1)
    assert memory.read_pids() == {1: os.getpid()}
    memory.release(1)
    assert memory.read_pids() == {}


def test_the_same_key_is_one_place(memory: Memory) -> None:
    """A version that comes back after another one continues its counts."""
    slot = Slot(memory, 0)
    slot.add(KEY, 2)[1] += 1.0
    slot.add(KEY, 2)[1] += 1.0
    assert read_sum(memory) == [0.0, 2.0]


def test_keys_of_another_length_are_another_group(memory: Memory) -> None:
    """Two releases of this program in one restart may lay a block out differently."""
    Slot(memory, 0).add(KEY, 2)[0] = 1.0
    Slot(memory, 1).add(KEY, 3)[0] = 1.0
    assert [group.sum() for group in memory.read().values()] == [[1.0, 0.0], [1.0, 0.0, 0.0]]


def test_a_full_slot_counts_privately_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Swapping for years must not stop the service; what is counted already stays on the page."""
    memory = create_memory(1, slot_bytes=4096)
    os.close(memory.fd)
    slot = Slot(memory, 0)
    slot.add(KEY, 2)[0] = 5.0
    late = [slot.add(("late", str(number)), 200) for number in range(4)]
    for values in late:
        values[199] += 1.0
    assert read_sum(memory) == [5.0, 0.0]
    assert len(memory.read()) < 1 + len(late)
    assert [record.message for record in caplog.records] == ["metrics_full"]


def test_nothing_is_committed_before_it_is_used() -> None:
    """Room for thousands of versions in every slot must not count against a container's memory."""
    memory = create_memory(64)
    try:
        Slot(memory, 63).add(KEY, 100)
        memory.read()
        assert os.fstat(memory.fd).st_blocks * 512 <= 65 * 2 * os.sysconf("SC_PAGE_SIZE")
    finally:
        os.close(memory.fd)
