"""Schedulers that are baselines: ASHA on score, multi-objective ASHA, and full evaluation.

Asynchronous successive halving on score (ASHA, Li et al. 2018, arXiv 1810.05934).

The stopping variant: each result is judged on arrival. Of two equal scores the shorter program
ranks first, then the earlier report, so ties do not promote more candidates than allowed.

Multi-objective ASHA (Schmucker et al. 2021, arXiv 2106.12639): non-dominated rank, then spread.

Results of a rung are ordered by the layer of their Pareto front (bits and score), and within the
layer that does not fit as a whole by an epsilon-net: first the oldest result, then always the one
farthest from those already taken, on axes scaled to the rung's own range. The best 1/eta are
promoted.

With full evaluation every candidate goes straight to the last rung and is never stopped early.
"""

import numpy as np
import numpy.typing as npt

from kilobit.search.schedulers.scheduler import Result, RungResults, RungRule

Numbers = npt.NDArray[np.float64]


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


class MultiObjectiveAsha(RungRule):
    """The stopping variant: each result is judged on arrival."""

    def _judge(self, result: Result, results: RungResults) -> tuple[bool, str, tuple[str, ...]]:
        mine = len(results) - 1
        quota = max(1, len(results) // self._eta)
        log_bits = np.log2(np.maximum(results.bits, 1))
        left = np.lexsort((np.arange(mine + 1), -results.scores, log_bits))
        layer, taken = 0, 0
        while taken < quota:
            layer += 1
            on_front = first_layer(results.scores[left])
            members = left[on_front]
            if mine in members:
                room = quota - taken
                position = 0
                if room < len(members):
                    points = np.stack([log_bits[members], results.scores[members]], axis=1)
                    position = spread_order(points, np.argsort(members)).index(
                        int(np.flatnonzero(members == mine)[0])
                    )
                reason = (
                    f"on front {layer} of {len(results)} results, rank {taken + position + 1}, "
                    f"{quota} may be promoted"
                )
                return position < room, reason, ()
            taken += len(members)
            left = left[~on_front]
        reason = f"behind {layer} fronts of {len(results)} results, {quota} may be promoted"
        return False, reason, ()


def first_layer(scores: Numbers) -> npt.NDArray[np.bool_]:
    """Return the mask of the non-dominated points, given their scores in the order of bits.

    Of equal bits the better score comes first. Of equal points the first is on the layer.
    """
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(scores)[:-1]])
    return np.asarray(scores > best_before)


def spread_order(points: Numbers, first: npt.NDArray[np.int64]) -> list[int]:
    """Return the points in the order of an epsilon-net: each the farthest from those before.

    Args:
        points: shape [num_points, 2].
        first: the points in the order of age; the oldest begins, and ties go to the older.
    """
    span = points.max(axis=0) - points.min(axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    order = [int(first[0])]
    distance = np.linalg.norm(scaled - scaled[order[0]], axis=1)
    while len(order) < len(points):
        rest = first[~np.isin(first, order)]
        order.append(int(rest[np.argmax(distance[rest])]))
        distance = np.minimum(distance, np.linalg.norm(scaled - scaled[order[-1]], axis=1))
    return order
