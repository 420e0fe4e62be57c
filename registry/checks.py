"""Is what lies in the registry what was written there? One line for each thing, whole or damaged.

A damage is a line and no error: the other checks go on.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from timberline.registry.aliases import (
    ALIASES,
    HEADS,
    inspect_history,
    list_aliases,
    open_target,
)
from timberline.registry.errors import DigestMismatchError, RegistryError, VersionNotFoundError
from timberline.registry.names import ModelRef, is_name, parse_number
from timberline.registry.objects import ask_each, printable_name
from timberline.registry.promotion import find_mismatched_documents
from timberline.registry.runtime.files import explain_refusal
from timberline.registry.store import LEDGER, Contents, Store, is_ledger_stem, read_entry
from timberline.registry.summary import StoredSummary
from timberline.registry.verdict import VERDICT_FILE, decode_verdict
from timberline.registry.version import MANIFEST_FILE, Version, key_of_version

# What damage and disks raise.
READ_ERRORS = (RegistryError, OSError)

_BROKEN_OFF = "has no manifest: a copy that was broken off, or a version that is lost"
_UNFINISHED = "was not published: its publisher is at work, or was broken off; the number is not used again"
_STRAY = "is no part of a registry"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The result of verifying one version, alias or other thing; no findings means whole.

    ``path`` is where it lies, relative to the registry. ``is_unfinished``: a number that a publisher took
    in a bucket and has not published; nothing is damaged by it.
    """

    name: str
    path: str
    is_whole: bool
    findings: str = ""
    is_unfinished: Literal[True] | msgspec.UnsetType = msgspec.UNSET


def check_versions(store: Store, ref: ModelRef | None, version: int | None = None) -> list[Check]:
    """Verify ``version`` of a model, or the whole model, or (``ref`` None) the whole registry.

    Args:
        ref: of an alias: ``version``, which it points at, and the alias.

    Raises:
        VersionNotFoundError: there is nothing to verify.
        OSError: the registry cannot be read at all.
    """
    if ref and version:
        checks = [_check_version(store, ref.model, version)]
        return [*checks, _check_alias(store, ref.model, ref.alias)] if ref.alias else checks
    checks = [] if ref else check_root(store)
    for model in [ref.model] if ref else store.models():
        try:
            checks += _check_model(store, model, find_contents(store, model))
        except VersionNotFoundError:
            if ref:
                raise
            # It was emptied. A server that keeps folders (SeaweedFS) goes on listing its name.
        except OSError as error:
            checks.append(_damaged(model, model, describe(error)))
    if not checks:
        raise VersionNotFoundError("no version of any model", where=store.location)
    return checks


def find_overview(store: Store, model: str) -> tuple[Contents, dict[int, StoredSummary]]:
    """`Store.read_overview` of a model; errors as of `find_contents`."""
    contents, summaries = store.read_overview(model)
    _require_anything(store, model, contents)
    return contents, summaries


def find_contents(store: Store, model: str) -> Contents:
    """List the files, versions and ledger numbers of a model.

    Raises:
        VersionNotFoundError: there is nothing.
        OSError: its folder cannot be read.
    """
    contents = store.read_contents(model)
    _require_anything(store, model, contents)
    return contents


def _require_anything(store: Store, model: str, contents: Contents) -> None:
    if not contents.keys and not contents.unreadable:
        known = ", ".join(store.models()) or "none"
        raise VersionNotFoundError(f"no model {model!r}", where=store.location, hint=f"There are: {known}.")


def check_root(store: Store) -> list[Check]:
    """What lies beside the models and is no model. Files may lie there, but not under a model's name."""
    checks = []
    for name in store.objects.list_names():
        stem = name.removesuffix("/")
        if name.endswith("/") == is_name(stem):
            continue
        what = "is not the name of a model" if name.endswith("/") else "is no folder"
        checks.append(_damaged(printable_name(stem), printable_name(stem), f"{printable_name(stem)}: {what}"))
    return checks


def _check_model(store: Store, model: str, contents: Contents) -> list[Check]:
    checks = ask_each(store.objects, lambda version: _check_version(store, model, version), contents.versions)
    try:
        checks += [_check_alias(store, model, alias) for alias in list_aliases(store, model)]
    except READ_ERRORS as error:
        checks.append(_damaged(model, f"{model}/{ALIASES}", describe(error)))
    checks += [
        Check(
            name=f"{model}@{number}",
            path=key_of_version(model, number),
            is_whole=True,
            findings=_UNFINISHED,
            is_unfinished=True,
        )
        for number in contents.unfinished
    ]
    return checks + check_layout(store, model, contents)


def _check_version(store: Store, model: str, version: int) -> Check:
    name, path = f"{model}@{version}", f"{model}/{version}"
    try:
        opened = store.open_version(model, version).verify()
    except DigestMismatchError as error:
        return _damaged(name, path, error.what)
    except READ_ERRORS as error:
        return _damaged(name, path, describe(error))
    return _report(name, path, [*_check_documents(store, opened), *_check_summary(opened)])


def _check_summary(version: Version) -> list[str]:
    try:
        found = version.check_summary()
    except READ_ERRORS as error:
        found = describe(error)
    return [found] if found else []


