"""Are the files of a version the ones its manifest names? Every byte is read again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from registry.ground.files import digest_file
from registry.manifest import FileDigest, Manifest
from registry.verdict import VERDICT_FILE

MANIFEST_FILE = "manifest.json"
# Written beside a version after it was published; the manifest cannot name them.
DOCUMENTS = (VERDICT_FILE, "report.md", "report.json", "report.html", "junit.xml")


def find_damage(
    folder: Path, model: str, version: int, manifest: Manifest, *, is_quick: bool = False
) -> list[str]:
    """What is wrong with a version's folder, one sentence a finding; empty when it is whole.

    A file that the manifest does not name, and anything that is not a plain file (a symbolic
    link above all), is a finding as much as a wrong digest. ``is_quick`` compares sizes only.
    """
    findings = []
    if (manifest.model, manifest.version) != (model, version):
        findings.append(f"manifest.json describes {manifest.model}@{manifest.version}")
    entries = {entry.name: entry for entry in os.scandir(folder)}
    for name in sorted(entries.keys() - manifest.files.keys() - {MANIFEST_FILE, *DOCUMENTS}):
        findings.append(f"{name[:80]} is not named in the manifest")
    for name, entry in sorted(entries.items()):
        if not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            findings.append(f"{name[:80]} is not a plain file")
            entries.pop(name)
    for name, expected in sorted(manifest.files.items()):
        known = _compare(folder / name, expected, is_quick) if name in entries else [f"{name} is missing"]
        findings += known
    return findings


def _compare(path: Path, expected: FileDigest, is_quick: bool) -> list[str]:
    size = path.stat().st_size
    if size != expected.size:
        return [f"{path.name} has {size} bytes, manifest says {expected.size}"]
    digest = expected.sha256 if is_quick else digest_file(path)
    if digest != expected.sha256:
        return [f"{path.name} has digest {digest[:12]}…, manifest says {expected.sha256[:12]}…"]
    return []
