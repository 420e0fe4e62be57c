"""From rounds of load to figures: costs, ratios within a round, their spread, targets met or not.

Pure: numbers in, numbers out. Every ratio is taken within one round, whose arms were measured right
after one another, and only then summarised: what slows the machine down slows both.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np

from timberline.benchmarks.dev.service.closed_loop import Seen
from timberline.registry.errors import ConfigError
from timberline.registry.runtime.documents import decode_toml

T = TypeVar("T")
DEFAULT_TARGETS = Path(__file__).with_name("targets.toml")


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One value a round: their median, and the whole range that they lie in.

    ``least`` of a ratio of costs is that of the cheapest round of each side: other programs only ever
    make a round dearer, so on a busy machine it comes nearest to what a quiet one would show.
    """

    median: float
    low: float
    high: float
    least: float | None = None


def summarise(values: Sequence[float]) -> Spread:
    """The spread of at least one value."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


def divide(costs: Sequence[float], others: Sequence[float]) -> Spread:
    """The spread of the ratios of costs, round by round."""
    ratios = summarise([cost / other for cost, other in zip(costs, others, strict=True)])
    return msgspec.structs.replace(ratios, least=min(costs) / min(others))


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One service under single-row load.

    - ``cpu_us``: processor time a request, microseconds; ``to_noop`` the same as a multiple of the
      no-op's in the same round.
    - ``busy_share``: of the time in which the server worked, or would have if other programs had
      let it; least of all rounds. Far below 1 it waited for its clients, and woke up more often
      than under full load.
    - ``waited_share``: of the time in which other programs had its core; most of all rounds.
    - ``p50_ms``, ``p99_ms``: client latency, over the pooled requests of all rounds.
    """

    cpu_us: Spread
    to_noop: Spread
    requests_per_s: float
    busy_share: float
    waited_share: float
    p50_ms: float
    p99_ms: float
    requests: int
    answer_bytes: int


def cost_us(seen: Seen) -> float:
    """Processor time of a request over all of the server's processes, microseconds."""
    return sum(seen.server_cpu_s) / seen.requests * 1e6


def describe_service(rounds: Sequence[Seen], noop: Sequence[Seen]) -> Row:
    """One service's row, from its rounds and the no-op's."""
    costs = [cost_us(seen) for seen in rounds]
    latencies = np.concatenate([np.frombuffer(seen.latencies_s, np.float32) for seen in rounds])
    p50, p99 = (np.quantile(latencies, [0.5, 0.99]) * 1e3).tolist()
    return Row(
        cpu_us=summarise(costs),
        to_noop=divide(costs, [cost_us(seen) for seen in noop]),
        requests_per_s=statistics.median(seen.requests / seen.elapsed_s for seen in rounds),
        busy_share=min((sum(seen.server_cpu_s) + seen.server_wait_s) / seen.elapsed_s for seen in rounds),
        waited_share=max(seen.server_wait_s / seen.elapsed_s for seen in rounds),
        p50_ms=p50,
        p99_ms=p99,
        requests=sum(seen.requests for seen in rounds),
        answer_bytes=rounds[-1].answer_bytes,
    )


def busiest_us(seen: Seen) -> float:
    """Processor time a request of the server's busiest process, microseconds.

    If each of its processes had a core to itself, the server would be full when that one is. Two
    processes that share the work evenly have half of `cost_us`, at 70 % and 30 % only 0.7 of it.
    """
    return max(seen.server_cpu_s) / seen.requests * 1e6


def count_rate(seen: Seen, cores: int) -> float:
    """Requests a second as seen, scaled to what the clients on the same ``cores`` left to the server."""
    left = cores - seen.client_cpu_s / seen.elapsed_s
    return seen.requests / seen.elapsed_s * cores / left


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bound of one figure: ``at_most`` or ``at_least``, of its median or of its highest value."""

    text: str
    of: Literal["median", "high"] = "median"
    at_most: float | None = None
    at_least: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether ``value`` lies within the bound."""
        return (self.at_most is None or value <= self.at_most) and (
            self.at_least is None or value >= self.at_least
        )


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """A target beside its figure; ``is_met`` None where nothing was measured."""

    name: str
    text: str
    bound: str
    value: float | None
    is_met: bool | None


def load_targets(path: Path = DEFAULT_TARGETS) -> dict[str, Target]:
    """The targets by the figure that they bound.

    Raises:
        ConfigError: the file is not one of targets.
    """
    return decode_targets(path, dict[str, Target])


def decode_targets(path: Path, kind: type[T]) -> T:
    """Targets in tables of the shape ``kind``.

    Raises:
        ConfigError: the file is not one of them.
    """
    try:
        return msgspec.convert(decode_toml(path.read_bytes()), kind)
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(str(error), where=str(path)) from error


def judge(targets: Mapping[str, Target], figures: Mapping[str, Spread]) -> tuple[Judged, ...]:
    """Every target in order, with its figure if it was measured."""
    judged = []
    for name, target in targets.items():
        value = getattr(figures[name], target.of) if name in figures else None
        bound = f"≤ {target.at_most:g}" if target.at_most is not None else f"≥ {target.at_least:g}"
        is_met = None if value is None else target.is_met(value)
        judged.append(Judged(name=name, text=target.text, bound=bound, value=value, is_met=is_met))
    return tuple(judged)
