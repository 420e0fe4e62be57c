"""Requests that failed or were answered wrongly: the candidate's fault, or a broken measurement? Pure.

Both arms are asked in turn, by the same client, on the same machine. What breaks around them breaks
for both; what only the candidate fails is the candidate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest, fisher_exact

from timberline.benchmarks.analysis.question import OBSERVATIONS
from timberline.benchmarks.analysis.statistics import Restart
from timberline.registry.verdict import Outcome, VerdictLine

_SURE = 0.95


@dataclass(frozen=True)
class Tally:
    """Requests of one arm, golden rows and warm-up included, and how many of them failed."""

    requests: int
    failures: int

    @property
    def share(self) -> float | None:
        """Of failed requests, 0 to 1; None of none."""
        return self.failures / self.requests if self.requests else None

    @property
    def most(self) -> float | None:
        """One-sided upper bound of the true share.

        Source: Clopper & Pearson, *The use of confidence or fiducial limits*, Biometrika 26 (1934).
        """
        if not self.requests:
            return None
        test = binomtest(self.failures, self.requests, alternative="less")
        return float(test.proportion_ci(_SURE, method="exact").high)


def judge_error_rate(restarts: Sequence[Restart], alpha: float) -> VerdictLine:
    """BLOCK a candidate that fails requests beside a champion that fails none.

    Everything else that failed is INVALID, never PASS: failures of the champion say nothing good
    about the candidate, failures of both are the machine's or the workload's, and the candidate's
    alone may be so few that the champion was merely lucky. ``high`` is the largest share of failures
    that as many good answers leave possible at 95 % (Clopper and Pearson).

    Args:
        restarts: in any state; what failed before the window counts as well.
        alpha: chance of blocking a candidate that fails no more often than the champion.
    """
    candidate, champion = (count_failures(restarts, arm) for arm in ("candidate", "champion"))
    outcome, reason = _decide(candidate, champion, alpha)
    return VerdictLine(
        name="error_rate",
        candidate=candidate.share,
        champion=champion.share,
        difference=_subtract(candidate.share, champion.share),
        high=candidate.most,
        limit=0.0,
        unit="share of requests",
        outcome=outcome,
        reason=reason,
        evidence=OBSERVATIONS,
    )


def count_failures(restarts: Sequence[Restart], arm: str) -> Tally:
    """Of all restarts; those that an arm was not asked in add nothing."""
    runs = [restart.arms[arm] for restart in restarts if arm in restart.arms]
    return Tally(sum(run.request_count for run in runs), sum(run.failure_count for run in runs))


def compare_failures(candidate: Tally, champion: Tally) -> float:
    """Chance of so many failures among the candidate's requests if both arms fail alike, one-sided.

    Source: R. A. Fisher's exact test, as `scipy.stats.fisher_exact`. It takes requests for
    independent; a stall that fails several in a row hits both arms, which are asked in turn.
    """
    table = [[tally.failures, tally.requests - tally.failures] for tally in (candidate, champion)]
    return float(fisher_exact(table, alternative="greater").pvalue)


def _decide(candidate: Tally, champion: Tally, alpha: float) -> tuple[Outcome, str]:
    if not candidate.requests:
        return "INVALID", "the candidate was asked nothing"
    said = f"{candidate.failures} of {candidate.requests} requests of the candidate failed"
    if champion.requests:
        said += f", {champion.failures} of {champion.requests} of the champion"
    if not candidate.failures and not champion.failures:
        return "PASS", said
    if champion.failures:
        return "INVALID", f"{said}: what fails for the champion is not the candidate's doing"
    if not champion.requests:
        return "INVALID", f"{said}: there is no champion to tell whose doing it is"
    chance = compare_failures(candidate, champion)
    if chance > alpha:
        return "INVALID", f"{said}: too few to tell whose doing it is, p = {chance:.2g}"
    return "BLOCK", f"{said}: Fisher's exact test, p = {chance:.1g}"


def _subtract(candidate: float | None, champion: float | None) -> float | None:
    return None if candidate is None or champion is None else candidate - champion
