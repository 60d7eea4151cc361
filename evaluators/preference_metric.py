"""The metric `preference`: whether a judge prefers an output to the example's target.

An output that is preferred scores 1, a tie 0.5, otherwise 0, so the mean is `half_points` of
`evaluators.ties` against the targets: 0.5 is as good as they are. An output without any text scores
0 and nobody is asked. Scores in [0, 1] that are not 0 or 1 get the intervals and bounds of such.

The same output always gets the same score, because replies are kept. An output on which the judge
gave no verdict in one of the orders has no score: the candidate fails with the reason. An endpoint
that answers nobody is an `OSError`, which stops a run like a full disk and is no candidate's fault.
"""

from collections.abc import Sequence
from pathlib import Path

from evaluators.chat import key_in
from evaluators.endpoint import Endpoint
from evaluators.judges import EndpointJudge
from evaluators.metrics import Example, MeanMetric, UnscoredError
from evaluators.preference import Pair, judge_pairs

_SCORES = {"win": 1.0, "tie": 0.5, "loss": 0.0}


class Preference(MeanMetric):
    """Wins against the target under a judge behind an endpoint.

    Args:
        config: the judge.
        folder: where its cache begins if it is relative.

    Raises:
        ValueError: if the judge's key is not there.
    """

    name = "preference"

    def __init__(self, config: EndpointJudge, folder: Path) -> None:
        key_in(config.key_variable)
        self._config, self._folder = config, folder
        # Made by whoever scores first: a task may travel to another process before.
        self._judge: Endpoint | None = None

    def per_example(self, output: str, example: Example) -> float:
        """Return 1, 0.5 or 0.

        Raises:
            UnscoredError: if the judge gave no verdict.
        """
        return self.scores([output], [example])[0]

    def scores(self, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        """Return 1, 0.5 or 0 of each; the judge is asked several at once.

        Raises:
            UnscoredError: if the judge gave no verdict on one of them.
            OSError: if the judge answers nobody, or its reply can't be kept.
        """
        texts = [output.strip() for output in outputs]
        pairs = [
            Pair(str(place), example.input, text, example.target.strip())
            for place, (text, example) in enumerate(zip(texts, examples, strict=True))
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
