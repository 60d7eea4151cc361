"""Experiment trackers: results are sent to them through Ray's own callbacks.

Results are only sent, never read back: the ledger is the truth. Each tracker has a thread of its
own, so a slow server does not delay the run; a tracker that fails is reported once and gets no more
results.

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

from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import MlflowTracker, TensorboardTracker, Tracker, WandbTracker
from kilobit.evaluators.ledger.storage import under
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.candidate import Candidate
from kilobit.search.records import RungRecord
from kilobit.search.settings import InputError

Call = Callable[[], None]
_LOG = logging.getLogger("kilobit")
# Without these limits MLflow retries for minutes, and its tracker takes no results meanwhile.
_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_FINISH_S, _HURRIED_S = 60.0, 3.0
# The fields of a result that are sent.
_NUMBERS = ("score", "program_bits", "payload_bits", "num_examples", "rung", "seconds")


def make_trackers(run: RunFolder, tell: Callable[[str], None]) -> list["Tracking"]:
    """Return the callbacks for the trackers in a run's sweep.

    Args:
        run: the run.
        tell: shows the user a message about a failed tracker.

    Raises:
        InputError: if one has no local folder to write to.
    """
    return [_make(config, index, run, tell) for index, config in enumerate(run.sweep.trackers)]


class TrialView:
    """A candidate with the attributes that Ray's callbacks expect of a trial.

    Attributes:
        trial_id: unique among all runs.
        config: its metadata, known before the first result.
        local_path: the folder of its files, None if there are none.
        experiment_dir_name: the name that groups the candidates of a run.
    """

    def __init__(
        self, trial_id: str, about: Mapping[str, Any], folder: Path | None, group: str
    ) -> None:
        self.trial_id, self.experiment_dir_name = trial_id, group
        self.config = self.evaluated_params = dict(about)
        self._name = f"{about['model']}-{about['candidate']}"
        # A candidate resumed by another attempt is another trial, with a folder of its own.
        self.local_path = folder and str(folder / f"{self._name}-{trial_id}")

    def init_local_path(self) -> None:
        """Create the folder of its files, if it has one."""
        if self.local_path is not None:
            Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self._name


class Tracking(Callback):
    """Callback that sends results to one tracker from a thread of its own.

    Args:
        kind: name of the tracker.
        make: returns Ray's callback for it.
        regimes: regimes of the base models, by label.
        folder: the folder it writes files to, None if it writes none.
        group: the name that groups the candidates of the run.
        tell: shows the user a message about its failure.
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
        self._views: dict[str, TrialView] = {}
        self._failed = False
        self._calls: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"tracker {kind}", daemon=True)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks, but the pickle is never read.
        return {}

    def setup(self, *_: Any, **__: Any) -> None:
        """Start the thread; Tune calls this once."""
        self._thread.start()
        self._calls.put(self._begin)

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        """Send a candidate's result at a rung; a message about a lost worker is not a result."""
        if "reply" not in result:
            return
        record: RungRecord = result["reply"].record
        told = {k: value for k in _NUMBERS if (value := getattr(record, k)) is not None}
        told |= {"failed": int(record.error is not None)}
        # Steps begin at 1, because Ray's callbacks take a step of 0 for a missing one.
        told["training_iteration"] = record.rung + 1
        view = self._views.get(trial.trial_id)
        if view is None:
            view = self._views[trial.trial_id] = self._view(trial)
            self._calls.put(partial(self._log_start, view))
        self._calls.put(lambda: self._inner.log_trial_result(iteration, view, told))

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Report that a candidate has ended."""
        self._end(trial, failed=False)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Report that a candidate ended without a result."""
        self._end(trial, failed=True)

    def finish(self, timeout_s: float = _FINISH_S) -> None:
        """Flush pending results, with a time limit; later results are dropped."""
        if not self._thread.is_alive():
            return
        for view in self._views.values():
            self._calls.put(partial(self._log_end, view, failed=False))
        self._views.clear()
        self._calls.put(lambda: self._inner.on_experiment_end(trials=[]))
        self._calls.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._warn(f"did not take all results within {timeout_s:g} s; the ledger has them")

    def _log_start(self, view: TrialView) -> None:
        view.init_local_path()
        self._inner.log_trial_start(view)

    def _log_end(self, view: TrialView, *, failed: bool) -> None:
        self._inner.log_trial_end(view, failed)

    def _begin(self) -> None:
        self._inner = self._make()
        self._inner.setup()

    def _end(self, trial: Any, *, failed: bool) -> None:
        view = self._views.pop(trial.trial_id, None)
        if view is not None:
            self._calls.put(partial(self._log_end, view, failed=failed))

    def _view(self, trial: Any) -> TrialView:
        candidate = Candidate.model_validate_json(trial.config["candidate"])
        about = {
            "candidate": candidate.id,
            "task": candidate.task,
            "model": candidate.model,
            "regime": self._regimes[candidate.model],
            "family": candidate.family,
        }
        return TrialView(trial.trial_id, about, self._folder, self._group)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._failed:
                continue
            try:
                call()
            except Exception as error:  # noqa: BLE001 - a tracker may fail in any way
                self._failed = True
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
                self._warn(f"failed and gets no more results, the search continues: {why}")

    def _warn(self, what: str) -> None:
        text = f"tracker {self._kind} {what}"
        _LOG.warning("%s", text)
        self._tell(text)


def _make(config: Tracker, index: int, run: RunFolder, tell: Callable[[str], None]) -> Tracking:
    folder, regimes = None, {model.label: model.regime for model in run.sweep.base_models}
    group = run.path.name
    if isinstance(config, WandbTracker):
        # The process of wandb runs in this folder, and keeps unsent results there.
        on_store = isinstance(run.path, StoredPath)
        folder = Path(mkdtemp(prefix="kilobit-wandb-") if on_store else run.path / "wandb")
    if isinstance(config, TensorboardTracker):
        named = run.path / "tensorboard" if config.folder is None else config.folder
        place = under(run.sweep_folder, named)
        if isinstance(place, StoredPath):
            raise InputError(
                f"trackers.{index}.folder: the run is in object storage, but event files need a "
                "disk: give a local folder"
            )
        folder = place
    return Tracking(config.kind, lambda: _callback(config, run), regimes, folder, group, tell)


def _callback(config: Tracker, run: RunFolder) -> Any:
    """Return Ray's callback for a tracker; the packages are heavy, so they are imported here."""
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    if isinstance(config, MlflowTracker):
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        # Given None, the callback would override the environment variable.
        uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        return MLflowLoggerCallback(uri, experiment_name=config.experiment or run.sweep.name)
    if isinstance(config, WandbTracker):
        from ray.air.integrations.wandb import WandbLoggerCallback

        return WandbLoggerCallback(config.project, config.group, entity=config.entity)
    from ray.tune.logger import TBXLoggerCallback

    return TBXLoggerCallback()


@contextmanager
def finishing(trackers: Sequence[Tracking]) -> Iterator[None]:
    """Finish trackers on exit, within a shorter time limit after an error or an interrupt."""
    try:
        yield
    except BaseException:
        for tracker in trackers:
            tracker.finish(_HURRIED_S)
        raise
    for tracker in trackers:
        tracker.finish(_FINISH_S)
