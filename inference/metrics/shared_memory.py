"""Counts in memory that several processes share: one writes, all read, none waits.

The region is divided into slots. A slot has one writing process at a time and is a sequence of
blocks that only grows: a key and the values counted under it. Whoever answers `/metrics` adds up
the values of equal keys over all slots.

    region   slot 0 | slot 1 | …                        ``_SLOT_BYTES`` each
    slot     pid | used | beats | block | block | …     ``used``: end of the last whole block
    block    key bytes | values | is gauge | key, padded to 8 bytes | values (float64)

No locks are needed: a value is 8 aligned bytes, which processors store as one, and has one writer;
a block is written first and ``used`` moved behind it afterwards. So a reader sees no half of
anything, and a process killed between two instructions leaves every count that it finished. The
process that takes its slot over finds the blocks and goes on counting in them: nothing is lost and
nothing goes backwards. What is only true of a living process (a gauge) is set to 0 on the way.

The memory is committed page by page as it is used; a slot has room for some 9,000 versions of 54
columns. Beyond that a block is private to its process and not shown, and the log says so once.

This module imports nothing heavy, as the supervisor imports it.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from timberline.registry.runtime.documents import decode_json
from timberline.registry.runtime.logs import log_event

_logger = logging.getLogger("inference.metrics.shared_memory")

_SLOT_BYTES = 64 * 1024 * 1024
_SLOT_HEAD = 64  # bytes; a cache line of its own, as ``used`` is written by one and read by others
_PID, _USED, _BEATS = 0, 1, 2  # in words
_BLOCK_HEAD = struct.Struct("=3q")
_WORD = 8

# Kind of block, then its labels.
Key = tuple[str, ...]


class Memory:
    """A region as any process sees it; `attach` to write in it.

    Args:
        fd: of the memory, ``slots`` slots long; stays open, and belongs to the caller.
        slots: how many processes may write at a time.
    """

    def __init__(self, fd: int, slots: int, slot_bytes: int = _SLOT_BYTES) -> None:
        self.fd = fd
        self.slots = slots
        self.slot_bytes = slot_bytes
        view = memoryview(mmap.mmap(fd, slots * slot_bytes))
        self._parts = [view[slot * slot_bytes : (slot + 1) * slot_bytes] for slot in range(slots)]
        self._seen = [_SLOT_HEAD] * slots  # how far each slot's blocks are known
        self._groups: dict[tuple[Key, int], Group] = {}

    def read_pids(self) -> dict[int, int]:
        """Slot → process that writes in it, of those that are taken by a living process."""
        pids = {slot: part.cast("q")[_PID] for slot, part in enumerate(self._parts)}
        return {slot: pid for slot, pid in pids.items() if pid and _is_alive(pid)}

    def release(self, slot: int) -> None:
        """Mark the slot's process as ended; called by its parent. The counts stay."""
        head = self._parts[slot].cast("q")
        head[_PID] = head[_BEATS] = 0

    def read_beats(self, slot: int) -> int:
        """How often the slot's process has shown that it is not stuck; 0 if it has not begun to."""
        return self._parts[slot].cast("q")[_BEATS]

    def read(self) -> Mapping[tuple[Key, int], Group]:
        """All blocks by key and number of values, in the order found. Only what is new is looked at."""
        for slot, part in enumerate(self._parts):
            end = part.cast("q")[_USED]
            for block in _walk(part, self._seen[slot], end):
                group = self._groups.setdefault((block.key, len(block.values)), Group(block.key))
                group.parts.append((slot, block.values))
                self._seen[slot] = block.end
        return self._groups


class Group:
    """The blocks of one key, at most one a slot."""

    __slots__ = ("key", "parts")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.parts: list[tuple[int, memoryview[float]]] = []

    def sum(self) -> list[float]:
        """The values, added up over all slots."""
        return _add([values for _, values in self.parts])

    def sum_of(self, slots: Mapping[int, int]) -> list[float]:
        """As `sum`, over these slots only; for gauges, which are not true of a dead process."""
        nothing = [0.0] * len(self.parts[0][1])
        return _add([values for slot, values in self.parts if slot in slots]) or nothing


