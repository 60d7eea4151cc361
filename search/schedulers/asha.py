"""Schedulers that are baselines: ASHA on score, and full evaluation.

Asynchronous successive halving on score (ASHA, Li et al. 2018, arXiv 1810.05934).

The stopping variant: each result is judged on arrival. Of two equal scores the shorter program
ranks first, then the earlier report, so ties do not promote more candidates than allowed.

With full evaluation every candidate goes straight to the last rung and is never stopped early.
"""

import numpy as np

from kilobit.search.schedulers.scheduler import Result, RungResults, RungRule


class Asha(RungRule):
    """Promote the best 1/eta by score of the results reported so far at a rung."""

    def _judge(self, result: Result, results: RungResults) -> tuple[bool, str, tuple[str, ...]]:
        scores, bits, others = results.scores, results.bits, len(results) - 1
        ahead = (scores > scores[-1]) | ((scores == scores[-1]) & (bits <= bits[-1]))
        better = np.flatnonzero(ahead[:others])
        quota = max(1, len(results) // self._eta)
        reason = f"rank {len(better) + 1} of {len(results)} by score, {quota} may be promoted"
        # The best candidate ahead is enough to explain the decision.
        best = [results.names[i] for i in better[np.argsort(-scores[better], kind="stable")][:1]]
        return len(better) < quota, reason, tuple(best)


class Full(RungRule):
    """Baseline: every candidate goes straight to the last rung; affordable for a small space."""

    def __init__(self, *, num_rungs: int, eta: int) -> None:
        super().__init__(num_rungs=num_rungs, eta=eta)
        self.first_rung = num_rungs - 1
