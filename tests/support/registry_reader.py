"""A process that looks at a registry again and again while others change it, and ends at what is not whole.

with start_readers(location, 2) as readers:
    ...                                          # publish, promote, kill whoever does
    looked = readers.stop()                      # what each of them saw
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import msgspec

from tests.support.registry_racers import start_children
from timberline.registry.aliases import AliasRecord, open_target, read_alias
from timberline.registry.checks import check_versions
from timberline.registry.names import CANDIDATE, PRODUCTION
from timberline.registry.show import summarise_versions
from timberline.registry.store import Store, open_store

MODEL = "tiny"
ALIASES = (CANDIDATE, PRODUCTION)
# An alias of this name may be damaged for a while.
DAMAGED = "staging"


class Looked(msgspec.Struct):
    """How often a reader looked, and what it saw: versions, and the records of each of `ALIASES`."""

    looks: int = 0
    versions: list[int] = []
    records: dict[str, list[AliasRecord]] = {}


class Readers:
    """The processes of `start_readers`."""

    def __init__(self, children: Sequence[subprocess.Popen[bytes]]) -> None:
        self._children = children

    def stop(self) -> list[Looked]:
        """End them; a reader that met what is not whole fails here, its traceback is above."""
        answers = [child.communicate() for child in self._children]
        assert [child.returncode for child in self._children] == [0] * len(self._children)
        return [msgspec.json.decode(out.splitlines()[-1], type=Looked) for out, _ in answers]


@contextlib.contextmanager
def start_readers(location: str, count: int) -> Iterator[Readers]:
    """Readers that have looked once; they end with the block."""
    with start_children(count, "tests.support.registry_reader", location) as children:
        yield Readers(children)


def look(store: Store, looked: Looked) -> None:
    """Look once. Nothing that was there is gone or another thing, and all of it is whole."""
    for alias in ALIASES:
        record = read_alias(store, MODEL, alias)
        assert record
        records = looked.records.setdefault(alias, [])
        last = records[-1] if records else record
        assert record.sequence >= last.sequence, f"{alias} went back from {last} to {record}"
        assert record.sequence > last.sequence or record == last, f"{alias} was {last} and is {record}"
        if not records or record != last:
            records.append(record)
        open_target(store, record).verify()
    versions = store.versions(MODEL)
    assert set(looked.versions) <= set(versions), f"{looked.versions} were there, {versions} are"
    for version in set(versions) - set(looked.versions):
        store.open_version(MODEL, version).verify()
    looked.versions = versions
    rows = summarise_versions(store, MODEL)
    assert {row.version for row in rows if row.version} >= set(versions), rows
    problems = [row.problem for row in rows if row.problem and DAMAGED not in row.problem]
    problems += [
        check.findings
        for check in check_versions(store, None)
        if not check.is_whole and check.name != f"{MODEL}@{DAMAGED}"
    ]
    assert problems == []
    looked.looks += 1


def main(location: str) -> None:
    """Look until standard input ends, and print what was seen."""
    is_over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        is_over.set()

    looked = Looked()
    look(open_store(location), looked)
    print("ready", flush=True)
    threading.Thread(target=wait, daemon=True).start()
    while not is_over.is_set():
        look(open_store(location), looked)
    print(msgspec.json.encode(looked).decode(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