class Slot:
    """One process's place to count; belongs to the event loop's thread.

    Taking a slot over from a process that has ended keeps its counts and sets its gauges to 0.
    """

    def __init__(self, memory: Memory, slot: int) -> None:
        self.memory = memory
        self.number = slot
        self._part = memory._parts[slot]
        self._head = self._part[:_SLOT_HEAD].cast("q")
        if not self._head[_USED]:
            self._head[_USED] = _SLOT_HEAD
        self._known: dict[tuple[Key, int], memoryview[float]] = {}
        self._is_full = False
        for block in _walk(self._part, _SLOT_HEAD, self._head[_USED]):
            self._known[block.key, len(block.values)] = block.values
            if block.is_gauge:
                clear(block.values)
        self._head[_BEATS] = 0
        self._head[_PID] = os.getpid()

    def beat(self) -> None:
        """Show that this process is not stuck."""
        self._head[_BEATS] += 1

    def add(self, key: Key, count: int, *, is_gauge: bool = False) -> memoryview[float]:
        """``count`` values to count in under ``key``: those that are there already, else new ones at 0.

        Increment them with ``values[i] += 1.0``, which costs about 65 ns.
        """
        values = self._known.get((key, count))
        if values is None:
            values = self._known[key, count] = self._append(key, count, is_gauge)
        return values

    def _append(self, key: Key, count: int, is_gauge: bool) -> memoryview[float]:
        text = msgspec.json.encode(key)
        start = self._head[_USED]
        first = start + _BLOCK_HEAD.size + _pad(len(text))
        end = first + count * _WORD
        if end > len(self._part):
            return self._count_privately(key, count)
        values = self._part[first:end].cast("d")
        clear(values)  # a predecessor may have been killed halfway through this block
        self._part[start + _BLOCK_HEAD.size :][: len(text)] = text
        _BLOCK_HEAD.pack_into(self._part, start, len(text), count, is_gauge)
        self._head[_USED] = end
        return values

    def _count_privately(self, key: Key, count: int) -> memoryview[float]:
        if not self._is_full:
            self._is_full = True
            log_event(
                _logger,
                "metrics_full",
                logging.WARNING,
                first=" ".join(key)[:80],
                hint="what is new is not shown in /metrics until the service is started again",
            )
        return memoryview(bytearray(count * _WORD)).cast("d")


def open_memory(name: str) -> int:
    """File descriptor of new memory without a path; it is gone with the last process that has it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:  # pragma: no cover - macOS, which has no memfd
        return os.dup(file.fileno())


def create_memory(slots: int, slot_bytes: int = _SLOT_BYTES) -> Memory:
    """New memory for ``slots`` writing processes, which inherit its ``fd`` and `attach`.

    It has no name: it is gone with the last process that has it.
    """
    fd = open_memory("timberline-metrics")
    os.ftruncate(fd, slots * slot_bytes)
    return Memory(fd, slots, slot_bytes)


def attach(fd: int, slots: int, slot: int) -> Slot:
    """Take slot number ``slot`` (from 0) of the memory behind ``fd``, which has ``slots`` of them.

    The slot must be free, or its last process have ended.
    """
    return Slot(Memory(fd, slots), slot)


def create_private() -> Slot:
    """A place to count for a process on its own."""
    memory = create_memory(1)
    os.close(memory.fd)  # mapped already, and not to be shared
    return Slot(memory, 0)


def clear(values: memoryview[float]) -> None:
    """Set all to 0."""
    values.cast("B")[:] = bytes(values.nbytes)


class _Block(NamedTuple):
    key: Key
    values: memoryview[float]
    is_gauge: bool
    end: int  # offset in the slot


def _walk(part: memoryview, start: int, end: int) -> Iterator[_Block]:
    """The blocks between two offsets of a slot."""
    while start < end:
        length, count, is_gauge = _BLOCK_HEAD.unpack_from(part, start)
        if not length:  # not every processor shows its writes in their order: next time
            return
        text = start + _BLOCK_HEAD.size
        first = text + _pad(length)
        start = first + count * _WORD
        try:
            key = decode_json(bytes(part[text : text + length]), Key)
        except msgspec.DecodeError:  # as above: shown without its text
            return
        yield _Block(key, part[first:start].cast("d"), bool(is_gauge), start)


def _add(parts: list[memoryview[float]]) -> list[float]:
    return [sum(values) for values in zip(*parts, strict=True)]


def _pad(length: int) -> int:
    return -(-length // _WORD) * _WORD


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
