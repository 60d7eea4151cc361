"""Training of an adapter's numbers by the task's score of generated answers, without gradients.

An evolution strategy (Salimans et al. 2017, arXiv 1703.03864) with antithetic pairs and sign
shaping. The members of a generation answer the same train examples: each pair with the numbers plus
and minus its own noise of +1 and -1, `spread` steps away. The numbers then move by the noise of
each pair towards the member with the higher score, and not at all if the scores are equal.

All of it is integers times one step, which is how far a pair moves a number. So the result follows
from a seed and the signs of the differences (`kilobit.search.programs.reward_replay`), whatever ran
the members. A number moves about as far in a generation as the learning rate says: a step is the
learning rate divided by the root of the number of pairs. There is no warm-up and no decay.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.programs.numbers import Tensor, step_code, step_of
from kilobit.search.programs.reward_replay import Replay, Sums
from kilobit.search.streams import stream, stream_seed
from kilobit.search.task import Example

Scores = Sequence[float | None]


@dataclass
class Rewards:
    """Rewards of the generations of one stretch of training, in their order.

    Attributes:
        means: mean score of all members.
        bests: mean score of the best member.
    """

    means: list[float] = field(default_factory=list)
    bests: list[float] = field(default_factory=list)

    def add(self, scores: Sequence[Scores]) -> None:
        """Add a generation, given the scores of each member; those unknown are left out."""
        known = [[score for score in of_one if score is not None] for of_one in scores]
        members = [math.fsum(of_one) / len(of_one) for of_one in known if of_one]
        if members:
            self.means.append(math.fsum(members) / len(members))
            self.bests.append(max(members))


class RewardTraining:
    """State of a training by reward.

    Args:
        spec: the adapter.
        shapes: rows and columns of its tensors of numbers, in their order.
        learning_rate: how far a number moves in a generation.

    Attributes:
        replay: the signs so far and their sums.
        code: the step byte of the numbers.
        num_pairs: pairs of a generation.
        base: the numbers that it began from, if these are another adapter's.
    """

    def __init__(
        self, spec: AdapterSpec, shapes: Sequence[tuple[int, int]], learning_rate: float
    ) -> None:
        self._shapes = shapes
        size = sum(rows * columns for rows, columns in shapes)
        self.num_pairs = spec.num_pairs(size)
        root = math.sqrt(self.num_pairs)
        self.code = step_code(learning_rate / root)
        self._apart = max(1, round(spec.spread * root))
        self.replay = Replay(stream_seed(spec.seed, "reward") % 256, size)
        self.base: list[Tensor] | None = None

    def numbers(self) -> list[Tensor]:
        """Return the numbers so far."""
        return self._numbers(self.replay.sums)

    def members(self) -> Iterator[list[Tensor]]:
        """Yield the numbers of each member of the next generation, both of a pair in turn."""
        middle = self.replay.sums
        for pair in range(self.num_pairs):
            away = self._apart * self.replay.noise(pair)
            yield self._numbers(middle + away)
            yield self._numbers(middle - away)

    def learn(self, scores: Sequence[Scores]) -> None:
        """End a generation, given each member's scores on the same examples, None if unknown."""
        assert len(scores) == 2 * self.num_pairs
        for plus, minus in zip(scores[::2], scores[1::2], strict=True):
            both = zip(plus, minus, strict=True)
            gap = math.fsum(a - b for a, b in both if a is not None and b is not None)
            self.replay.add((gap > 0) - (gap < 0))

    def _numbers(self, sums: Sums) -> list[Tensor]:
        # In float32, as torch multiplies a tensor of integers by a number.
        flat, at, found = sums.astype(np.float32) * np.float32(step_of(self.code)), 0, []
        for rows, columns in self._shapes:
            found.append(flat[at : at + rows * columns].reshape(rows, columns))
            at += rows * columns
        if self.base is not None:
            found = [start + moved for start, moved in zip(self.base, found, strict=True)]
        return found


def examples_of(spec: AdapterSpec, train: Sequence[Example], generation: int) -> list[Example]:
    """Return the examples that all members of a generation answer, by seed and generation."""
    rng = stream(spec.seed, "generation", generation)
    return rng.sample(train, min(spec.batch_size, len(train)))
