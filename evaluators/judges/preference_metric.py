"""The metric `preference`: a judge compares each output with the example's target.

A preferred output scores 1, a tie 0.5, a loss 0, so the mean is `half_points` of
`kilobit.evaluators.statistics.ties` against the targets: 0.5 means as good as the targets. An
output without any text scores 0 without asking the judge. Intervals and bounds are those for scores
anywhere in [0, 1].

The same output always gets the same score, because replies are cached. An output without a verdict
in one of the orders has no score: the candidate fails with the reason. An endpoint that does not
answer at all is an `OSError`, which stops the run, as a full disk does, instead of failing the
candidate.
"""

from collections.abc import Sequence
from pathlib import Path

from kilobit.evaluators.judges.endpoint import Endpoint, key_in
from kilobit.evaluators.judges.judges import EndpointJudge
from kilobit.evaluators.judges.preference import Pair, judge_pairs
from kilobit.evaluators.metrics.metrics import MeanMetric, UnscoredError
from kilobit.search.task import Example

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

    def per_example(self, output: str, example: Example) -> float:
        """Return 1, 0.5 or 0 for one output.

        Raises:
            UnscoredError: if the judge gave no verdict.
        """
        return self.scores([output], [example])[0]

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return 1, 0.5 or 0 for each output; questions to the judge run concurrently.

        Raises:
            UnscoredError: if the judge gave no verdict on one of them.
            OSError: if the judge does not answer, or its reply can't be cached.
        """
        texts = [output.strip() for output in outputs]
        pairs = [
            Pair(str(position), example.input, text, example.target.strip())
            for position, (text, example) in enumerate(zip(texts, examples, strict=True))
            if text
        ]
        if self._judge is None:
            self._judge = Endpoint(self._config, self._folder)
        found = [0.0] * len(texts)
        for row in judge_pairs(pairs, self._judge):
            if row.outcome is None:
                example = examples[int(row.id)]
                raise UnscoredError(f"example {example.id} was not judged: {row.reason}")
            found[int(row.id)] = _SCORES[row.outcome]
        return found
