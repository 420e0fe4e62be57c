"""What is done to the candidate of a self-test, and how often the gate is then to block it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from timberline.registry.errors import ConfigError

# Gates of identical versions that a calibration was cut into.
NIGHTLY = "aa_nightly"
# Replayed runs of one recipe, and releases each worse than the one before.
RETRAINED = "retrained"
DRIP = "drip"
DRIP_RETRAINED = "drip_retrained"
DRIPS = (DRIP, DRIP_RETRAINED)
SLOWED = "timberline.benchmarks.selftest.slowed"
# The tail of the self-test: one request in a hundred takes 5 ms more.
TAIL_SHARE = 0.01
TAIL_MS = 5.0
# The rates that are promised: identical versions, and regressions of this size or more.
FALSE_BLOCK_RATE = 0.01
FOUND_RATE = 0.95
FOUND_DROP = 0.02
# By kind of arm: the smallest share that is promised to be found.
_FOUND = {"cpu": 0.1, "service": 0.2, "work": 0.2, "worse": FOUND_DROP}


@dataclass(frozen=True)
class Base:
    """What a request of the champion takes, in ms: for the client, in the service, and of its processor.

    The first two are medians net of waits for a processor, the third is the mean of all that the
    service's process computes.
    """

    client_ms: float
    service_ms: float
    cpu_ms: float


@dataclass(frozen=True)
class Arm:
    """One kind of candidate.

    - ``aa``: the champion itself; ``aa_nightly`` likewise, of restarts that a calibration made.
    - ``cpu_5``: the champion's model, every request slower by processor time of 5 % of its net client p50.
    - ``service_20``: likewise by 20 % of its net p50 in the service.
    - ``work_20``: no request slower, but 20 % more processor time, taken after the answer.
    - ``tail``, ``tail_sleep``: one request in a hundred takes 5 ms more, computing or asleep.
    - ``worse_0.5``: a model that answers 0.5 % more of the held-out rows wrong, no slower.
    """

    name: str
    kind: Literal["aa", "cpu", "service", "work", "tail", "worse"]
    share: float = 0.0
    is_asleep: bool = False

    @property
    def at_most(self) -> float | None:
        """How often the gate may block it, where that is stated."""
        is_equal = self.kind == "aa" or (self.kind != "tail" and self.share == 0)
        return FALSE_BLOCK_RATE if is_equal else None

    @property
    def at_least(self) -> float | None:
        """How often the gate has to block it, where that is stated."""
        is_stated = self.kind == "tail" or (self.kind in _FOUND and self.share >= _FOUND[self.kind])
        return FOUND_RATE if is_stated else None

    @property
    def is_slowed(self) -> bool:
        """Whether processor time is added to every request."""
        return self.kind in {"cpu", "service", "work"}

    def base_us(self, base: Base) -> float:
        """What the share is of, in µs; NaN for an arm to which no time is added."""
        times = {"cpu": base.client_ms, "service": base.service_ms, "work": base.cpu_ms}
        return 1e3 * times.get(self.kind, math.nan)

    def injected_us(self, base: Base) -> float:
        """Processor time added to every request, in µs."""
        return self.share * self.base_us(base) if self.is_slowed else 0.0

    def programs(self, injected_us: float, seed: int) -> dict[str, tuple[str, ...]]:
        """What serves each arm in the place of ``inference``; nothing where the service itself does.

        The champion of a slowed candidate is slowed by nothing, so that they differ in that alone.
        """
        if self.is_slowed:
            flag = "--work-us" if self.kind == "work" else "--cpu-us"
            candidate: tuple[str, ...] = (flag, f"{injected_us:.2f}")
        elif self.kind == "tail":
            candidate = ("--tail-share", str(TAIL_SHARE), "--tail-ms", str(TAIL_MS), "--seed", str(seed))
            candidate += ("--tail-kind", "sleep" if self.is_asleep else "cpu")
        else:
            return {}
        return {"champion": (SLOWED,), "candidate": (SLOWED, *candidate)}


def parse_arm(name: str) -> Arm:
    """The arm of this name.

    Raises:
        ConfigError: there is none.
    """
    if name in {"aa", NIGHTLY}:
        return Arm(name, "aa")
    if name in {"tail", "tail_sleep"}:
        return Arm(name, "tail", is_asleep=name == "tail_sleep")
    for kind in _SHARED:
        if match := re.fullmatch(rf"{kind}_(\d+(?:\.\d+)?)", name):
            return Arm(name, kind, float(match[1]) / 100)
    raise ConfigError(
        f"no arm {name[:80]!r}",
        where="--arms",
        hint="There are aa, tail, tail_sleep, and cpu, service, work and worse with _<percent>.",
    )


_SHARED: tuple[Literal["cpu", "service", "work", "worse"], ...] = ("cpu", "service", "work", "worse")


def parse_arms(text: str, gates: int) -> dict[str, int]:
    """``aa=300,cpu_5`` → how many gates of each arm; ``gates`` where no number is given.

    Raises:
        ConfigError: an arm is unknown or named twice, or a number is none.
    """
    wanted: dict[str, int] = {}
    for part in text.split(","):
        name, equals, count = part.strip().partition("=")
        if name in wanted or (equals and not count.isdecimal()):
            raise ConfigError(
                f"{part[:80]!r} is named twice or has no number", where="--arms", hint="Say aa=300,cpu_5=100."
            )
        wanted[parse_arm(name).name] = int(count) if equals else gates
    return wanted


def choose_arm(wanted: dict[str, int], done: Sequence[str]) -> str | None:
    """The arm that is furthest behind its number, the first of equals; None when all are done.

    Arms take turns, so that an hour in which the machine is busy is an hour for all of them.
    """
    progress = {name: done.count(name) / count for name, count in wanted.items() if count}
    behind = {name: share for name, share in progress.items() if share < 1}
    return min(behind, key=behind.__getitem__) if behind else None


def read_folders(good: Path, worse: Sequence[str]) -> dict[str, Path]:
    """The folders of replayed runs by arm; ``worse`` are ``arm=folder``.

    Raises:
        ConfigError: an arm is named twice, is one of replays' own, or has no folder.
    """
    folders = {RETRAINED: good}
    for text in worse:
        name, _, folder = text.partition("=")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in {*folders, *DRIPS} or not folder:
            raise ConfigError(
                f"{text[:80]!r} is named twice or is no arm=folder", where="--worse", hint="Say half=FOLDER."
            )
        folders[name] = Path(folder)
    return folders
