"""Golden rows: rows with known answers that a version carries for warm-up and load-and-query checks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from timberline.exporter.parity.compare import FloatArray, IntArray
from timberline.exporter.parity.rows import Chunk, RawValue
from timberline.registry.manifest import Golden


@dataclass(frozen=True, order=True)
class _Candidate:
    """A row that may become golden; the smallest ``key`` is wanted most."""

    key: float
    row: int
    values: tuple[RawValue, ...] = field(compare=False)
    class_index: int = field(compare=False)
    probabilities: tuple[float, ...] = field(compare=False)


class GoldenPicker:
    """Choose ``count`` golden rows in one pass over the test split, the same ones every time.

    For each true class it wants rows by turns: the one whose two best probabilities are closest
    (where a small drift shows first), then one from anywhere (by a hash of its row number).
    """

    def __init__(self, count: int, class_count: int) -> None:
        self._count = count
        self._near: list[list[_Candidate]] = [[] for _ in range(class_count)]
        self._anywhere: list[list[_Candidate]] = [[] for _ in range(class_count)]

    def offer(self, chunk: Chunk, probabilities: FloatArray) -> None:
        """Consider the rows of a chunk; ``probabilities`` are the graph's, float32 (rows, C)."""
        ordered = np.sort(probabilities, axis=1)
        margins = (ordered[:, -1] - ordered[:, -2]).astype(np.float64)  # (rows,)
        for wanted, keys in ((self._near, margins), (self._anywhere, _hash_rows(chunk.rows))):
            for class_index, kept in enumerate(wanted):
                members = np.flatnonzero(chunk.classes == class_index)
                if len(kept) == self._count:
                    members = members[keys[members] < kept[-1].key]
                best = members[np.argsort(keys[members], kind="stable")][: self._count]
                kept += [_make_candidate(int(index), keys, chunk, probabilities) for index in best]
                kept.sort()
                del kept[self._count :]

    def pick(self) -> Golden:
        """The chosen rows in source order; as even over the classes as there are rows for it."""
        queues = [_interleave(*pair) for pair in zip(self._near, self._anywhere, strict=True)]
        chosen: dict[int, _Candidate] = {}
        while len(chosen) < self._count and any(queues):
            for queue in queues:
                if queue and len(chosen) < self._count:
                    candidate = queue.pop(0)
                    chosen[candidate.row] = candidate
        golden = [chosen[row] for row in sorted(chosen)]
        return Golden(
            rows=tuple(candidate.values for candidate in golden),
            class_indexes=tuple(candidate.class_index for candidate in golden),
            probabilities=tuple(candidate.probabilities for candidate in golden),
        )


def _make_candidate(index: int, keys: FloatArray, chunk: Chunk, probabilities: FloatArray) -> _Candidate:
    return _Candidate(
        key=float(keys[index]),
        row=int(chunk.rows[index]),
        values=chunk.take(index),
        class_index=int(chunk.classes[index]),
        probabilities=tuple(map(float, probabilities[index])),
    )


def _interleave(near: list[_Candidate], anywhere: list[_Candidate]) -> list[_Candidate]:
    """One of each by turns, each row once."""
    mixed = [candidate for pair in zip(near, anywhere, strict=True) for candidate in pair]
    return list({candidate.row: candidate for candidate in mixed}.values())


def _hash_rows(rows: IntArray) -> FloatArray:
    """A fixed pseudo-random number in [0, 1) for each row number.

    Source: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    mixed = rows.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    share: FloatArray = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return share
