"""The Ray Tune trial of a candidate: it holds no model and only exchanges messages with a worker.

A trial is one candidate, an iteration is one rung. Its process imports neither torch nor
transformers, and is reused for the next candidate when one has ended.
"""

import time
import traceback
from datetime import UTC, datetime
from typing import Any

import ray
from ray import tune

from kilobit.cluster.messages import BaseModelChangedError, RungReply
from kilobit.cluster.shards.placement import is_placed
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import place
from kilobit.search.candidate import Candidate
from kilobit.search.records import RungRecord
from kilobit.search.rungs import Rung

# A file system may fail for a moment, so a rung is repeated; a lasting failure ends the run.
_MAX_WRITE_FAILURES = 2
_LOOK_EVERY_S = 5.0
# Ray reschedules a worker within seconds if the cluster has free resources.
_AWAY_S = 20.0


class WorkerAwayError(RuntimeError):
    """The worker lost its resources on the cluster and waits to be rescheduled."""


class WorkerLostError(RuntimeError):
    """The worker is dead and will not be started again."""


class RungTrial(tune.Trainable):
    """One candidate; `step` runs its next rung on a worker."""

    def setup(self, config: dict[str, Any]) -> None:
        """Set the candidate, its worker and its rungs from Tune's config."""
        self._candidate = Candidate.model_validate_json(config["candidate"])
        self._message: str = config["candidate"]
        self._worker_name: str = config["worker"]
        self._rungs = [Rung(*numbers) for numbers in config["rungs"]]
        self._next = int(config["first_rung"])
        self._run_folder: str = config["run_folder"]
        self._attempt = int(config["attempt"])
        self._placement: str | None = config["placement"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Reuse this process for another candidate."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run one rung and return the worker's reply as `reply`.

        Instead of it the message may hold a reason that is not the candidate's failure:
        `halt`, why the run can't continue (the ledger can't be written, or belongs to a newer
        attempt); `lost`, why the worker is dead; `away`, why it is unavailable for now.
        """
        rung = self._rungs[self._next]
        self._next += 1
        tries = _MAX_WRITE_FAILURES + 1
        while True:
            tries -= 1
            try:
                return {"reply": self._run_rung(rung)}
            except SupersededError as error:
                return {"halt": str(error)}
            except WorkerAwayError as error:
                return {"away": str(error), "rung": rung.index}
            except WorkerLostError as error:
                return {"lost": str(error), "rung": rung.index}
            except OSError as error:
                if not tries:
                    return {"halt": str(error)}

    def _run_rung(self, rung: Rung) -> RungReply:
        try:
            worker: Any = ray.get_actor(self._worker_name)
        except ValueError as error:
            # Ray drops the name of an actor that will not be started again.
            raise WorkerLostError(f"{self._worker_name} is gone") from error
        try:
            reply: RungReply = self._await(worker.run_rung.remote(self._message, rung))
        except ray.exceptions.ActorDiedError as error:
            # Ray raises another error while an actor is being started again.
            raise WorkerLostError(_short(error)) from error
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, OSError | SupersededError):
                raise cause from error
            if isinstance(cause, BaseModelChangedError):
                ray.kill(worker, no_restart=False)
            record = self._failure(rung)
            return RungReply(record, (record,), self._worker_name)
        return reply

    def _await(self, ref: Any) -> Any:
        """Return the result of a call, without a time limit while the worker has resources.

        Raises:
            WorkerAwayError: if the worker has had no resources for a while.
        """
        placed_at = time.monotonic()
        while True:
            done, _ = ray.wait([ref], timeout=_LOOK_EVERY_S)
            if done or self._placement is None:
                return ray.get(ref)
            if is_placed(self._placement):
                placed_at = time.monotonic()
            elif time.monotonic() - placed_at > _AWAY_S:
                ray.cancel(ref)
                raise WorkerAwayError(f"{self._worker_name} lost its node")

    def _failure(self, rung: Rung) -> RungRecord:
        """Record the current exception as the result at `rung`, because the worker could not."""
        record = RungRecord(
            candidate=self._candidate.id,
            rung=rung.index,
            num_examples=rung.num_examples,
            worker=self._worker_name,
            attempt=self._attempt,
            finished_at=datetime.now(UTC),
            error=traceback.format_exc(),
        )
        ledger = Ledger(place(self._run_folder) / "ledger", self._attempt)
        ledger.write(RungRecord, record.part, [record])
        return record


def _short(error: BaseException) -> str:
    """Return the line of a Ray error that says what happened, without the traceback before it."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return lines[-1] if lines else type(error).__name__
