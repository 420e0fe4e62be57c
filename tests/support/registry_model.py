"""What a registry ought to hold, in plain dicts, beside a real one that is changed, damaged and repaired.

`Mirror.truth` is every byte that the program wrote and that is undamaged since; `Mirror.disk` is what
lies there. Where the two differ is damage. What a reader may get is worked out from ``truth`` alone,
with none of the program's own code.

**What no reader can find out** (`Mirror.is_unfindable`), each because the traces left are those of a sound
registry:

- an entry of the ledger that is gone: the version counts as one of an older program. With its folder and
  every alias record of it gone too, nothing knows the number, and it is given out again;
- a verdict that is gone: the version was not judged, and documents that no verdict names may be any;
- the head of an alias that is gone, if there are not two linked records before it: a move that was killed;
- an earlier head of the same alias, or any that names a move before the last repair: likewise;
- the entry in the ledger of a version that was written off, and what lies in the place of its folder, unless
  that is a version;
- text of a ledger's entry that pins nothing (who, when, why);
- names that belong to the place (``.x``), or that file managers leave; beside the models, what is no
  folder and has no model's name, and an empty folder that has one;
- a rollback whose record was lost, as far as verdicts from before it go;
- the last record of an alias together with its head, or after a move that was killed before the head;
- in a bucket: what the claim of a number says; a summary that is gone; a manifest that is gone together with
  the entry in the ledger, which is a publisher that was killed, and what lies beside it then.
"""

from __future__ import annotations

import datetime
import json
from itertools import pairwise
from typing import Any, NamedTuple

from tests.support.places import Place
from tests.support.registry_tree import Tree, compare, has_below
from timberline.registry.names import is_name
from timberline.registry.runtime.files import digest_bytes

DOCUMENTS = ("verdict.json", "report.md")
# What a bucket has beside a version: derived data, and that its number was taken.
BESIDE = (*DOCUMENTS, "summary.json", "claim")
_DROPPINGS = (".DS_Store", "Thumbs.db")


class Move(NamedTuple):
    """A move that the program made, as its record states it."""

    sequence: int
    version: int
    manifest_sha256: str
    action: str
    moved_at: str
    verdict_sha256: str | None


