"""The metric `preference`: a judge compares each output with the example's target.

A preferred output scores 1, a tie 0.5, a loss 0, so the mean is `half_points` of
`kilobit.evaluators.statistics.ties` against the targets: 0.5 means as good as the targets. An
output without any text scores 0 without asking the judge. Intervals and bounds are those for scores
anywhere in [0, 1].

The same output always gets the same score, because replies are cached. An output without a verdict
in one of the orders has no score, and the reason is in its columns; it is left out of the mean. If
that is so for more than half of a program's outputs, the program fails with the reason. An endpoint
that does not answer at all is an `OSError`, which stops the run, as a full disk does, instead of
failing the candidate.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from kilobit.evaluators.judges.endpoint import Endpoint, key_in
from kilobit.evaluators.judges.judges import EndpointJudge
from kilobit.evaluators.judges.preference import Pair, judge_pairs
from kilobit.evaluators.metrics.metrics import MeanMetric, UnscoredError
from kilobit.search.task import Example, Interval

_SCORES = {"win": 1.0, "tie": 0.5, "loss": 0.0}


class Preference(MeanMetric):
    """Preference over the target, decided by a judge behind an endpoint.

    Args:
        config: the judge.
        folder: base folder of a relative cache path.

    Raises:
        ValueError: if the environment lacks the judge's key.
    """

    name = "preference"

    def __init__(self, config: EndpointJudge, folder: Path) -> None:
        key_in(config.key_variable)
        self._config, self._folder = config, folder
        # Connect at the first score: a task may be sent to another process before that.
        self._judge: Endpoint | None = None
        # By output and example, so that a second try never changes what was found before.
        self._unjudged: dict[tuple[str, str], str] = {}

    def per_example(self, output: str, example: Example) -> float | None:
        """Return 1, 0.5 or 0 for one output, None if the judge gave no verdict."""
        return self.scores([output], [example])[0]

    def columns(self, output: str, example: Example) -> Mapping[str, str | int]:
        """Return the reason why an output that was scored here has no verdict."""
        reason = self._unjudged.get((output.strip(), example.id))
        return {} if reason is None else {"no_verdict": reason}

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> Sequence[float | None]:
        """Return 1, 0.5 or 0 for each output; questions to the judge run concurrently.

        Raises:
            OSError: if the judge does not answer, or its reply can't be cached.
        """
        texts = [output.strip() for output in outputs]
        pairs = [
            Pair(str(position), example.input, text, example.target.strip())
            for position, (text, example) in enumerate(zip(texts, examples, strict=True))
            if text and (text, example.id) not in self._unjudged
        ]
        if self._judge is None:
            self._judge = Endpoint(self._config, self._folder)
        found = [
            None if (text, one.id) in self._unjudged else 0.0
            for text, one in zip(texts, examples, strict=True)
        ]
        for row in judge_pairs(pairs, self._judge):
            position = int(row.id)
            if row.outcome is None:
                self._unjudged[texts[position], examples[position].id] = row.reason or "no reason"
            found[position] = None if row.outcome is None else _SCORES[row.outcome]
        return found

    def corpus(self, outputs: Sequence[str], examples: Sequence[Example]) -> Interval:
        """Return the mean over the outputs with a verdict, with a Wilson interval.

        Raises:
            UnscoredError: if the judge gave none on most of them.
        """
        scores = self.scores(outputs, examples)
        missing = [position for position, score in enumerate(scores) if score is None]
        if 2 * len(missing) > len(scores):
            first = examples[missing[0]]
            reason = self._unjudged[outputs[missing[0]].strip(), first.id]
            raise UnscoredError(
                f"the judge gave no verdict on {len(missing)} of {len(scores)} outputs, the first "
                f"on example {first.id}: {reason}"
            )
        return super().corpus(outputs, examples)
