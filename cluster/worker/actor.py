"""The Ray actor of a worker.

A process that looks up an actor by name imports the actor's class, and with it this module. Every
trial does that, so nothing heavy is imported here: a trial's process stays small and starts at
once.
"""

from typing import TYPE_CHECKING, Any

from kilobit.cluster.messages import keep_log
from kilobit.search.rungs import Rung

if TYPE_CHECKING:
    from kilobit.cluster.messages import EvaluatorSetup


class EvaluatorActor:
    """A worker of the pool; its methods call those of `RungEvaluator`."""

    def __init__(self, setup: "EvaluatorSetup") -> None:
        self._log = keep_log(setup.log_level)
        from kilobit.cluster.worker.crash_log import crash_log_of

        # Open the crash log before the heavy imports, so that crashes while loading count too.
        crash_log = crash_log_of(setup)
        from kilobit.cluster.worker.evaluator import RungEvaluator

        self._evaluator = RungEvaluator(setup, crash_log)

    def ready(self) -> str:
        """Return the digest of the base model."""
        return self._evaluator.ready()

    def run_rung(self, candidate_json: str, rung: Rung) -> dict[str, Any]:
        """Train a candidate up to `rung`, score it, record it and return its row.

        The row's `log` holds the log lines of this process since the last call.
        """
        row = self._evaluator.run_rung(candidate_json, rung)
        return {**row, "log": self._log.take()}
