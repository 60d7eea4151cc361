"""Scoring rules: an output and its example in, a score in [0, 1] out.

A metric normalises every output the same way for every program: white space at both ends is
dropped, nothing else (`number` and those of `evaluators.benchmarks` say themselves what they take
for equal). Whatever a program wants to cut or extract is its own post-processing and
costs bits. An output never raises: an empty or unparsable one scores 0. Only a judge
may leave one without a score (`UnscoredError`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evaluators.bleu import ORDER, corpus_bleu, sacrebleu, sentence_statistics
from evaluators.certification import (
    LEVEL,
    Bounds,
    CorpusStatistics,
    binary_bounds,
    bounded_bounds,
    corpus_bounds,
)
from evaluators.intervals import Interval, bootstrap_interval, mean_interval
from evaluators.miniature import instructions
from evaluators.number import parse_number


@dataclass(frozen=True)
class Example:
    """One item of a task: `id` is a hash of its input, `extra` is what the metric needs besides.

    `target` is what demonstrations show and adapters learn. Outputs are compared with `gold`.
    """

    id: str
    input: str
    target: str
    extra: Mapping[str, str]

    @property
    def gold(self) -> str:
        """Return the right answer: `gold` of `extra` where the target says more than that."""
        return self.extra.get("gold", self.target)


class UnscoredError(ValueError):
    """An output has no score, because who judges could not say; that is no score of 0."""


class Metric(Protocol):
    """A scoring rule; `per_example` is what racing and plots use, `corpus` is the score."""

    name: str

    def per_example(self, output: str, example: Example) -> float:
        """Return the score of one output in [0, 1]."""
        ...

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return what else tables should say of one output; nothing for most metrics."""
        ...

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return `per_example` of each output; for metrics that are quicker at many."""
        ...

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the score of all outputs with its 95 % interval."""
        ...

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return the score of each program with bounds that hold for all of them at once.

        Args:
            outputs: of each program, for the same examples.
            examples: on which none of the programs was chosen.
            num_programs: how many programs were chosen together, those that failed among them.
            level: probability that all bounds hold.
        """
        ...


class MeanMetric:
    """A metric whose score is the mean over examples; `binary` promises that each is 0 or 1."""

    name: str
    binary = False

    def per_example(self, output: str, example: Example) -> float:
        """Return the score of one output; every metric has its own."""
        raise AssertionError(f"{type(self).__name__} scores no example")

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return nothing."""
        return {}

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return `per_example` of each output."""
        return _each(self, outputs, examples)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the mean of `scores` with a Wilson interval."""
        return mean_interval(self.scores(outputs, examples))

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return the means with binomial bounds, or by betting where a score may lie between."""
        table = [self.scores(each, examples) for each in outputs]
        return (binary_bounds if self.binary else bounded_bounds)(table, num_programs, level)


def _each(metric: Metric, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
    pairs = zip(outputs, examples, strict=True)
    return [metric.per_example(output, example) for output, example in pairs]


class ExactMatch(MeanMetric):
    """1 if the output equals the target after stripping white space, else 0."""

    name = "exact_match"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(output.strip() == example.gold.strip())


class Number(MeanMetric):
    """1 if the whole output is a number and equals the target as one, else 0.

    `evaluators.number` says what a number is. Nothing is searched for in the output.
    """

    name = "number"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        found = parse_number(output)
        return float(found is not None and found == parse_number(example.gold))


class Contains(MeanMetric):
    """1 if the target occurs in the output, ignoring case, else 0."""

    name = "contains"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(example.gold.strip().lower() in output.lower())


class Constraint(MeanMetric):
    """1 if the output meets the constraint in the example's `kind`, `argument` and `topic`."""

    name = "constraint"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        extra = example.extra
        return float(
            instructions.satisfies(output, extra["kind"], extra["argument"], extra["topic"])
        )


class CorpusBleu:
    """Corpus BLEU by sacrebleu with its default settings, divided by 100.

    `per_example` is sacrebleu's sentence BLEU (effective order). It is a proxy: its mean is not the
    corpus score. The interval is a percentile bootstrap over examples.
    """

    name = "bleu"

    def per_example(self, output: str, example: Example) -> float:
        """Return sentence BLEU in [0, 1]."""
        score = sacrebleu().sentence_score(output.strip(), [example.target])
        return min(1.0, float(score.score) / 100)

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return nothing."""
        return {}

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return `per_example` of each output."""
        return _each(self, outputs, examples)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return corpus BLEU in [0, 1]; it depends neither on order nor on batches."""
        return bootstrap_interval(_statistics(outputs, examples), corpus_bleu)

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return corpus BLEU with bounds from a bootstrap over the examples of all programs."""
        rows = np.array([_statistics(each, examples) for each in outputs])
        worst = rows.copy()
        worst[..., :ORDER] = 0
        best = _statistics([example.target for example in examples], examples)

        def score(means: NDArray[np.float64]) -> NDArray[np.float64]:
            # Where no n-gram of an order matches, its smoothed count is one of the whole corpus.
            return corpus_bleu(len(examples) * means)

        return corpus_bounds(CorpusStatistics(rows, worst, best, score), num_programs, level)


def _statistics(outputs: Sequence[str], examples: Sequence[Example]) -> NDArray[np.int64]:
    targets = [example.target for example in examples]
    return sentence_statistics([output.strip() for output in outputs], targets)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (ExactMatch(), Number(), Contains(), Constraint(), CorpusBleu())
}
