"""Scoring rules: an output and its example in, a score in [0, 1] out.

A metric normalises the outputs of all programs alike: it strips white space at both ends and
changes nothing else (`number` and the metrics of `kilobit.evaluators.tasks.published` define
equality themselves). Any other cutting or extraction is post-processing by the program and counts
in its bits. An output never raises: an empty or unparsable one scores 0. Only a judge may leave an
output without a score (None), which counts in no mean; bounds hold whatever it would have been.

A strict parser of numbers: a text in, its exact value or None out.

A number is the whole text, white space at both ends aside: an optional sign, digits with or without
thousands separators, an optional decimal part, an optional exponent or denominator; a currency sign
may stand at either side, a percent sign after it, and a period at the end. So `-1,450.50`, `$18`,
`50%`, `.5`, `1/2`, `1e3` and `18.` are numbers; `18 dollars`, `= 18`, `1,45`, `1 1/2` and `2^3` are
not. Values are exact: 18 and 18.00 are equal. Currency and percent signs are units, which don't
change a value: `50%` is 50. The steps `last_number` and `first_number` read the same numbers.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from statistics import fmean
from typing import TYPE_CHECKING
from unicodedata import category

from kilobit.evaluators.metrics.bleu import (
    ORDER,
    Tokenizer,
    check_tokenizer,
    corpus_bleu,
    sacrebleu,
    sentence_statistics,
    signature,
    tokenizer_for,
)
from kilobit.evaluators.named import named
from kilobit.evaluators.tasks.miniature import writing
from kilobit.search.programs.postprocess import DIGITS, POWER_OR_FRACTION
from kilobit.search.task import LEVEL, Bounds, Example, Interval, Metric, clusters_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NUMBER = re.compile(
    r"(?:(?P<unit>[^\w\s.])\s?)??(?P<sign>[-\u2212+]?)(?P<inner>[^\w\s.]?)"
    rf"(?P<plain>{DIGITS}(?:\.\d+)?|\.\d+)(?P<more>{POWER_OR_FRACTION})"
    r"(?:\s?(?P<after>[^\w\s.]))?\.?"
)
# A larger one is no number: its digits would need unlimited memory.
_LARGEST_EXPONENT = 999
_PLAIN_DIGITS = str.maketrans("\u2212", "-", ",\xa0\u2009\u202f")


class UnscoredError(ValueError):
    """Most outputs have no score, because the judge gave no verdict; they do not count as 0."""


class MeanMetric:
    """A metric that averages over examples; `binary` promises scores of 0 or 1."""

    name: str
    binary = False

    def per_example(self, output: str, example: Example) -> float | None:
        """Return the score of one output; subclasses implement it."""
        raise AssertionError(f"{type(self).__name__} does not implement per_example")

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return no columns."""
        return {}

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> Sequence[float | None]:
        """Return `per_example` of each output."""
        return _each(self, outputs, examples)

    def contributions(
        self, outputs: Sequence[str], examples: Sequence[Example]
    ) -> Sequence[float | None]:
        """Return `scores`."""
        return self.scores(outputs, examples)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the mean of `scores` with a Wilson interval."""
        from kilobit.evaluators.statistics.intervals import mean_interval

        scores, clusters = self.scores(outputs, examples), clusters_of(examples)
        if clusters is not None:
            clusters = [c for c, score in zip(clusters, scores, strict=True) if score is not None]
        return mean_interval(_known(scores), clusters)

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return the means with binomial bounds, or betting bounds if scores may lie in between."""
        from kilobit.evaluators.statistics.simultaneous import binary_bounds, bounded_bounds

        table = [self.scores(each, examples) for each in outputs]
        clusters = clusters_of(examples)

        def rule(rows: list[list[float]]) -> list[Bounds]:
            if self.binary and clusters is None:
                return binary_bounds(rows, num_programs, level)
            return bounded_bounds(rows, num_programs, level, clusters)

        lowest = rule([[score or 0.0 for score in row] for row in table])
        if all(None not in row for row in table):
            return lowest
        most = [[1.0 if score is None else score for score in row] for row in table]
        return [
            Bounds(fmean(known) if (known := _known(row)) else low.score, low.lower, high.upper)
            for row, low, high in zip(table, lowest, rule(most), strict=True)
        ]


def _known(scores: Sequence[float | None]) -> list[float]:
    return [score for score in scores if score is not None]


