"""What is known about one gate when its documents are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from timberline.benchmarks.settings import GateSettings
from timberline.registry.verdict import Verdict

if TYPE_CHECKING:  # these import scipy and pyarrow, and a skipped gate should not wait for them
    from timberline.benchmarks.analysis.predictions import QualityComparison
    from timberline.benchmarks.history.releases import Release
    from timberline.benchmarks.measure.records import Restart

# The document that a person opens.
PAGE_FILE = "report.html"


@dataclass(frozen=True)
class GateRecord:
    """One gate: the verdict and its evidence.

    Attributes:
        verdict: the answer, with a line for everything that was measured.
        restarts: all of them, also the invalid ones; empty when nothing was started.
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

    @property
    def arms(self) -> dict[str, str]:
        """The arms, champion first, with their names in legends and tables."""
        versions = {"champion": self.verdict.champion, "candidate": self.verdict.candidate}
        return {arm: f"{arm} (version {judged.version})" for arm, judged in versions.items() if judged}

    @property
    def usable_restarts(self) -> list[Restart]:
        """The valid restarts that have observations of every arm."""
        return [
            restart
            for restart in self.restarts
            if not restart.problem
            and self.arms.keys() <= restart.arms.keys()
            and all(run.latencies_ms for run in restart.arms.values())
        ]
