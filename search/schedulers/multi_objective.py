"""Multi-objective ASHA (Schmucker et al. 2021, arXiv 2106.12639): non-dominated rank, then spread.

Results of a rung are ordered by the layer of their Pareto front (bits and score), and within the
layer that does not fit as a whole by an epsilon-net: first the oldest result, then always the one
farthest from those already taken, on axes scaled to the rung's own range. The best 1/eta are
promoted.
"""

import numpy as np
import numpy.typing as npt

from kilobit.search.schedulers.scheduler import Result, RungResults, RungRule

Numbers = npt.NDArray[np.float64]


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
