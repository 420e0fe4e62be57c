"""Are the files of a version the ones its manifest names? Every byte is read again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from timberline.registry.folder import is_system_file, open_regular_file, printable_name
from timberline.registry.manifest import FileDigest
from timberline.registry.runs import NOISE_FILE
from timberline.registry.verdict import VERDICT_FILE

MANIFEST_FILE = "manifest.json"
# Written beside a version after it was published; the manifest cannot name them.
DOCUMENTS = (VERDICT_FILE, "report.md", "report.json", "report.html", "junit.xml", NOISE_FILE)


def find_damage(folder: Path, files: Mapping[str, FileDigest], *, is_quick: bool = False) -> list[str]:
    """What is wrong with a version's folder, one sentence a finding; empty when it is whole.

    A file that the manifest does not name, and anything that is not a plain file (a symbolic
    link above all), is a finding as much as a wrong digest.

    Args:
        folder: the version's.
        files: that the manifest names.
        is_quick: opens no file: kinds and sizes are compared, bytes are not.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(folder) as scanned:
        entries = {entry.name: entry for entry in scanned if not is_system_file(entry.name)}
    named = {*files, MANIFEST_FILE, *DOCUMENTS}
    findings = [
        f"{printable_name(name)} is not named in the manifest" for name in sorted(entries.keys() - named)
    ]
    for name in sorted(entries.keys() & named):
        if not entries[name].is_file(follow_symlinks=False):
            findings.append(f"{name} is not a plain file")
        elif name in files:
            size = entries[name].stat(follow_symlinks=False).st_size
            findings += _compare(folder / name, size, files[name], is_quick)
    return findings + [f"{name} is missing" for name in sorted(files.keys() - entries.keys())]


def _compare(path: Path, size: int, expected: FileDigest, is_quick: bool) -> list[str]:
    if size != expected.size:
        return [f"{path.name} has {size} bytes, manifest says {expected.size}"]
    try:
        digest = expected.sha256 if is_quick else _digest(path)
    except OSError as error:
        return [f"{path.name} cannot be read: {error.strerror}"]
    if digest != expected.sha256:
        return [f"{path.name} has digest {digest[:12]}…, manifest says {expected.sha256[:12]}…"]
    return []


def _digest(path: Path) -> str:
    """As `registry.runtime.files.digest_file`; "" of what has become another thing than a plain file."""
    handle = open_regular_file(path)
    if handle is None:
        return ""
    with os.fdopen(handle, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
