"""Scoring rules: an output and its example in, a score in [0, 1] out.

A metric normalises every output the same way for every program: white space at both ends is
dropped, nothing else. Whatever a program wants to cut or extract is its own post-processing and
costs bits. An output never raises: an empty or unparsable one scores 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

from evaluators.intervals import Interval, bootstrap_interval, mean_interval
from evaluators.miniature import instructions

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU


@dataclass(frozen=True)
class Example:
    """One item of a task: `id` is a hash of its input, `extra` is what the metric needs besides."""

    id: str
    input: str
    target: str
    extra: Mapping[str, str]


class Metric(Protocol):
    """A scoring rule; `per_example` is what racing and plots use, `corpus` is the score."""

    name: str

    def per_example(self, output: str, example: Example) -> float:
        """Return the score of one output in [0, 1]."""
        ...

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the score of all outputs with its 95 % interval."""
        ...


class _Mean:
    """A metric whose score is the mean over examples."""

    name: str

    def per_example(self, output: str, example: Example) -> float:
        raise AssertionError(f"{type(self).__name__} scores no example")

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the mean of `per_example` with a Wilson interval."""
        pairs = zip(outputs, examples, strict=True)
        return mean_interval([self.per_example(output, example) for output, example in pairs])


class ExactMatch(_Mean):
    """1 if the output equals the target after stripping white space, else 0."""

    name = "exact_match"

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(output.strip() == example.target.strip())


class Contains(_Mean):
    """1 if the target occurs in the output, ignoring case, else 0."""

    name = "contains"

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        return float(example.target.strip().lower() in output.lower())


class Constraint(_Mean):
    """1 if the output meets the constraint in the example's `kind`, `argument` and `topic`."""

    name = "constraint"

    def per_example(self, output: str, example: Example) -> float:
        """Return 1.0 or 0.0."""
        extra = example.extra
        return float(
            instructions.satisfies(output, extra["kind"], extra["argument"], extra["topic"])
        )


@cache
def _sacrebleu() -> "BLEU":
    # Half a second of imports that most commands of the program don't need.
    from sacrebleu.metrics.bleu import BLEU

    # Effective order concerns sentence scores only; counts and totals are the same without it.
    return BLEU(effective_order=True)


class CorpusBleu:
    """Corpus BLEU by sacrebleu with its default settings, divided by 100.

    `per_example` is sacrebleu's sentence BLEU (effective order). It is a proxy: its mean is not the
    corpus score. The interval is a percentile bootstrap over examples.
    """

    name = "bleu"

    def per_example(self, output: str, example: Example) -> float:
        """Return sentence BLEU in [0, 1]."""
        score = _sacrebleu().sentence_score(output.strip(), [example.target])
        return min(1.0, float(score.score) / 100)

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return corpus BLEU in [0, 1]; it depends neither on order nor on batches."""
        bleu = _sacrebleu()
        # Sufficient statistics of a sentence: n-gram matches, n-gram totals and both lengths.
        rows: list[list[int]] = []
        for output, example in zip(outputs, examples, strict=True):
            one = bleu.sentence_score(output.strip(), [example.target])
            rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])

        def score(sums: Sequence[int]) -> float:
            order = bleu.max_ngram_order
            result = bleu.compute_bleu(
                correct=list(sums[:order]),
                total=list(sums[order : 2 * order]),
                sys_len=sums[-2],
                ref_len=sums[-1],
                smooth_method=bleu.smooth_method,
                max_ngram_order=order,
            )
            return min(1.0, float(result.score) / 100)

        return bootstrap_interval(rows, score)


METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (ExactMatch(), Contains(), Constraint(), CorpusBleu())
}
