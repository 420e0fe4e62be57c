"""Everything that is known about one gate when its documents are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from timberline.benchmarks.settings import GateSettings
from timberline.registry.verdict import Verdict

if TYPE_CHECKING:  # they bring scipy and pyarrow along, which a skipped gate need not wait for
    from timberline.benchmarks.analysis.predictions import QualityComparison
    from timberline.benchmarks.history.releases import Release
    from timberline.benchmarks.measure.records import Restart

# The document that a person opens.
PAGE_FILE = "report.html"


@dataclass(frozen=True)
class Record:
    """One gate: the verdict and what it was given on.

    Attributes:
        verdict: the answer, with a line for everything that was measured.
        restarts: all of them, also those that cannot be believed; empty when nothing was started.
        comparison: held-out predictions side by side; None for a first version, or when they could
            not be compared.
        settings: how sure the gate had to be.
        history: the versions so far, oldest first; may be empty.
    """

    verdict: Verdict
    restarts: tuple[Restart, ...]
    comparison: QualityComparison | None
    settings: GateSettings
    history: tuple[Release, ...] = ()