def _each(
    metric: Metric, outputs: Sequence[str], examples: Sequence[Example]
) -> list[float | None]:
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
    corpus score. The interval is a percentile bootstrap over examples. The name of the metric and
    the signature in its columns tell the tokenizer.

    Args:
        tokenizer: finds the words.

    Raises:
        ValueError: if the tokenizer lacks a package or a file on this machine.
    """

    def __init__(self, tokenizer: Tokenizer = "13a") -> None:
        check_tokenizer(tokenizer)
        self.name = "bleu" if tokenizer == "13a" else f"bleu-{tokenizer}"
        self._tokenizer: Tokenizer = tokenizer

    def per_example(self, output: str, example: Example) -> float:
        """Return sentence BLEU in [0, 1]."""
        score = sacrebleu(self._tokenizer).sentence_score(output.strip(), [example.target])
        return min(1.0, float(score.score) / 100)

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return sacrebleu's signature of the corpus score."""
        return {"signature": signature(self._tokenizer)}

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> Sequence[float | None]:
        """Return `per_example` of each output."""
        return _each(self, outputs, examples)

    def contributions(
        self, outputs: Sequence[str], examples: Sequence[Example]
    ) -> Sequence[float | None]:
        """Return by how much corpus BLEU falls without each output, around corpus BLEU."""
        rows = self._statistics(outputs, examples)
        total = rows.sum(axis=0)
        without = corpus_bleu(total - rows)
        found = corpus_bleu(total) + (len(rows) - 1) * (without.mean() - without)
        return [float(value) for value in found]

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return corpus BLEU in [0, 1]; neither order nor batches change it."""
        from kilobit.evaluators.statistics.intervals import bootstrap_interval, in_clusters

        rows = in_clusters(self._statistics(outputs, examples), clusters_of(examples))
        return bootstrap_interval(rows, corpus_bleu)

    def bounds(
        self,
        outputs: Sequence[Sequence[str]],
        examples: Sequence[Example],
        num_programs: int,
        level: float = LEVEL,
    ) -> list[Bounds]:
        """Return corpus BLEU with bounds from one bootstrap over examples for all programs."""
        import numpy as np

        from kilobit.evaluators.statistics.intervals import in_clusters
        from kilobit.evaluators.statistics.simultaneous import CorpusStatistics, corpus_bounds

        clusters = clusters_of(examples)
        rows = in_clusters(np.array([self._statistics(o, examples) for o in outputs]), clusters)
        worst = rows.copy()
        worst[..., :ORDER] = 0
        targets = [example.target for example in examples]
        best = in_clusters(self._statistics(targets, examples), clusters)

        def score(means: "NDArray[np.float64]") -> "NDArray[np.float64]":
            # Smoothing applies to counts of the whole corpus, so scale the means up to it.
            return corpus_bleu(len(best) * means)

        return corpus_bounds(CorpusStatistics(rows, worst, best, score), num_programs, level)

    def _statistics(
        self, outputs: Sequence[str], examples: Sequence[Example]
    ) -> "NDArray[np.int64]":
        texts, targets = [output.strip() for output in outputs], [one.target for one in examples]
        return sentence_statistics(texts, targets, self._tokenizer)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (ExactMatch(), Number(), Contains(), Constraint(), CorpusBleu())
}


def metric_of(name: str, tokenizer: Tokenizer | None, examples: Sequence[Example]) -> Metric:
    """Return a metric by its name, for examples in an unknown language.

    One that is not among `METRICS` is an object of another package, or a class of it that takes no
    argument; see `kilobit.evaluators.named`.

    Raises:
        ValueError: if `tokenizer` is given to another metric than BLEU or lacks something, or BLEU
            needs one, or the name can't be imported.
    """
    if name not in METRICS:
        found = named("kilobit.metrics", name)
        made: Metric = found() if isinstance(found, type) else found
        if tokenizer is not None:
            raise ValueError(f"`tokenizer` has no effect with `metric: {name}`")
        return made
    if name != "bleu":
        if tokenizer is not None:
            raise ValueError(f"`tokenizer` has no effect with `metric: {name}`")
        return METRICS[name]
    return CorpusBleu(tokenizer or tokenizer_for(example.target for example in examples))


def parse_number(text: str) -> Fraction | None:
    """Return the value of `text`, or None if it is not a number."""
    parts = _parts(text)
    if parts is None or not parts[1]:
        return None
    return Fraction(parts[0]) / Fraction(parts[1])


def plain_number(text: str) -> str | None:
    """Return `text` without exponent, units, thousands separators and final period.

    Returns None if it is not a number.
    """
    parts = _parts(text)
    if parts is None or not parts[1]:
        return None
    return f"{parts[0]:f}" if parts[1] == 1 else f"{parts[0]:f}/{parts[1]:f}"


def _parts(text: str) -> tuple[Decimal, Decimal] | None:
    """Return numerator and denominator of a text, None if it is not a number."""
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    units = [unit for unit in (found["unit"], found["inner"], found["after"]) if unit]
    if len(units) > 1 or any(category(unit) != "Sc" for unit in units if unit != "%"):
        return None
    if "%" in units and not found["after"]:
        return None
    sign, plain, more = (found[part].translate(_PLAIN_DIGITS) for part in ("sign", "plain", "more"))
    if more[:1] in ("", "/"):
        return Decimal(sign + plain), Decimal(more[1:] or 1)
    if abs(Decimal(more[1:])) > _LARGEST_EXPONENT:
        return None
    return Decimal(sign + plain + more), Decimal(1)
