"""The sweep file: everything a run depends on, typed and checked before anything starts.

`load_sweep` reads YAML and returns a `Sweep`. Every problem is raised as one `InputError` whose
message names file, line, field, value and what is allowed.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from kilobit.cluster.sweep.launch_targets import KubernetesConfig, SlurmConfig
from kilobit.cluster.sweep.workers import SearchedModel, Workers
from kilobit.evaluators.ledger.storage import Place, place, under
from kilobit.evaluators.tasks.registry import TASK_KINDS, TaskConfig
from kilobit.search.candidate import RungConfig
from kilobit.search.config_file import apply_override, check_config, load_config
from kilobit.search.proposers.random import RandomProposer
from kilobit.search.search import KINDS, ProposerConfig, SchedulerConfig, check_proposer
from kilobit.search.settings import Config, InputError, Length, LocalPath, Ruler, is_address
from kilobit.search.space import Families, ModelFree, RateSearch

# The package of each tracker. Keys come from environment variables, never from a file:
# MLFLOW_TRACKING_TOKEN (or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD), WANDB_API_KEY.
_TRACKERS = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")
# Names of variants, which pydantic puts into the location of a problem in a discriminated union.
_VARIANTS = {"task": TASK_KINDS, "proposer": KINDS, "trackers": tuple(_TRACKERS)}


class Budget(Config):
    """The limits of a run."""

    candidates: int | None = Field(default=None, ge=1)
    """at most this many candidates in all"""
    seconds: float | None = Field(default=None, gt=0)
    """after this time of all attempts together, from the first rung of each to its last, no further
    rung is started"""


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


def _place(value: Any) -> Place:
    if not isinstance(value, str | Place):
        raise ValueError("Input is not a valid path")
    return place(value)


# A folder on this machine or, by a URL, on a store.
PlaceField = Annotated[
    Place,
    PlainValidator(_place),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "format": "path"}),
]


class Sweep(Config):
    """The settings of a whole sweep file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)
    """names the run folder"""
    task: TaskConfig
    """what is asked and how it is scored"""
    base_models: tuple[SearchedModel, ...] = Field(min_length=1)
    """models to adapt"""
    families: Families
    """candidates to try, by kind"""
    model_free: ModelFree = ModelFree()
    """programs without the model on every front; the budget does not count them"""
    targets: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.8,)
    """scores at which the task's complexity is read off"""
    rungs: RungConfig = RungConfig()
    """steps and examples between decisions"""
    proposer: ProposerConfig = RandomProposer()
    """chooses candidates"""
    order: Literal["short_first", "drawn"] = "drawn"
    """for proposers that list their candidates: as drawn; or in rounds over all lengths, in each
    from short to long by what is known before training"""
    scheduler: SchedulerConfig = SchedulerConfig()
    """promotes or stops candidates after each rung"""
    rate_search: RateSearch = RateSearch()
    """coarser programs from an adapter after its last rung"""
    length: Ruler = "program"
    """the length to minimise: of program.py and payload.bin together, or of payload.bin alone, as
    most published fronts count; net searches as program, and shows both files less the script of
    the bare question"""
    max_bits: int | None = Field(default=None, ge=0)
    """the longest program that is scored, in bits of `length`; of an adapter the coarser codings
    that fit are scored; null for no bound"""
    train_split_in_machine: bool = False
    """declare the train split a part of the machine: demonstrations may then be named by index, and
    program.py takes the split as a second argument"""
    program_batch_size: int | None = Field(default=None, ge=1)
    """inputs that a program continues together; part of the program; workers.batch_size by
    default"""
    cache: PlaceField | None = None
    """folder of the cache of generated outputs, relative to the sweep file, or s3://BUCKET/FOLDER,
    which several runs may share; the run's own by default"""
    budget: Budget = Budget()
    """when the run ends"""
    workers: Workers = Workers()
    """number and resources"""
    seed: int = Field(default=0, ge=0)
    """names the random streams of the run"""
    certify: bool = False
    """open the sealed split when all candidates have ended; otherwise `kilobit certify RUN` does"""
    out: PlaceField | None = None
    """run folder, or s3://BUCKET/FOLDER; runs/NAME of the current folder by default"""
    trackers: tuple[Tracker, ...] = ()
    """receive results besides the ledger; do not change what is searched"""
    slurm: SlurmConfig | None = None
    """for `kilobit slurm`; does not change what is searched"""
    kubernetes: KubernetesConfig | None = None
    """for `kilobit kubernetes`; does not change what is searched"""

    @model_validator(mode="after")
    def _unique_models(self) -> Self:
        labels = [model.label for model in self.base_models]
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise ValueError(f"two base models are called {sorted(twice)[0]!r}: give each a `name`")
        return self

    @model_validator(mode="after")
    def _workers_fit_together(self) -> Self:
        for index, model in enumerate(self.base_models):
            own = self.workers.over(model.workers)
            if own.least > own.per_model:
                raise ValueError(
                    f"base_models.{index}.workers: min_per_model {own.least} is more than "
                    f"per_model {own.per_model}"
                )
        return self

    @model_validator(mode="after")
    def _proposer_has_what_it_needs(self) -> Self:
        ends = self.budget.candidates is not None or self.budget.seconds is not None
        check_proposer(self.proposer, ends=ends)
        return self

    @field_validator("trackers")
    @classmethod
    def _one_of_a_kind(cls, trackers: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        # MLflow's library supports one server per process.
        kinds = [tracker.kind for tracker in trackers]
        twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
        if twice is not None:
            raise ValueError(f"two have kind {twice!r}: give each kind once")
        return trackers

    @model_validator(mode="after")
    def _net_has_a_bare_question(self) -> Self:
        prompt = self.families.prompt
        if self.length == "net" and not (prompt and prompt.candidates):
            raise ValueError(
                "length: net counts from the bare question, which is the first candidate of the "
                "family prompt: give families.prompt.candidates at least 1"
            )
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        first, most = self.rungs.examples, self.workers.batch_size
        if 2 * self.batch_size < min(first, most):
            raise ValueError(
                f"rungs.examples {first} has no divisor between {most // 2} and workers.batch_size "
                f"{most}: examples are scored in whole batches, and no rung cuts a batch"
            )
        return self

    @property
    def workers_by_model(self) -> dict[str, Workers]:
        """Return the settings of each base model's workers, by its label."""
        return {model.label: self.workers.over(model.workers) for model in self.base_models}

    @property
    def minimised(self) -> Length:
        """Return the length that the search minimises; for net bits those of both files."""
        return "payload" if self.length == "payload" else "program"

    @property
    def most_candidates(self) -> int | None:
        """Return the largest number of candidates, None if only time limits the run."""
        if self.proposer.kind not in ("random", "grid"):
            return self.budget.candidates
        each = sum(family.candidates for family in self.families.named().values())
        most = each * len(self.base_models)
        return most if self.budget.candidates is None else min(most, self.budget.candidates)

    @property
    def batch_size(self) -> int:
        """Return the number of examples that are scored together; divides every rung."""
        first, most = self.rungs.examples, self.workers.batch_size
        return next(size for size in range(min(first, most), 0, -1) if first % size == 0)


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Return the sweep in the YAML file `path` with `key.key=value` overrides applied.

    Raises:
        InputError: for an unreadable file, broken YAML, or any unknown, missing or unfit value.
    """
    sweep = load_config(path, Sweep, overrides, _VARIANTS)
    return _with_cache(sweep, path.absolute().parent)


def make_sweep(settings: Mapping[str, Any], folder: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Return the sweep of settings made in Python, checked as `load_sweep` checks a file.

    Args:
        settings: the settings, as in a sweep file.
        folder: where its relative paths start.
        overrides: changes, as on the command line.

    Raises:
        InputError: for any unknown, missing or unfit value.
    """
    return _with_cache(check_config(settings, "sweep", Sweep, overrides, _VARIANTS), folder)


def _with_cache(sweep: Sweep, folder: Path) -> Sweep:
    cache = None if sweep.cache is None else under(folder, sweep.cache)
    return sweep.model_copy(update={"cache": cache})


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Check that the package of each tracker is installed, and the address of its server.

    Raises:
        InputError: naming the package that is not, or the address that is none.
    """
    for index, config in enumerate(trackers):
        package = _TRACKERS[config.kind]
        if find_spec(package) is None:
            raise InputError(
                f"trackers.{index}: kind {config.kind!r} needs {package}, which is not installed: "
                "pip install 'kilobit[trackers]'"
            )
        if config.kind == "wandb" and not is_address(
            os.environ.get("WANDB_BASE_URL") or "https://default"
        ):
            raise InputError(
                f"trackers.{index}: the environment variable WANDB_BASE_URL has to be an address "
                "such as https://HOST, or not to be set"
            )
        if config.kind == "mlflow":
            uri = config.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
            # MLflow would make a folder of this name and say nothing.
            if _HOST_AND_PORT.fullmatch(uri):
                raise InputError(
                    f"trackers.{index}: the tracking URI of MLflow is a host and a port without "
                    "http:// or https:// (`tracking_uri`, or MLFLOW_TRACKING_URI)"
                )


def change_budget(sweep: Sweep, overrides: Sequence[str]) -> Sweep:
    """Return `sweep` with values of its budget changed by `budget.key=value`.

    Raises:
        InputError: for any other key, or a value that does not fit.
    """
    data = sweep.model_dump(mode="json")
    for override in overrides:
        keys = apply_override(data, override)
        if keys[0] != "budget" or len(keys) != 2 or keys[1] not in Budget.model_fields:
            known = ", ".join(f"budget.{name}" for name in Budget.model_fields)
            raise InputError(
                f"{override!r}: a resumed run keeps its settings; only these may change: {known}"
            )
    try:
        return Sweep.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        message = f"command line: {field}: {problem['msg']} (found {problem['input']!r:.80})"
        raise InputError(message) from error
