"""The Ray actor of a worker.

A process that looks up an actor by name imports the actor's class, and with it this module. The
driver does that, so nothing heavy is imported here.
"""

import gc
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from kilobit.cluster.messages import Notice, RungReply, keep_log
from kilobit.evaluators.model import quick_imports
from kilobit.search.candidate import Rung

if TYPE_CHECKING:
    from kilobit.cluster.messages import EvaluatorSetup

_WAIT_S = 600.0
_LOOK_EVERY_S = 0.1


class EvaluatorActor:
    """A worker of the pool; its methods call those of `RungEvaluator`."""

    def __init__(self, setup: "EvaluatorSetup") -> None:
        self._log = keep_log(setup.log_level)
        if '"quantization":"' not in setup.sweep:
            # PEFT imports it where it is installed, and it takes a second; no model here needs it.
            sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
        if setup.early:
            _wait_for_run(setup.run_folder)
        from kilobit.cluster.worker.crash_log import crash_log_of

        # Open the crash log before the heavy imports, so that crashes while loading count too.
        crash_log = crash_log_of(setup)
        with quick_imports():
            from kilobit.cluster.worker.evaluator import RungEvaluator
        # What was imported stays, so later collections leave it out.
        gc.freeze()
        self._evaluator = RungEvaluator(setup, crash_log)
        self._heard, self._number, self._hearing = threading.Condition(), 0, 0
        # No batch is complete before the driver has said what is expected.
        self._evaluator.hear(Notice())

    def ready(self) -> str:
        """Return the digest of the base model."""
        return self._evaluator.ready()

    def beat(self) -> None:
        """Return at once, unless a process of this worker stands still."""
        self._evaluator.beat()

    def hear(self, notice: Notice) -> None:
        """Take a notice from the driver; return when the next one has come.

        The call of the latest notice stays open, because Ray repeats the open calls of a worker
        that died at the process that replaces it: so that one knows what its predecessor knew.
        """
        with self._heard:
            if notice.number < self._number:
                return
            self._number = notice.number
            self._hearing += 1
            latest = self._hearing
            self._evaluator.hear(notice)
            self._heard.notify_all()
            self._heard.wait_for(lambda: self._hearing > latest)

    def dismiss(self) -> None:
        """End the call of the latest notice, because no other will come."""
        with self._heard:
            self._hearing += 1
            self._heard.notify_all()

    def run_rung(self, candidate_json: str, rung: Rung) -> RungReply:
        """Train a candidate up to `rung`, score it, record it and return its result."""
        reply = self._evaluator.run_rung(candidate_json, rung)
        return replace(reply, log=self._log.take())


def _wait_for_run(folder: str) -> None:
    """Wait until a run has begun, which it does when its driver has checked the base models.

    The libraries are imported meanwhile.
    """
    from kilobit.evaluators.ledger.storage import place

    manifest, began = place(folder) / "run.json", time.monotonic()
    if manifest.exists():
        return
    with quick_imports():
        import kilobit.cluster.worker.evaluator  # noqa: F401
    # One that does not come is reported as it is missed.
    while not manifest.exists() and time.monotonic() - began < _WAIT_S:
        time.sleep(_LOOK_EVERY_S)
