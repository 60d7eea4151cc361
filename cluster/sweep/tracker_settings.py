"""Settings of the experiment trackers that receive results besides the ledger.

Keys come from environment variables, never from a file: MLFLOW_TRACKING_TOKEN (or
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD), WANDB_API_KEY.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kilobit.search.settings import Config, LocalPath

_PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
TRACKER_KINDS = tuple(_PACKAGES)


def _without_password(uri: str) -> str:
    if "://" in uri and "@" in uri.split("://", 1)[1].split("/", 1)[0]:
        raise ValueError(
            "an address must not contain a user name or password: set environment variables "
            "instead (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN)"
        )
    return uri


class TensorboardTracker(Config):
    """Event files for TensorBoard, one folder per candidate."""

    kind: Literal["tensorboard"]
    """event files"""
    folder: LocalPath | None = None
    """their folder, relative to the sweep file; by default `tensorboard` in the run folder;
    required if the run folder is on an object store"""


class MlflowTracker(Config):
    """An MLflow server or database; each candidate is a run there."""

    kind: Literal["mlflow"]
    """MLflow"""
    tracking_uri: Annotated[str | None, AfterValidator(_without_password)] = Field(
        default=None, min_length=1
    )
    """for example https://mlflow.example.org or sqlite:////data/mlflow.db; MLFLOW_TRACKING_URI by
    default, else MLflow's own database in the current folder"""
    experiment: str | None = Field(default=None, min_length=1)
    """its experiment; the sweep's name by default"""


class WandbTracker(Config):
    """Weights & Biases; each candidate is a run there, with two more processes meanwhile."""

    kind: Literal["wandb"]
    """Weights & Biases"""
    project: str = Field(min_length=1)
    """its project"""
    entity: str | None = Field(default=None, min_length=1)
    """user or team; the key's own by default"""
    group: str | None = Field(default=None, min_length=1)
    """its group; the run folder's name by default"""


Tracker = Annotated[TensorboardTracker | MlflowTracker | WandbTracker, Field(discriminator="kind")]


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Check that the package of each tracker is installed.

    Raises:
        ValueError: naming the package that is not.
    """
    for index, config in enumerate(trackers):
        package = _PACKAGES[config.kind]
        if find_spec(package) is None:
            raise ValueError(
                f"trackers.{index}: kind {config.kind!r} needs {package}, which is not installed: "
                "pip install 'kilobit[trackers]'"
            )
