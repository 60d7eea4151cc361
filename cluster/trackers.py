"""Results on their way to experiment trackers, by Ray's own callbacks.

Trackers are told, never asked: the ledger is the truth. Each has a thread of its own, so a server
that is slow holds nobody up, and one that fails is warned of once and left out from then on.

A trial is a candidate, so each candidate is a run (MLflow, Weights & Biases) or a folder of event
files (TensorBoard), and each of its rungs a step.
"""

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from ray.tune import Callback

from cluster.run_folder import RunFolder
from evaluators.storage import under
from evaluators.stored_path import StoredPath
from search.candidate import Candidate
from search.sweep import SweepError
from search.trackers import MlflowTracker, TensorboardTracker, Tracker, WandbTracker

Call = Callable[[], None]
_LOG = logging.getLogger("kilobit")
# What a tracker's library does for minutes otherwise, while nothing more can be told to it.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_FINISH_S, _HURRIED_S = 60.0, 3.0
# Of each result; what else Tune has in it concerns nobody.
_NUMBERS = ("score", "program_bits", "payload_bits", "num_examples", "rung", "seconds")


def make_trackers(run: RunFolder, tell: Callable[[str], None]) -> list["Tracking"]:
    """Return what tells the trackers of a run's sweep.

    Args:
        run: the run.
        tell: shows a person that one has failed.

    Raises:
        SweepError: if one has no place to write to.
    """
    return [_make(config, index, run, tell) for index, config in enumerate(run.sweep.trackers)]


class Subject:
    """A candidate as Ray's callbacks see a trial.

    Attributes:
        trial_id: unique among all runs.
        config: what is known of it beforehand.
        local_path: where its files go, None if there are none.
        experiment_dir_name: what groups the candidates of a run.
    """

    def __init__(
        self, trial_id: str, about: Mapping[str, Any], folder: Path | None, group: str
    ) -> None:
        self.trial_id, self.experiment_dir_name = trial_id, group
        self.config = self.evaluated_params = dict(about)
        self._name = f"{about['model']}-{about['candidate']}"
        # A candidate that goes on in another attempt is another trial.
        self.local_path = folder and str(folder / f"{self._name}-{trial_id}")

    def init_local_path(self) -> None:
        """Make the folder of its files, if it has one."""
        if self.local_path is not None:
            Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self._name


class Tracking(Callback):
    """Tells one tracker; see the module's text.

    Args:
        kind: what it is called.
        make: returns Ray's callback for it.
        regimes: of the base models, by label.
        folder: where it writes files, None if it does not.
        group: what groups the candidates of the run.
        tell: shows a person that it has failed.
    """

    def __init__(
        self,
        kind: str,
        make: Callable[[], Any],
        regimes: Mapping[str, str],
        folder: Path | None,
        group: str,
        tell: Callable[[str], None],
    ) -> None:
        self._kind, self._make, self._tell = kind, make, tell
        self._regimes, self._folder, self._group = regimes, folder, group
        self._inner: Any = None
        self._subjects: dict[str, Subject] = {}
        self._failed = False
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {kind}", daemon=True)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks to a folder that nobody reads.
        return {}

    def setup(self, *_: Any, **__: Any) -> None:
        """Begin; Tune calls this once."""
        self._thread.start()
        self._calls.put(self._begin)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Tell what a candidate did at a rung; a worker that was lost is no result."""
        if "candidate" not in result:
            return
        told = {name: result[name] for name in _NUMBERS if result.get(name) is not None}
        told |= {"failed": int(result.get("error") is not None)}
        # Steps begin at 1, or it would be taken for none.
        told["training_iteration"] = result["rung"] + 1
        subject = self._subjects.get(trial.trial_id)
        if subject is None:
            subject = self._subjects[trial.trial_id] = self._subject(trial)
            self._calls.put(partial(self._log_start, subject))
        self._calls.put(lambda: self._inner.log_trial_result(iteration, subject, told))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Tell that a candidate has ended."""
        self._end(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Tell that a candidate left no result."""
        self._end(trial, failed=True)

    def finish(self, timeout_s: float = _FINISH_S) -> None:
        """Wait until all is told, but not for ever; nothing more is told after."""
        if not self._thread.is_alive():
            return
        for subject in self._subjects.values():
            self._calls.put(partial(self._log_end, subject, failed=False))
        self._subjects.clear()
        self._calls.put(lambda: self._inner.on_experiment_end(trials=[]))
        self._calls.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._warn(f"has not taken everything within {timeout_s:g} s; the ledger has it all")

    def _log_start(self, subject: Subject) -> None:
        subject.init_local_path()
        self._inner.log_trial_start(subject)

    def _log_end(self, subject: Subject, *, failed: bool) -> None:
        self._inner.log_trial_end(subject, failed)

    def _begin(self) -> None:
        self._inner = self._make()
        self._inner.setup()

    def _end(self, trial: Any, *, failed: bool) -> None:
        subject = self._subjects.pop(trial.trial_id, None)
        if subject is not None:
            self._calls.put(partial(self._log_end, subject, failed=failed))

    def _subject(self, trial: Any) -> Subject:
        candidate = Candidate.model_validate_json(trial.config["candidate"])
        about = {
            "candidate": candidate.id,
            "task": candidate.task,
            "model": candidate.model,
            "regime": self._regimes[candidate.model],
            "family": candidate.family,
        }
        return Subject(trial.trial_id, about, self._folder, self._group)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._failed:
                continue
            try:
                call()
            except Exception as error:  # noqa: BLE001 - a tracker may fail in any way
                self._failed = True
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
                self._warn(f"is left out from here on, the search goes on: {why}")

    def _warn(self, what: str) -> None:
        text = f"tracker {self._kind} {what}"
        _LOG.warning("%s", text)
        self._tell(text)


def _make(config: Tracker, index: int, run: RunFolder, tell: Callable[[str], None]) -> Tracking:
    folder, regimes = None, {model.label: model.regime for model in run.sweep.base_models}
    group = run.path.name
    if isinstance(config, WandbTracker):
        # Its process goes there, and keeps there what it could not send.
        on_store = isinstance(run.path, StoredPath)
        folder = Path(mkdtemp(prefix="kilobit-wandb-") if on_store else run.path / "wandb")
    if isinstance(config, TensorboardTracker):
        named = run.path / "tensorboard" if config.folder is None else config.folder
        place = under(run.sweep_folder, named)
        if isinstance(place, StoredPath):
            raise SweepError(
                f"trackers.{index}.folder: the run lies on a store, and event files are written "
                "to a disk: give a local folder"
            )
        folder = place
    return Tracking(config.kind, lambda: _callback(config, run), regimes, folder, group, tell)


def _callback(config: Tracker, run: RunFolder) -> Any:
    """Return Ray's callback for a tracker; the packages are heavy, so they are imported here."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    if isinstance(config, MlflowTracker):
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        # It would set what is in the environment to nothing.
        uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        return MLflowLoggerCallback(uri, experiment_name=config.experiment or run.sweep.name)
    if isinstance(config, WandbTracker):
        from ray.air.integrations.wandb import WandbLoggerCallback

        return WandbLoggerCallback(config.project, config.group, entity=config.entity)
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


@contextmanager
def finishing(trackers: Sequence[Tracking]) -> Iterator[None]:
    """Let trackers finish at the end; who is interrupted or fails does not wait long for them."""
    try:
        yield
    except BaseException:
        for tracker in trackers:
            tracker.finish(_HURRIED_S)
        raise
    for tracker in trackers:
        tracker.finish(_FINISH_S)
