"""Will the champion's clients still be understood? Their bodies must stay valid, their answers readable."""

from __future__ import annotations

from timberline.registry.manifest import Manifest
from timberline.registry.signature import Column


def find_breaks(champion: Manifest, candidate: Manifest) -> list[str]:
    """What a client of ``champion`` would trip over with ``candidate``; empty when nothing.

    A new column that may be left out is no break, nor is one that became optional, nor one that is not
    read any more: clients that go on sending it are answered. They are not when its table has lost it. Nor
    are new classes behind the old ones.
    """
    before = {column.name: column for column in champion.signature.columns}
    after = {column.name: column for column in candidate.signature.columns}
    sent = [*before, *(name for name, role in champion.table.unread.items() if role == "input")]
    taken = after.keys() | candidate.table.unread.keys()
    breaks = [f"column {name} was removed" for name in sent if name not in taken]
    for name, column in after.items():
        if name not in before:
            if not column.may_be_absent:
                breaks.append(f"column {name} is new and required")
        else:
            breaks += _compare(before[name], column)
    return breaks + _compare_classes(champion, candidate)


def list_new_classes(champion: Manifest, candidate: Manifest) -> list[str]:
    """The classes that the candidate has behind the champion's own, which are all there in their order."""
    old, new = _classes(champion), _classes(candidate)
    return new[len(old) :] if new[: len(old)] == old else []


def _compare_classes(champion: Manifest, candidate: Manifest) -> list[str]:
    """Classes behind the old ones are no break.

    JSON names every probability, so a client finds those that it knows; in tensors of the Open Inference
    Protocol and in bare float32 rows the old ones keep their place, and the shape, or the number of bytes
    a row, says how many there are. One in front of an old class, or in its place, would be taken for it.
    """
    old, new = _classes(champion), _classes(candidate)
    if new[: len(old)] == old:
        return []
    told = f"classes were {', '.join(old)[:80]}, are {', '.join(new)[:80]}"
    return [told + ("; list the new ones last in [target]" if set(old) < set(new) else "")]


def _classes(manifest: Manifest) -> list[str]:
    return [label.value for label in manifest.signature.classes]


def _compare(before: Column, after: Column) -> list[str]:
    breaks = []
    # An integer is also a number on the wire, so INT64 may widen to FP64.
    if after.datatype != before.datatype and (before.datatype, after.datatype) != ("INT64", "FP64"):
        breaks.append(f"column {before.name} was {before.datatype}, is {after.datatype}")
    if before.may_be_absent and not after.may_be_absent:
        breaks.append(f"column {before.name} became required")
    if before.is_nullable and not after.is_nullable:
        breaks.append(f"column {before.name} may no longer be null")
    return breaks
