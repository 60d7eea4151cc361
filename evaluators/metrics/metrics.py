"""Scoring rules: an output and its example in, a score in [0, 1] out.

A metric normalises the outputs of all programs alike: it strips white space at both ends and
changes nothing else (`number` and the metrics of `kilobit.evaluators.tasks.published` define
equality themselves). Any other cutting or extraction is post-processing by the program and counts
in its bits. An output never raises: an empty or unparsable one scores 0. Only a judge may leave an
output without a score (`UnscoredError`).

A strict parser of numbers: a text in, its exact value or None out.

A number is the whole text, white space at both ends aside: an optional minus sign, an optional
dollar sign before or after it, digits with or without thousands separators, an optional decimal
part, an optional final period. So `-1,450.50`, `$18`, `18.00` and `18.` are numbers; `18 dollars`,
`= 18`, `1,45`, `+18`, `50%`, `1/2` and `1e3` are not. Values are exact: 18 and 18.00 are equal.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from kilobit.evaluators.metrics.bleu import ORDER, corpus_bleu, sacrebleu, sentence_statistics
from kilobit.evaluators.statistics.intervals import (
    bootstrap_interval,
    in_clusters,
    mean_interval,
)
from kilobit.evaluators.statistics.simultaneous import (
    CorpusStatistics,
    binary_bounds,
    bounded_bounds,
    corpus_bounds,
)
from kilobit.evaluators.tasks.miniature import writing
from kilobit.search.task import LEVEL, Bounds, Example, Interval, Metric, clusters_of

_NUMBER = re.compile(
    # U+2212 is the typographic minus sign.
    "(?P<minus>[-\u2212]?)[$]?(?P<inner>[-\u2212]?)"
    r"(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]*)(?P<part>\.[0-9]+)?\.?"
)


class UnscoredError(ValueError):
    """An output has no score, because the judge gave no verdict; it does not count as 0."""


class MeanMetric:
    """A metric that averages over examples; `binary` promises scores of 0 or 1."""

    name: str
    binary = False

    def per_example(self, output: str, example: Example) -> float:
        """Return the score of one output; subclasses implement it."""
        raise AssertionError(f"{type(self).__name__} does not implement per_example")

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return no columns."""
        return {}

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return `per_example` of each output."""
        return _each(self, outputs, examples)

    def contributions(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return `scores`."""
        return self.scores(outputs, examples)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the mean of `scores` with a Wilson interval."""
        return mean_interval(self.scores(outputs, examples), clusters_of(examples))

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return the means with binomial bounds, or betting bounds if scores may lie in between."""
        table = [self.scores(each, examples) for each in outputs]
        clusters = clusters_of(examples)
        if self.binary and clusters is None:
            return binary_bounds(table, num_programs, level)
        return bounded_bounds(table, num_programs, level, clusters)


def _each(metric: Metric, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
    pairs = zip(outputs, examples, strict=True)
    return [metric.per_example(output, example) for output, example in pairs]


class ExactMatch(MeanMetric):
    """Score 1 if the output equals the gold answer after stripping white space, else 0."""

    name = "exact_match"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(output.strip() == example.gold.strip())


class Number(MeanMetric):
    """Score 1 if the whole output is a number equal to the gold answer, else 0.

    `kilobit.evaluators.metrics.metrics` defines a number. No number is extracted from a longer
    output.
    """

    name = "number"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        found = parse_number(output)
        return float(found is not None and found == parse_number(example.gold))


class Contains(MeanMetric):
    """Score 1 if the gold answer occurs in the output, ignoring case, else 0."""

    name = "contains"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(example.gold.strip().lower() in output.lower())


class Constraint(MeanMetric):
    """Score 1 if the output meets the constraint in `kind`, `argument` and `topic`, else 0."""

    name = "constraint"
    binary = True

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        extra = example.extra
        return float(writing.satisfies(output, extra["kind"], extra["argument"], extra["topic"]))


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
        """Return no columns."""
        return {}

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return `per_example` of each output."""
        return _each(self, outputs, examples)

    def contributions(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return by how much corpus BLEU falls without each output, around corpus BLEU."""
        rows = _statistics(outputs, examples)
        total = rows.sum(axis=0)
        without = corpus_bleu(total - rows)
        found = corpus_bleu(total) + (len(rows) - 1) * (without.mean() - without)
        return [float(value) for value in found]

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return corpus BLEU in [0, 1]; neither order nor batches change it."""
        rows = in_clusters(_statistics(outputs, examples), clusters_of(examples))
        return bootstrap_interval(rows, corpus_bleu)

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return corpus BLEU with bounds from one bootstrap over examples for all programs."""
        clusters = clusters_of(examples)
        rows = in_clusters(np.array([_statistics(o, examples) for o in outputs]), clusters)
        worst = rows.copy()
        worst[..., :ORDER] = 0
        targets = [example.target for example in examples]
        best = in_clusters(_statistics(targets, examples), clusters)

        def score(means: NDArray[np.float64]) -> NDArray[np.float64]:
            # Smoothing applies to counts of the whole corpus, so scale the means up to it.
            return corpus_bleu(len(best) * means)

        return corpus_bounds(CorpusStatistics(rows, worst, best, score), num_programs, level)


def _statistics(outputs: Sequence[str], examples: Sequence[Example]) -> NDArray[np.int64]:
    targets = [example.target for example in examples]
    return sentence_statistics([output.strip() for output in outputs], targets)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (ExactMatch(), Number(), Contains(), Constraint(), CorpusBleu())
}


def parse_number(text: str) -> Decimal | None:
    """Return the value of `text`, or None if it is not a number."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None or (found["minus"] and found["inner"]):
        return None
    digits = found["whole"].replace(",", "") + (found["part"] or "")
    if not digits:
        return None
    value = Decimal(digits)
    # Unary minus would round a long number to the precision of the decimal context.
    return value.copy_negate() if found["minus"] or found["inner"] else value


def plain_number(text: str) -> str | None:
    """Return `text` without dollar sign, thousands separators and final period.

    Returns None if it is not a number.
    """
    value = parse_number(text)
    return None if value is None else f"{value:f}"
