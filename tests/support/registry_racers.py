"""Processes that change a registry at the same moment, round by round.

with start_racers(8) as racers:
    numbers = racers.race([Order(location, "publish")] * 8)
    answers = racers.race([Order(location, "move", version=v, expected=3) for v in range(1, 9)])
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from tests.support.manifests import publish_tiny
from timberline.registry.aliases import AliasRecord, move_alias
from timberline.registry.errors import AliasConflictError
from timberline.registry.names import PRODUCTION
from timberline.registry.store import open_store

_PROJECT = Path(__file__).parents[2]
MODEL = "tiny"


class Order(msgspec.Struct, frozen=True):
    """What one process is to do: publish a version of `MODEL`, or move its alias from ``expected``."""

    location: str
    verb: Literal["publish", "move"]
    version: int = 0
    expected: int | None = None


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The number that was published, or the move that was made; none of them: another move came first."""

    number: int | None = None
    record: AliasRecord | None = None


class Racers:
    """The processes of `start_racers`."""

    def __init__(self, children: Sequence[subprocess.Popen[bytes]]) -> None:
        self._children = children

    def race(self, orders: Sequence[Order]) -> list[Outcome]:
        """Give one order to each process, all before the first answer is awaited."""
        for child, order in zip(self._children, orders, strict=True):
            assert child.stdin
            child.stdin.write(msgspec.json.encode(order) + b"\n")
            child.stdin.flush()
        outcomes = []
        for child in self._children:
            assert child.stdout
            line = child.stdout.readline()
            assert line, "a racer has died; its traceback is above"
            outcomes.append(msgspec.json.decode(line, type=Outcome))
        return outcomes


@contextlib.contextmanager
def start_racers(count: int) -> Iterator[Racers]:
    """Processes that are imported and ready; they end with the block."""
    with start_children(count, "tests.support.registry_racers") as children:
        yield Racers(children)


@contextlib.contextmanager
def start_children(count: int, *module: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes of a module, with its arguments, that have said ``ready``; they end with the block."""
    command = [sys.executable, "-m", *module]
    with contextlib.ExitStack() as stack:
        children = []
        for _ in range(count):
            child = subprocess.Popen(command, cwd=_PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(_end, child)
            children.append(child)
        for child in children:
            assert child.stdout
            assert child.stdout.readline() == b"ready\n"
        yield children


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.returncode is None:  # else its output was read to its end
        child.kill()
        child.communicate()


def obey(order: Order) -> Outcome:
    """Do what is ordered, with a store of its own as every command has."""
    store = open_store(order.location)
    if order.verb == "publish":
        return Outcome(number=publish_tiny(store, MODEL))
    try:
        record = move_alias(store, MODEL, PRODUCTION, order.version, expected=order.expected, reason="a race")
    except AliasConflictError:
        return Outcome()
    return Outcome(record=record)


if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        outcome = obey(msgspec.json.decode(line, type=Order))
        print(msgspec.json.encode(outcome).decode(), flush=True)
