"""The one small protocol behind which every source stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

# Seconds to wait before asking again; a parameter everywhere, so that tests need not wait.
Pause = Callable[[float], None]


class Fetcher(Protocol):
    """Fetch one configured source, whole and verified, or raise a `SourceError`."""

    @property
    def label(self) -> str:
        """The source in a few words, for logs and errors; carries no credentials."""
        ...

    def inputs(self) -> dict[str, str]:
        """What the result depends on besides the configuration: digests, by a name of their own."""
        ...

    def fetch(self, folder: Path, scratch: Path) -> None:
        """Fill the empty ``folder`` with the source's files.

        ``scratch`` outlives a killed run: a download that was cut goes on from what lies there.
        """
        ...
