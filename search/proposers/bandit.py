"""Choose the next operator by its gain per second, with Thompson sampling.

Improvements of the front are rare events of different size. An operator's rate of improvements per
second of compute has a Gamma distribution, updated as for a Poisson process (Thompson sampling as
in Chapelle and Li 2011); all records fade by a constant factor with each result, because an
operator that helped early need not help late (Raj and Kalyani 2017, arXiv 1707.09727). An event of
mean size counts one, and the prior is one event at the rate of all operators together, so neither
unit nor scale matters.
"""

import random
from collections.abc import Sequence


class Bandit:
    """The gains and seconds of some operators.

    Args:
        operators: their names.
        discount: what remains of all records after a result, in (0, 1].
    """

    def __init__(self, operators: Sequence[str], discount: float) -> None:
        self._discount = discount
        self._gain = dict.fromkeys(operators, 0.0)
        self._seconds = dict.fromkeys(operators, 0.0)
        self._num_gains = 0.0

    def order(self, rng: random.Random) -> list[str]:
        """Return the operators, the preferred one first, the others in case it can't be used.

        It draws one number per operator from `rng`.
        """
        mean_gain = sum(self._gain.values()) / self._num_gains if self._num_gains else 1.0
        all_seconds = sum(self._seconds.values())
        prior_seconds = all_seconds / max(self._num_gains, 1.0) or 1.0
        rates = {
            name: rng.gammavariate(1 + gain / mean_gain, 1 / (prior_seconds + self._seconds[name]))
            for name, gain in self._gain.items()
        }
        return sorted(rates, key=lambda name: -rates[name])

    def spend(self, operator: str, seconds: float) -> None:
        """Fade all records for a new result and charge its seconds to its operator."""
        for records in (self._gain, self._seconds):
            for name in records:
                records[name] *= self._discount
        self._num_gains *= self._discount
        self._seconds[operator] += seconds

    def reward(self, operator: str, gain: float) -> None:
        """Credit an operator with the improvement of the front by its candidate."""
        if gain > 0:
            self._gain[operator] += gain
            self._num_gains += 1