class Mirror:
    """The registry in ``place`` as it should be and as it is; ``look`` after everything that changes it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.truth: Tree = {}
        self.disk: Tree = {}
        # Model → number → SHA-256 of the manifest, of all that were ever given out.
        self.given: dict[str, dict[int, str]] = {}
        # (model, alias) → what the program moved it to, oldest first.
        self.moves: dict[tuple[str, str], list[Move]] = {}
        # What was published, to be put back.
        self.archive: Tree = {}

    def look(self) -> None:
        """Read the disk again."""
        self.disk = self.place.read_tree()

    def find_damage(self) -> set[str]:
        """Every path that is not as the program left it."""
        return compare(self.truth, self.disk)

    def adopt(self) -> set[str]:
        """Take what a command has just changed for true; returns the paths.

        Asserts that it changed nothing that is written once, and gave no number twice.
        """
        before = self.disk
        self.look()
        changed = compare(before, self.disk)
        for path in sorted(changed):
            assert path in self.disk, f"a command removed {path}"
            assert path not in before or before[path] == "folder" or self._may_change(path), path
            self._learn(path)
            self.truth[path] = self.disk[path]
        return changed

    def accept(self, unit: str) -> None:
        """Take the damage of a unit for true: it was repaired, or written off."""
        for path in self.find_damage():
            # The head is the program's to write, and was adopted if it was.
            if find_unit(path) == unit and path.split("/")[1] != "heads" and not self._is_stray(path):
                self._set_true(path)

    def restore(self, paths: set[str]) -> None:
        """Put back what the program wrote."""
        self.place.restore(self.truth, paths)
        self.look()

    def find_move(self, model: str, alias: str) -> Move | None:
        """Where the alias points."""
        moves = self.moves.get((model, alias))
        return moves[-1] if moves else None

    def is_forgotten(self, model: str, version: int) -> bool:
        """Whether nothing on the disk knows that the number was given out."""
        names = (f"{model}/{version}", *(f"{model}/ledger/{version}{kind}.json" for kind in ("", ".removed")))
        if any(name in self.disk or has_below(self.disk, name) for name in names):
            return False
        records = [content for path, content in self.disk.items() if path.startswith(f"{model}/aliases/")]
        return not any(_read(content).get("version") == version for content in records)

    def is_whole(self, model: str, version: int) -> bool:
        """Whether the bytes of a version are those that were published; its documents aside."""
        folder = f"{model}/{version}"
        files = {path for path in self.truth if path.startswith(f"{folder}/")}
        found = {path for path in self.disk if path.startswith(f"{folder}/") and not _is_ignored(path)}
        damaged = {path for path in self.find_damage() if path.startswith(f"{folder}/")}
        damaged = {path for path in damaged if not (path.endswith(BESIDE) or _is_ignored(path))}
        return f"{folder}/manifest.json" in files & found and not damaged

    def find_objections(self, model: str, version: int) -> list[str]:
        """Why production may not move to ``version`` without force, by docs/reference/gate.md."""
        folder = f"{model}/{version}"
        if not self.is_whole(model, version):
            return ["the version is damaged"]
        production = self.find_move(model, "production")
        named = f"{model}/{production.version}/manifest.json" if production else ""
        if self.disk.get(named) != self.truth.get(named) or (
            production and not self.is_pinned(model, production)
        ):
            return ["the champion is another one"]
        data = self.disk.get(f"{folder}/verdict.json")
        verdict = _read(data)
        if not isinstance(data, bytes) or verdict != _read(self.truth.get(f"{folder}/verdict.json")):
            return ["there is no verdict, or it was changed"]
        objections = [] if verdict["outcome"] == "PASS" else ["the verdict says no"]
        if verdict["candidate"] != self._judge(model, version):
            objections.append("other bytes")
        champion = self._judge(model, production.version) if production else None
        if verdict["champion"] != champion:
            objections.append("another champion")
        for name, digest in verdict["evidence"].items():
            document = self.disk.get(f"{folder}/{name}")
            if not isinstance(document, bytes) or digest_bytes(document) != digest:
                objections.append(f"another {name}")
        if self._is_rolled_back(model, version, verdict["created_at"], digest_bytes(data)):
            objections.append("rolled back since")
        return objections

    def is_pinned(self, model: str, move: Move) -> bool:
        """Whether the number that the alias was moved to still belongs to the same version."""
        return self.given.get(model, {}).get(move.version) == move.manifest_sha256

    def list_succession(self, model: str) -> list[int]:
        """The versions that rollbacks lead back through; the last is in production."""
        line: list[int] = []
        for move in self.moves.get((model, "production"), []):
            if move.action == "rollback":
                line.pop()
            elif line[-1:] != [move.version]:
                line.append(move.version)
        return line

    def is_unfindable(self, path: str) -> bool:
        """Whether this damage is one of those that the module names."""
        parts = path.split("/")
        content = self.disk.get(path)
        if _is_ignored(path):
            return True
        if len(parts) == 1:  # a file of any name but a model's, an empty folder of a model's
            return is_name(path) == (content == "folder")
        if is_number(parts[1]):
            return self._is_unfindable_in_version(path, parts)
        if parts[1] == "ledger" and len(parts) == 3:
            return self._is_unfindable_entry(path)
        if parts[1] == "heads" and len(parts) == 3:
            alias = parts[2].removesuffix(".json")
            return path in self.truth and self._is_unfindable_head(parts[0], alias, content)
        return content == "folder" and (len(parts) == 2 or (len(parts) == 3 and parts[1] == "aliases"))

    def _is_unfindable_in_version(self, path: str, parts: list[str]) -> bool:
        folder = "/".join(parts[:2])
        is_removed = f"{parts[0]}/ledger/{parts[1]}.removed.json" in self.disk
        is_gone = is_removed and f"{folder}/manifest.json" not in self.disk
        if is_gone or self._looks_unfinished(folder) or parts[2:] == ["claim"]:
            return True
        if path not in self.truth:
            return False
        if parts[2:] == ["summary.json"]:
            return path not in self.disk
        if (
            len(parts) == 3
            and parts[2] in DOCUMENTS
            and self.disk.get(path) not in ("folder", "fifo", "link")
        ):
            verdict = _read(self.disk.get(f"{parts[0]}/{parts[1]}/verdict.json"))
            if parts[2] != "verdict.json":
                return parts[2] not in verdict.get("evidence", {})
            return path not in self.disk or verdict == _read(self.truth[path])
        has_entry = f"{parts[0]}/ledger/{parts[1]}.json" in self.disk
        return not has_entry and folder not in self.disk and not has_below(self.disk, folder)

    def _looks_unfinished(self, folder: str) -> bool:
        """Whether all that is left of a version in a bucket is what a publisher leaves that is killed."""
        model, number = folder.split("/")
        known = (f"{folder}/manifest.json", f"{model}/ledger/{number}.json")
        return f"{folder}/claim" in self.disk and not any(path in self.disk for path in known)

    def _is_unfindable_entry(self, path: str) -> bool:
        entry = path.replace(".removed", "")
        if path == entry and path.replace(".json", ".removed.json") in self.disk:
            return self.disk.get(path) != "folder"
        if path not in self.disk:
            return path == entry or entry not in self.disk
        if path not in self.truth:
            return False
        now, then = _read(self.disk[path]), _read(self.truth[path])
        pins = ("schema_version", "model", "version", "manifest_sha256")
        return bool(then) and now.keys() == then.keys() and all(now[name] == then[name] for name in pins)

    def _is_unfindable_head(self, model: str, alias: str, content: object) -> bool:
        if content is None:
            return not self._has_two_links(model, alias)
        head = _read(content)
        repairs = [move.sequence for move in self.moves.get((model, alias), []) if move.action == "repair"]
        record = self.disk.get(f"{model}/aliases/{alias}/{head.get('sequence')}.json")
        is_earlier = isinstance(record, bytes) and digest_bytes(record) == head.get("sha256")
        return is_earlier or head.get("sequence", 0) < max(repairs, default=0)

    def _has_two_links(self, model: str, alias: str) -> bool:
        folder = f"{model}/aliases/{alias}/"
        found = {path: _read(data) for path, data in self.disk.items() if path.startswith(folder)}
        numbers = sorted(int(record["sequence"]) for record in found.values() if "sequence" in record)
        last_two = {f"{folder}{number}.json" for number in numbers[-2:]}
        return len(last_two) == 2 and all(found[path].get("schema_version", 0) >= 2 for path in last_two)

    def _is_rolled_back(self, model: str, version: int, created_at: str, digest: str) -> bool:
        moves = self.moves.get((model, "production"), [])
        for before, move in pairwise(moves):
            record = self.disk.get(f"{model}/aliases/production/{move.sequence}.json")
            if move.action != "rollback" or before.version != version or not _read(record):
                continue
            if before.verdict_sha256 == digest or _read_time(created_at) <= _read_time(move.moved_at):
                return True
        return False

    def _judge(self, model: str, version: int) -> dict[str, Any]:
        data = self.truth[f"{model}/{version}/manifest.json"]
        assert isinstance(data, bytes)
        digest = json.loads(data)["files"]["model.onnx"]["sha256"]
        return {"version": version, "manifest_sha256": digest_bytes(data), "model_sha256": digest}

    def _may_change(self, path: str) -> bool:
        _, part, *_ = path.split("/")
        if part == "heads":
            return True
        if part == "ledger":  # a damaged entry is written again
            return self.disk[path] != self.truth.get(path) and path in self.find_damage()
        return is_number(part) and path.endswith((*DOCUMENTS, "summary.json"))

    def _learn(self, path: str) -> None:
        """Note the move or the version that ``path`` is."""
        model, part, *names = path.split("/")
        content = self.disk[path]
        if part == "aliases" and isinstance(content, bytes):
            record = json.loads(content)
            move = Move(*(record[name] for name in Move._fields))
            self.moves.setdefault((model, names[0]), []).append(move)
        elif is_number(part) and names == ["manifest.json"]:
            assert isinstance(content, bytes)
            self.given.setdefault(model, {})[int(part)] = digest_bytes(content)
        if is_number(part) and not path.endswith((*DOCUMENTS, "summary.json")):
            self.archive[path] = content

    def _is_stray(self, path: str) -> bool:
        """An empty folder in the ledger is no entry, whatever its name."""
        return path.split("/")[1] == "ledger" and self.disk.get(path) == "folder"

    def _set_true(self, path: str) -> None:
        if path in self.disk:
            self.truth[path] = self.disk[path]
        else:
            self.truth.pop(path, None)


def find_unit(path: str) -> str:
    """The version or alias that a path belongs to, as in ``tiny@1`` and ``tiny@production``; or the path."""
    parts = path.split("/")
    if len(parts) > 1 and is_number(parts[1]):
        return f"{parts[0]}@{parts[1]}"
    if len(parts) > 2 and parts[1] in ("aliases", "heads", "ledger"):
        return f"{parts[0]}@{parts[2].removesuffix('.json').removesuffix('.removed')}"
    return path


def is_number(text: str) -> bool:
    """Whether a version's folder may be called so."""
    return text.isascii() and text.isdigit() and len(text) < 10 and text[0] != "0"


def _is_ignored(path: str) -> bool:
    """Whether the program takes no notice of such names."""
    parts = path.split("/")
    if any(part in _DROPPINGS for part in parts):
        return True
    is_in_version = len(parts) > 2 and is_number(parts[1])
    return any(part.startswith(".") for part in (parts[:2] if is_in_version else parts))


def _read(content: object) -> dict[str, Any]:
    """The JSON object in ``content``; an empty one if it is none."""
    try:
        tree = json.loads(content) if isinstance(content, bytes) else {}
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _read_time(text: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(text)