def _check_documents(store: Store, version: Version) -> list[str]:
    """What is wrong with the verdict of a whole version, and with the documents that it names."""
    try:
        model, number = version.manifest.model, version.manifest.version
        data = store.read_document(model, number, VERDICT_FILE)
        if data is None:
            return []
        verdict = decode_verdict(data)
        if (verdict.model, verdict.candidate) != (model, version.digests):
            return [f"{VERDICT_FILE} is for other bytes"]
        return find_mismatched_documents(store, model, number, verdict)
    except READ_ERRORS as error:
        return [describe(error)]


def _check_alias(store: Store, model: str, alias: str) -> Check:
    """Check the chain of its moves, and whether the version that the last one pins is still the same."""
    name, path = f"{model}@{alias}", f"{model}/{ALIASES}/{alias}"
    try:
        history = inspect_history(store, model, alias)
        findings = history.problems
        if history.records and not history.findings:
            open_target(store, history.records[-1])
    except READ_ERRORS as error:
        return _damaged(name, path, describe(error))
    return _report(name, path, findings)


def check_layout(store: Store, model: str, contents: Contents) -> list[Check]:
    """What the names of files show: lost versions, and files that are no part of the model."""
    return [*_check_ledger(store, model, contents), *_check_strays(store, model, contents)]


def _check_ledger(store: Store, model: str, contents: Contents) -> list[Check]:
    """Versions that are lost, and ones that were written off and are back."""
    checks = []
    versions = set(contents.versions)
    for version in sorted(contents.numbers.published | contents.numbers.removed):
        is_there, is_removed = version in versions, version in contents.numbers.removed
        if is_there and is_removed:
            what = "was written off, and is there"
        elif is_removed:
            what = _describe_removal(store, model, version)
        else:
            what = "" if is_there or _is_new(store, model, version) else _describe_loss(store, model, version)
        if what:
            checks.append(_damaged(f"{model}@{version}", f"{model}/{version}", what))
    return checks


def _is_new(store: Store, model: str, version: int) -> bool:
    """Whether it was published while the names were listed: then only its entry is among them."""
    try:
        size = store.objects.find_size(f"{key_of_version(model, version)}/{MANIFEST_FILE}")
    except READ_ERRORS:  # a link in the place of its folder
        return False
    return size is not None and size >= 0


def _describe_removal(store: Store, model: str, version: int) -> str:
    """What is wrong with the entry of a version that was written off; empty if nothing."""
    try:
        read_entry(store.objects, model, version, removal=True)
    except READ_ERRORS as error:
        return describe(error)
    return ""


def _describe_loss(store: Store, model: str, version: int) -> str:
    try:
        entry = read_entry(store.objects, model, version)
    except READ_ERRORS as error:
        return f"is lost; {describe(error)}"
    when = f" {entry.written_at} by {entry.written_by}" if entry else ""
    return f"was published{when}, and is lost: restore it from a copy, or write it off with `registry repair`"


def _check_strays(store: Store, model: str, contents: Contents) -> list[Check]:
    """What lies in a model's folder and belongs to no version, alias or ledger, or cannot be read."""
    found = {
        folder: describe(error)
        for folder, error in contents.unreadable.items()
        if parse_number(folder.split("/")[1]) is None or folder.count("/") > 1
    }
    numbers = contents.numbers
    settled = {*contents.versions, *contents.unfinished, *numbers.published, *numbers.removed}
    for key in contents.keys:
        path, what = _classify_key(key, settled)
        if store.objects.is_remote and _is_beside_aliases(key):
            path, what = key, _STRAY
        if what:
            found.setdefault(path, what)
    return [
        _damaged(model, printable_name(path), f"{printable_name(path)}: {what}")
        for path, what in sorted(found.items())
    ]


def _is_beside_aliases(key: str) -> bool:
    """Whether an object lies where the folder of an alias does: a bucket may have both, and lists one."""
    _, part, *names = key.split("/")
    return part == ALIASES and len(names) == 1


def _classify_key(key: str, settled: set[int]) -> tuple[str, str]:
    """The file or folder of ``key``, and why it does not belong in a model; "" if it does.

    Args:
        settled: the versions that another check reports.
    """
    _, part, *names = key.split("/")
    number = parse_number(part)
    if number is not None:
        what = _BROKEN_OFF if names else "is no folder"
        return "/".join(key.split("/")[:2]), "" if number in settled else what
    if names == [""]:  # an empty folder, of any name
        return key, ""
    if part == ALIASES and names and is_name(names[0]):
        return key, ""
    stem = names[0].removesuffix(".json") if len(names) == 1 and names[0].endswith(".json") else ""
    is_known = (part == HEADS and is_name(stem)) or (part == LEDGER and is_ledger_stem(stem))
    return key, "" if is_known else _STRAY


def describe(error: Exception) -> str:
    """The error; if a file is refused, also what refuses it.

    Raises:
        ConnectionError: the error is one: a server that is gone is no damage of what lies there.
    """
    if isinstance(error, ConnectionError):
        raise error
    reason = explain_refusal(error)
    return f"{error}. {reason}" if reason else str(error)


def _report(name: str, path: str, findings: list[str]) -> Check:
    return Check(name=name, path=path, is_whole=not findings, findings="; ".join(findings))


def _damaged(name: str, path: str, what: str) -> Check:
    return _report(name, path, [what])
