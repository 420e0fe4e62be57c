"""Every lock file installs with every pip that users bring, now and after newer releases are out.

`make test-roles` tries every pair of them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from packaging.version import Version

from tests.support.locks import (
    PYTHONS,
    RECORD,
    REQUIREMENTS,
    list_locks,
    parse_lock,
    read_requirements,
    resolve,
    write_index,
    write_lock,
)
from tests.support.pips import ROOT, list_pips
from tests.support.soak import IS_FULL

LOCKS = {path.relative_to(path.parents[1]).with_suffix("").as_posix(): path for path in list_locks()}


def try_lock(text: str, lock: Path, version: str, folder: Path) -> tuple[int, set[str], str]:
    """Exit code, what would be installed and stderr of pip ``version`` on a lock file with this text."""
    pins = [pin for pin in parse_lock(text) if pin.is_for_here]
    digests = write_index(folder / "index", read_requirements(lock, pins))
    write_lock(folder / "lock.txt", digests)
    done = resolve(version, folder / "lock.txt", folder / "index")
    return done.returncode, parse_summary(done.stdout), done.stderr


def parse_summary(said: str) -> set[str]:
    """``{"name-version"}`` of the line that tells what a dry run would install; names as in lock files."""
    (line,) = re.findall(r"^Would install (.*)$", said, flags=re.MULTILINE) or [""]
    return {re.sub(r"[_.]+(?=.*-)", "-", word).lower() for word in line.split()}


def list_pairs() -> list[tuple[str, str]]:
    """Lock file and pip: of all roles with the oldest and newest, of the service; or all pairs."""
    pips = list_pips()
    is_tried = {
        ("requirements/dev", pips[0]),
        ("requirements/dev", pips[-1]),
        ("requirements/serve", pips[0]),
    }
    return [(name, version) for name in LOCKS for version in pips if IS_FULL or (name, version) in is_tried]


@pytest.mark.parametrize(
    ("name", "version"),
    [pytest.param(name, version, id=f"{name}-pip-{version}") for name, version in list_pairs()],
)
def test_a_lock_file_installs_what_it_pins_when_newer_releases_are_out(
    name: str, version: str, tmp_path: Path
) -> None:
    """Older pips take the newest release for a pin that lacks an extra somebody asks for: `make setup`
    worked on the day of locking, and broke by itself four days later (pypa/pip#9644)."""
    text = LOCKS[name].read_text("utf-8")
    code, installed, said = try_lock(text, LOCKS[name], version, tmp_path)
    assert code == 0, said
    assert installed == {f"{pin.name}-{pin.version}" for pin in parse_lock(text) if pin.is_for_here}


def test_an_image_takes_its_lock_files_together(tmp_path: Path) -> None:
    """One call of pip reads several files there, and their pins of one package must not differ."""
    names = re.findall(r"-r (/requirements/\w+)\.txt", (ROOT / "Dockerfile.train").read_text("utf-8"))
    paths = [LOCKS[name.lstrip("/")] for name in names]
    assert len(paths) > 1
    text = "\n".join(path.read_text("utf-8") for path in paths)
    code, installed, said = try_lock(text, paths[0], list_pips()[0], tmp_path)
    assert code == 0, said
    assert installed == {f"{pin.name}-{pin.version}" for pin in parse_lock(text) if pin.is_for_here}


def asks_for_extras(text: str) -> bool:
    """Whether a lock file pins a package with extras that another of its packages asks for."""
    entries = re.split(r"^(?=\S)", text, flags=re.MULTILINE)
    asking = [re.findall(r"^ +#(?: via)? +(\w[\w.-]*)$", e, re.MULTILINE) for e in entries if "]==" in e]
    return any(set(names) - {"via"} for names in asking)


@pytest.mark.parametrize("name", [n for n, path in LOCKS.items() if asks_for_extras(path.read_text("utf-8"))])
def test_a_lock_file_without_its_extras_is_refused_by_pips_below_23_3(name: str, tmp_path: Path) -> None:
    """The failure of users, shown: else an index that cannot fail would pass any lock file."""
    text = re.sub(r"\[[a-z,]+\]==", "==", LOCKS[name].read_text("utf-8"))
    oldest = list_pips()[0]
    code, installed, said = try_lock(text, LOCKS[name], oldest, tmp_path)
    is_refused = Version(oldest) < Version("23.3")
    assert (code, installed == set()) == (int(is_refused), is_refused), said
    unpinned = "In --require-hashes mode, all requirements must have their versions pinned with =="
    assert (unpinned in said) == is_refused


def test_the_record_is_of_the_lock_files_of_rivals_and_clients() -> None:
    """A leftover of what is no longer pinned hides a missing one, as of a pin for another Python."""
    pins = [
        pin
        for path in LOCKS.values()
        if path.parent != REQUIREMENTS
        for pin in parse_lock(path.read_text("utf-8"))
    ]
    recorded = set(json.loads(RECORD.read_text("utf-8")))
    assert recorded <= {f"{pin.name}=={pin.version}" for pin in pins}
    assert {f"{pin.name}=={pin.version}" for pin in pins if any(map(pin.is_for, PYTHONS))} <= recorded
