"""An evaluator as Ray sees it.

Whoever looks up an actor by its name loads the class of the actor and with it the module. Trials
do that, so this module imports nothing heavy: a trial's process stays small and starts at once.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.worker_log import keep_log
from search.rungs import Rung

if TYPE_CHECKING:
    from cluster.messages import EvaluatorSetup


class EvaluatorActor:
    """A worker of the pool; see `cluster.evaluator.Evaluator`, whose methods these are."""

    def __init__(self, setup: "EvaluatorSetup") -> None:
        self._log = keep_log(setup.log_level)
        from cluster.in_hand import in_hand_of

        # First of all, so that a worker is given up that dies of what it loads.
        in_hand = in_hand_of(setup)
        from cluster.evaluator import Evaluator

        self._evaluator = Evaluator(setup, in_hand)

    def ready(self) -> str:
        """Return the digest of the base model."""
        return self._evaluator.ready()

    def prompt_bits(self, texts: Sequence[str]) -> list[float]:
        """Return how many bits each text takes under the base model."""
        return self._evaluator.prompt_bits(texts)

    def run_rung(self, candidate_json: str, rung: Rung) -> dict[str, Any]:
        """Train a candidate up to `rung`, score it, record it and return its row.

        What this process logged meanwhile is `log` in it.
        """
        row = self._evaluator.run_rung(candidate_json, rung)
        return {**row, "log": self._log.take()}
