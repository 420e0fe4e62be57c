"""Laws of a registry over any order of releases, damage, repair and kills.

- What is read is an exact earlier state or the newest one, never a mixture.
- A number is never given out twice while anything on the disk knows it.
- `verify` reports every damage with a path that leads to it, and nothing else.
- A damage in one model changes nothing in the reports of the other.
- No command hangs or ends in a traceback.
- What was repaired is whole until the next damage.

`tests.support.registry_model` computes what ought to be, and which damage cannot be found.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.places import BucketPlace, FolderPlace, Place, new_prefix
from tests.support.registry_child import Attempts
from tests.support.registry_commands import Answer, ask
from tests.support.registry_model import Mirror, Move, find_unit, is_number
from tests.support.registry_tree import KINDS, has_below
from tests.support.s3_proxy import S3Proxy
from tests.support.soak import IS_FULL, SIZES
from timberline.registry.aliases import read_alias
from timberline.registry.errors import DamageError
from timberline.registry.names import is_name
from timberline.registry.store import open_store

MODELS = ("fir", "oak")
ALIASES = ("candidate", "production")
# More file operations than any command does on so small a registry.
MOST_OPERATIONS = 120

# More requests than any command makes.
MOST_REQUESTS = 40

_models = st.sampled_from(MODELS)
_aliases = st.sampled_from(ALIASES)
_picks = st.integers(0, 11)
_outcomes = st.sampled_from(["PASS", "PASS", "PASS", "BLOCK", "INCONCLUSIVE", "INVALID"])
_kinds = st.sampled_from(["verdict.json", "report.md", "ledger", "heads"])
_bytes = st.sampled_from([b"", b"{", b"{}", b"\xff\xfe", b"[1]", b"notes\n"])
_things = _bytes | st.sampled_from(KINDS)
# Names that other programs left: no text, a line break, as long as there is, an escape, a hidden one.
_odd_names = st.sampled_from(
    ["\udcff", "a\nb", "x" * 255, "back\\slash", ".hidden", ".DS_Store", "Odd", "odd", "01", "notes.txt"]
)


def _set(histories: int, steps: int) -> settings:
    return settings(
        max_examples=histories,
        stateful_step_count=steps,
        deadline=None,
        derandomize=not IS_FULL,
        suppress_health_check=list(HealthCheck),
    )


class RegistryMachine(RuleBasedStateMachine):
    """A registry of two models in a folder, and the `Mirror` of it."""

    attempts: Attempts

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.place = self._make_place(Path(self._folder.name, "registry"))
        self.mirror = Mirror(self.place)
        # Model → what `list` and `verify` reported of it.
        self.message: dict[str, object] = {}
        self.touched: set[str] = set(MODELS)
        self.count = 0

    def teardown(self) -> None:
        self._folder.cleanup()

    # --- what people do

    @initialize(model=_models)
    def release(self, model: str) -> None:
        """So that few steps are lost on a registry that holds nothing."""
        for _ in range(3):
            self.publish(model)
        for words in (["promote", f"{model}@1", "--force"], ["promote", f"{model}@2", "--force"]):
            self._run(model, [*words, "--reason", "first"])
        self._run(model, ["alias", "set", f"{model}@candidate", "3"])
        self._run(model, ["judge", f"{model}@3", "PASS"])

    @rule(model=_models)
    def publish(self, model: str) -> None:
        given = dict(self.mirror.given.get(model, {}))
        forgotten = {number for number in given if self.mirror.is_forgotten(model, number)}
        for number in forgotten:
            self._forget(model, number)
        self.count += 1
        answer = self._run(model, ["publish", model, f"bytes {self.count}"])
        if answer.code == 0:
            assert answer.value not in given.keys() - forgotten, "a number was given out twice"
        assert answer.code == 0 or self._is_damaged(model), answer

    @rule(model=_models, pick=_picks, outcome=_outcomes)
    def judge(self, model: str, pick: int, outcome: str) -> None:
        if number := self._pick(model, pick):
            answer = self._run(model, ["judge", f"{model}@{number}", outcome])
            assert answer.code == 0 or self._is_damaged(model, number), answer

    @rule(model=_models, pick=_picks)
    def promote(self, model: str, pick: int) -> None:
        number = self._pick(model, pick)
        if not number:
            return
        before = self.mirror.find_move(model, "production")
        objections = self.mirror.find_objections(model, number)
        is_whole = self.mirror.is_whole(model, number)
        answer = self._run(model, ["promote", f"{model}@{number}"])
        if answer.code == 0 and before and before.version == number:
            assert is_whole
            assert self.mirror.find_move(model, "production") == before
        elif answer.code == 0:
            assert objections == []
            assert answer.value["version"] == number
        else:
            is_repaired = any(move.action == "repair" for move in self._list_moves(model))
            assert objections or is_repaired or self._is_damaged(model), answer

    @rule(model=_models, pick=_picks)
    def promote_by_force(self, model: str, pick: int) -> None:
        if number := self._pick(model, pick):
            is_whole = self.mirror.is_whole(model, number)
            answer = self._run(model, ["promote", f"{model}@{number}", "--force", "--reason", "night"])
            assert is_whole if answer.code == 0 else self._is_damaged(model, number), answer

    @rule(model=_models)
    def roll_back(self, model: str) -> None:
        line = self.mirror.list_succession(model)
        moves = list(self._list_moves(model))
        answer = self._run(model, ["rollback", model])
        if answer.code == 0:
            number, digest = answer.value["version"], answer.value["manifest_sha256"]
            assert (number, digest) in {(move.version, move.manifest_sha256) for move in moves}
            assert self.mirror.is_whole(model, number)
            if all(move.action != "repair" for move in moves):
                assert number == line[-2]
        else:
            assert len(line) < 2 or self._is_damaged(model), answer

    @rule(model=_models, pick=_picks)
    def set_candidate(self, model: str, pick: int) -> None:
        if number := self._pick(model, pick):
            answer = self._run(model, ["alias", "set", f"{model}@candidate", str(number)])
            assert answer.code == 0 or self._is_damaged(model, number), answer

    @rule(model=_models, alias=_aliases, pick=_picks)
    def repair_alias(self, model: str, alias: str, pick: int) -> None:
        number = self._pick(model, pick)
        if not number:
            return
        unit = f"{model}@{alias}"
        damage = self._find_damage(unit)
        answer = self._run(model, ["repair", unit, str(number), "--reason", "settled"])
        if answer.code == 0 and answer.value.get("action") == "repair":
            assert damage
            self.mirror.accept(unit)
            assert not self._find_damage(unit), "a repair leaves something to report"
        elif answer.code == 0:
            assert not damage
        else:
            assert self._is_damaged(model, number), answer

    @rule(model=_models, pick=_picks)
    def write_off(self, model: str, pick: int) -> None:
        number = [*self.mirror.given.get(model, {}), 77, 88][-1 - pick % 5 :][0]
        unit = f"{model}@{number}"
        answer = self._run(model, ["repair", unit, "--reason", "settled"])
        if answer.code == 0 and answer.value["done"]:
            self.mirror.accept(unit)
        if answer.code == 0:
            reported = [check for check in self._run(model, ["verify"]).value if check["name"] == unit]
            assert all(check["is_whole"] for check in reported), reported

    @rule(data=st.data(), model=_models, pick=_picks, count=st.integers(0, MOST_OPERATIONS))
    def be_killed(self, data: st.DataObject, model: str, pick: int, count: int) -> None:
        """An action ends before one of its file operations: it has happened, or it has not."""
        number = self._pick(model, pick) or 1
        self.count += 1
        alias = data.draw(_aliases)
        words = data.draw(
            st.sampled_from(
                [
                    ["publish", model, f"bytes {self.count}"],
                    ["judge", f"{model}@{number}", "PASS"],
                    ["promote", f"{model}@{number}", "--force", "--reason", "night"],
                    ["rollback", model],
                    ["alias", "set", f"{model}@candidate", str(number)],
                    ["repair", f"{model}@{alias}", str(number), "--reason", "settled"],
                    ["repair", f"{model}@{number}", "--reason", "settled"],
                ]
            )
        )
        for forgotten in [n for n in self.mirror.given.get(model, {}) if self.mirror.is_forgotten(model, n)]:
            self._forget(model, forgotten)
        self._kill(words, count)
        changed = self.mirror.adopt()
        assert all(path.startswith(f"{model}/") for path in changed)
        self.touched.add(model)
        if words[0] == "repair" and any("/aliases/" in path or "/ledger/" in path for path in changed):
            self.mirror.accept(words[1])

    # --- what befalls it

    @rule(data=st.data(), model=_models, content=st.none() | _things)
    def damage_file(self, data: st.DataObject, model: str, content: Any) -> None:
        paths = sorted(path for path in self.mirror.truth if path.startswith(f"{model}/"))
        paths = [path for path in paths if isinstance(self.mirror.disk.get(path), bytes)]
        paths = [path for path in paths if self._may_damage(path)]
        if paths:
            self._put(data.draw(st.sampled_from(paths)), content)

    @rule(data=st.data(), model=_models, place=st.integers(0, 10_000), bit=st.integers(-1, 7))
    def rot(self, data: st.DataObject, model: str, place: int, bit: int) -> None:
        """One bit is flipped, or the file ends early."""
        paths = sorted(path for path in self.mirror.truth if path.startswith(f"{model}/"))
        paths = [path for path in paths if self.mirror.disk.get(path) and self._may_damage(path)]
        paths = [path for path in paths if isinstance(self.mirror.disk[path], bytes)]
        if not paths:
            return
        path = data.draw(st.sampled_from(paths))
        whole = self.mirror.disk[path]
        assert isinstance(whole, bytes)
        content = bytearray(whole)
        place %= len(content)
        if bit < 0:
            del content[place:]
        else:
            content[place] ^= 1 << bit
        self._put(path, bytes(content))

    @rule(data=st.data(), model=_models, content=st.none() | _things)
    def damage_folder(self, data: st.DataObject, model: str, content: Any) -> None:
        folders = {path.rpartition("/")[0] for path in self.mirror.truth if path.startswith(f"{model}/")}
        folders |= {f"{model}/aliases"} & {folder.rpartition("/")[0] for folder in folders}
        paths = [path for path in sorted(folders - {model}) if has_below(self.mirror.disk, path)]
        paths = [path for path in paths if self._may_damage(path)]
        if paths:
            self._put(data.draw(st.sampled_from(paths)), content)

    @rule(model=_models, pick=_picks)
    def forget_version(self, model: str, pick: int) -> None:
        """Its folder and its entry in the ledger are lost together; the records of aliases may be left."""
        number = self._pick(model, pick)
        if number and not self._find_damage(f"{model}@{number}"):
            for path in (f"{number}", f"ledger/{number}.json", f"ledger/{number}.removed.json"):
                self._put(f"{model}/{path}", None)

    @rule(model=_models, pick=_picks, title=st.sampled_from(["Larch", "Yew"]))
    def edit_manifest(self, model: str, pick: int, title: str) -> None:
        """With all its digests, so that it is whole in itself."""
        number = self._pick(model, pick)
        path = f"{model}/{number}/manifest.json"
        content = self.mirror.disk.get(path)
        if isinstance(content, bytes) and path in self.mirror.truth and self._may_damage(path):
            self._put(path, content.replace(b"Tiny", title.encode()).replace(b"bytes", title.encode()))

    @rule(
        data=st.data(), model=_models, name=st.sampled_from(["verdict.json", "report.md", "ledger", "heads"])
    )
    def exchange(self, data: st.DataObject, model: str, name: str) -> None:
        """Two files of one kind change places, or one is copied over the other."""
        paths = [path for path in sorted(self.mirror.truth) if path.startswith(f"{model}/")]
        paths = [path for path in paths if path.endswith(f"/{name}") or path.split("/")[1] == name]
        paths = [path for path in paths if isinstance(self.mirror.disk.get(path), bytes)]
        paths = [path for path in paths if self._may_damage(path)]
        if len(paths) > 1:
            one, other = data.draw(st.lists(st.sampled_from(paths), min_size=2, max_size=2, unique=True))
            first, second = self.mirror.disk[one], self.mirror.disk[other]
            self._put(one, second)
            if data.draw(st.booleans()):
                self._put(other, first)

    @rule(model=_models, alias=_aliases, number=st.sampled_from([0, 1, 1000]), is_repair=st.booleans())
    def plant_record(self, model: str, alias: str, number: int, is_repair: bool) -> None:
        """A copy of the last record with another number: it has no right to be the last one."""
        move = self.mirror.find_move(model, alias)
        folder = f"{model}/aliases/{alias}"
        content = self.mirror.disk.get(f"{folder}/{move.sequence}.json") if move else None
        if move is None or content != self.mirror.truth.get(f"{folder}/{move.sequence}.json"):
            return
        assert isinstance(content, bytes)
        tree = json.loads(content)
        tree["sequence"] = number if number == 1000 else move.sequence + 1
        if is_repair:
            tree |= {"action": "repair", "history_sha256": "0" * 64, "previous_sha256": None}
        self._plant(f"{folder}/{tree['sequence']}.json", json.dumps(tree).encode())

    @rule(data=st.data(), model=_models, name=_odd_names, content=_things)
    def plant_thing(self, data: st.DataObject, model: str, name: str, content: Any) -> None:
        places = ["", f"{model}/", *(f"{model}/{part}/" for part in ("1", "aliases", "heads", "ledger"))]
        place = data.draw(st.sampled_from([*places, f"{model}/aliases/production/", f"{model}/77/"]))
        suffix = data.draw(st.sampled_from(["", ".json", "/x"])) if len(name) < 100 else ""
        self._plant(f"{place}{name}{suffix}", content)

    @rule(model=_models, number=st.sampled_from(["77", "88"]), content=_things)
    def plant_number(self, model: str, number: str, content: Any) -> None:
        self._plant(f"{model}/{number}", content)
        self._plant(f"{model}/ledger/{number}.json", content)

    @rule(model=_models, pick=_picks)
    def bring_back(self, model: str, pick: int) -> None:
        """A version that was written off is copied back from somewhere."""
        number = self._pick(model, pick)
        if number and f"{model}/ledger/{number}.removed.json" in self.mirror.disk:
            folder = f"{model}/{number}"
            if folder not in self.mirror.disk and not has_below(self.mirror.disk, folder):
                archived = self.mirror.archive.items()
                for path, content in [item for item in archived if item[0].startswith(f"{folder}/")]:
                    self._put(path, content)

    @precondition(lambda self: self.mirror.find_damage())
    @rule(data=st.data())
    def undo(self, data: st.DataObject) -> None:
        """The original bytes are put back."""
        units = sorted({find_unit(path) for path in self.mirror.find_damage()})
        unit = data.draw(st.sampled_from(units))
        self._restore({path for path in self.mirror.find_damage() if find_unit(path) == unit})

    @precondition(lambda self: self.mirror.find_damage())
    @rule()
    def undo_all(self) -> None:
        self._restore(self.mirror.find_damage())

    # --- what holds

    @invariant()
    def every_damage_is_told_and_nothing_else(self) -> None:
        checks = ask(self.place.location, ["verify"])
        listed = ask(self.place.location, ["list"])
        damage = self.mirror.find_damage()
        reported = [check for check in checks.value or [] if not check["is_whole"]]
        for unit in {find_unit(path) for path in damage}:
            findable = [path for path in damage if find_unit(path) == unit]
            findable = [path for path in findable if not self.mirror.is_unfindable(path)]
            if findable:
                assert any(self._leads(check, path) for check in reported for path in findable), (
                    findable,
                    reported,
                )
        for check in reported:
            assert any(self._leads(check, path) for path in damage) or self._is_of_lost(check), (
                check,
                damage,
            )
        assert checks.code == (1 if reported else 0) or not checks.value
        assert listed.code <= checks.code
        self._compare_with_before(checks.value or [], listed.value)

    def _compare_with_before(self, checks: list[Any], listed: list[Any]) -> None:
        """The report of a model that was not touched stays the same."""
        for model in MODELS:
            rows = [row for row in listed if row["model"] == model]
            message = (rows, [check for check in checks if check["path"].split("/")[0] == model])
            assert model in self.touched or message == self.message[model]
            self.message[model] = message
        self.touched.clear()

    @invariant()
    def alias_is_where_it_was_moved_last(self) -> None:
        store = open_store(self.place.location)
        for model in MODELS:
            for alias in ALIASES:
                move = self.mirror.find_move(model, alias)
                try:
                    record = read_alias(store, model, alias)
                except (DamageError, OSError):
                    assert self._is_damaged(model)
                    continue
                found = record and tuple(msgspec.structs.asdict(record)[name] for name in Move._fields)
                assert found == move, (model, alias)
        assert not self._without_advances(self.mirror.adopt()), "reading changed something"

    # --- how

    def _make_place(self, root: Path) -> Place:
        root.mkdir()
        return FolderPlace(root)

    def _kill(self, words: list[str], count: int) -> None:
        """Run a command that is killed after ``count`` steps, if it takes so many."""
        self.attempts.make(Path(self.place.location), words, count)

    def _leads(self, check: dict[str, Any], path: str) -> bool:
        return _leads(check, self.place.find_key(path))

    def _without_advances(self, changed: set[str]) -> set[str]:
        """Without what a reader may change too."""
        return changed

    def _pick(self, model: str, pick: int) -> int | None:
        numbers = sorted(self.mirror.given.get(model, {}))
        return numbers[pick % len(numbers)] if numbers else None

    def _list_moves(self, model: str) -> list[Move]:
        return self.mirror.moves.get((model, "production"), [])

    def _run(self, model: str, words: list[str]) -> Answer:
        """A command of which ``model`` may be changed, and nothing else."""
        answer = ask(self.place.location, words)
        changed = self.mirror.adopt()
        assert all(path.startswith(f"{model}/") for path in changed), changed
        kept = not self._without_advances(changed)
        assert answer.code in (0, 3) or kept, "a command that was refused changed something"
        self.touched.add(model)
        return answer

    def _put(self, path: str, content: Any) -> None:
        self.place.put(path, content)
        self._note(path)

    def _plant(self, path: str, content: Any) -> None:
        """Unless something is there, or in the place of its folder."""
        parts = path.split("/")
        above = {"/".join(parts[:length]) for length in range(1, len(parts))}
        if not (above | {path}) & self.mirror.disk.keys() and not has_below(self.mirror.disk, path):
            self._put(path, content)

    def _restore(self, paths: set[str]) -> None:
        self.mirror.restore(paths)
        for path in paths:
            self._note(path)

    def _note(self, path: str) -> None:
        self.mirror.look()
        self.touched |= {path.split("/", maxsplit=1)[0]} & set(MODELS)

    def _forget(self, model: str, number: int) -> None:
        """Nothing knows the number any more: the one that has it next owes nothing to this one."""
        for path in list(self.mirror.truth):
            if find_unit(path) == f"{model}@{number}":
                del self.mirror.truth[path]

    def _find_damage(self, unit: str) -> list[str]:
        """Of a version or alias, also what lies in the place of a folder above it."""
        damage = [path for path in self.mirror.find_damage() if find_unit(path) == unit]
        return [path for path in damage if not self.mirror.is_unfindable(path)]

    def _is_damaged(self, model: str, number: int | None = None) -> bool:
        """Whether a command may have had a reason to refuse."""
        lost = number is not None and not self.mirror.is_whole(model, number)
        return lost or any(path.split("/")[0] == model for path in self.mirror.find_damage())

    def _is_damaged_version(self, model: str, number: int) -> bool:
        unit = f"{model}@{number}"
        is_touched = any(find_unit(path) == unit for path in self.mirror.find_damage())
        return is_touched or not self.mirror.is_whole(model, number)

    def _is_of_lost(self, check: dict[str, Any]) -> bool:
        """Whether an alias is reported because of the version that it points at."""
        model, _, alias = check["name"].partition("@")
        move = self.mirror.find_move(model, alias) if alias in ALIASES else None
        if move is None:
            return False
        return self._is_damaged_version(model, move.version) or not self.mirror.is_pinned(model, move)

    def _may_damage(self, path: str) -> bool:
        """Whether the damage can be found out, whatever else is damaged already."""
        model, part, *names = path.split("/")
        if is_number(part) or (part == "ledger" and names):
            number = part if is_number(part) else names[0].partition(".")[0]
            others = (f"{model}/ledger/{number}.",) if is_number(part) else (f"{model}/{number}/",)
            truth = [known for known in self.mirror.truth if known.startswith(others)]
            return bool(truth) and not any(known in self.mirror.find_damage() for known in truth)
        if part not in ("aliases", "heads"):
            return True
        aliases = [names[0].removesuffix(".json")] if names else ALIASES
        return all(self._may_damage_alias(model, alias, part, names[1:]) for alias in aliases)

    def _may_damage_alias(self, model: str, alias: str, part: str, names: list[str]) -> bool:
        move = self.mirror.find_move(model, alias)
        if move is None:
            return True
        tip, head = f"{model}/aliases/{alias}/{move.sequence}.json", f"{model}/heads/{alias}.json"
        if part == "heads":
            return self.mirror.disk.get(tip) == self.mirror.truth[tip]
        if names and names[0] != f"{move.sequence}.json":
            return True
        content = self.mirror.disk.get(head)
        if content != self.mirror.truth.get(head) or not isinstance(content, bytes):
            return False
        return bool(json.loads(content)["sequence"] == move.sequence)


class BucketMachine(RegistryMachine):
    """The same registry in a bucket. It has no links and FIFOs, and no file in the place of a folder."""

    proxy: S3Proxy

    def _make_place(self, root: Path) -> Place:
        self.proxy.clear()
        return BucketPlace(new_prefix("s3://registry"))

    def _kill(self, words: list[str], count: int) -> None:
        """At a request; every other time the server still does what it asks for."""
        number = count % MOST_REQUESTS + 1
        self.attempts.make_at(self.proxy, self.place.location, words, number, ("refuse", "lose")[count % 2])
        self.proxy.clear()

    def _without_advances(self, changed: set[str]) -> set[str]:
        """Who reads an alias moves a head on that is behind."""
        return {path for path in changed if path.split("/")[1] != "heads"}

    def _put(self, path: str, content: Any) -> None:
        is_folder = has_below(self.mirror.disk, path)
        super()._put(path, None if is_folder else b"notes\n" if content in KINDS else content)

    def _plant(self, path: str, content: Any) -> None:
        """No folder where the program lists folders: some servers keep it when it is emptied (SeaweedFS)."""
        model, *names = path.split("/")
        is_in_version = len(names) > 2 and is_number(names[0])
        is_beside_models = len(names) > 0 and not is_name(model)
        is_kept = is_in_version or is_beside_models
        if path.isprintable() and "\\" not in path and not is_kept:
            super()._plant(path, content)


def _leads(check: dict[str, Any], path: str) -> bool:
    """Whether a reader of ``check`` finds ``path``: it is named, or a folder above it is."""
    shown = path.encode("utf-8", "backslashreplace").decode()
    parts = shown.split("/")
    above = ["/".join(parts[:length]) for length in range(min(2, len(parts)), len(parts) + 1)]
    named = check["path"].rstrip("/")
    is_under = shown == named or shown.startswith(f"{named}/") or shown[:80] == named
    is_same = find_unit(path) in (check["name"], find_unit(named))
    return is_under or is_same or any(place in check["findings"] for place in above)


@pytest.fixture
def attempts() -> Iterator[Attempts]:
    attempts = Attempts()
    yield attempts
    attempts.close()


def test_registry_is_whole_or_told_of_after_any_history(attempts: Attempts) -> None:
    """The order that breaks it is one that was not thought of."""
    RegistryMachine.attempts = attempts
    run_state_machine_as_test(RegistryMachine, settings=_set(SIZES.histories, SIZES.steps))


def test_registry_in_a_bucket_is_whole_or_told_of_after_any_history(
    attempts: Attempts, proxy: S3Proxy
) -> None:
    """The laws are the registry's, not those of a file system."""
    BucketMachine.attempts, BucketMachine.proxy = attempts, proxy
    run_state_machine_as_test(BucketMachine, settings=_set(SIZES.bucket_histories, SIZES.bucket_steps))
