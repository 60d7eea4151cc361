"""Measurements of programs on a battery, on the resident base model.

Needs the run, its data, its base models and the files of the battery on the machine where it is.
A base model that is spread over ranks is measured by all of them in step: every rank asks its part
of the model the same, and the first one returns what it found.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from ray.util import get_current_placement_group

from kilobit.cluster.fleet.session import ray_kept
from kilobit.cluster.messages import PoolError
from kilobit.cluster.requests import wrong_input
from kilobit.cluster.runs.folder import RunFolder, open_run
from kilobit.cluster.shards.group import GroupError, ShardGroup
from kilobit.cluster.shards.load import device_of, load_sharded
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.battery.battery import Better, Evaluator, Row
from kilobit.evaluators.battery.config import Battery, evaluators_of
from kilobit.evaluators.judges.model_judges import judge_of
from kilobit.evaluators.ledger.parts import DamagedError
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.model.adapted import AdaptedModel, bare, with_program
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.proof.program_files import read_program
from kilobit.evaluators.proof.verify import load_here
from kilobit.evaluators.tasks.registry import load_task
from kilobit.evaluators.tasks.sources import offline
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.front.points import FrontPoint
from kilobit.search.records import RungRecord, rung_part
from kilobit.search.settings import InputError, to_copy

Found = list[Row] | str
"""The rows of an evaluator, or the reason why there are none."""


@dataclass(frozen=True)
class Measured:
    """An item of the battery that was measured; `better`: higher or lower values."""

    item: str
    better: Better
    found: Found


class Measurer:
    """Measures programs of a run; it keeps the base model that it measured on last.

    Args:
        run: the folder of the run.
        points: the programs.
        battery: what is measured.
        folder: the folder that paths of the battery are relative to.
        rank: how base models are spread over ranks, and which rank this is; None if they are not.

    Raises:
        InputError: if the battery or the data of the run can't be used.
    """

    def __init__(
        self,
        run: Place,
        points: Sequence[FrontPoint],
        battery: Battery,
        folder: Path,
        rank: tuple[ShardsConfig, RankAddress] | None = None,
    ) -> None:
        self._rank = rank
        self._run, self._points, self._steps = open_run(run), points, battery.postprocess
        self._models: dict[str, FrozenModel] = {}
        torch.set_num_threads(self._run.sweep.workers.threads)
        with ExitStack() as stack:
            stack.enter_context(offline())
            stack.enter_context(ray_kept())
            self._evaluators, self._missing = _evaluators(battery, folder)
            with wrong_input():
                self._task = load_task(self._run.sweep.task, self._run.sweep_folder)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Let libraries use the network again."""
        self._stack.close()

    def rows(self, label: str, point: FrontPoint | None) -> tuple[list[Measured], dict[str, str]]:
        """Return the items measured with a program on a base model, and why others are missing.

        Args:
            label: of the base model.
            point: the program, None for the bare model.

        Raises:
            InputError: if the base model or the program can't be read, or the model is not the one
                that the programs were measured with.
        """
        if label not in self._models:
            # The one before has to go first, because there may be no room for both.
            self._models.clear()
            frozen = self._load(model_named(self._run, label))
            _check_digest(self._run, [one for one in self._points if one.model == label], frozen)
            self._models[label] = frozen
        frozen = self._models[label]
        found = self._found(bare(frozen)) if point is None else self._found_with(point, frozen)
        return [
            Measured(evaluator.name, evaluator.better, rows)
            for evaluator, rows in zip(self._evaluators, found, strict=True)
        ], self._missing

    def _load(self, config: BaseModelConfig) -> FrozenModel:
        folder = self._run.sweep_folder
        if self._rank is None:
            return load_here(config, folder)[0]
        with wrong_input(OSError):
            return load_sharded(config, folder, *self._rank)

    def _found_with(self, point: FrontPoint, frozen: FrozenModel) -> list[Found]:
        run = self._run
        part = rung_part(point.candidate, run.sweep.rungs.count - 1)
        try:
            program = read_program(run.ledger, part)
        except DamagedError as error:
            raise InputError(
                f"{error}; recompute its rung by `{to_copy('resume', run.path)}`"
            ) from error
        specs = run.ledger.read("candidates", ["candidate", "spec"])
        (spec, *_) = specs.filter(pc.equal(specs["candidate"], point.candidate))["spec"].to_pylist()
        applied = with_program(
            frozen, Candidate.model_validate_json(spec), program, self._task, steps=self._steps
        )
        with ExitStack() as stack:
            try:
                subject = stack.enter_context(applied)
            except (ValueError, RuntimeError) as error:
                return [f"it can't be applied to the model: {error}"] * len(self._evaluators)
            return self._found(subject)

    def _found(self, subject: AdaptedModel) -> list[Found]:
        found = list[Found]()
        for evaluator in self._evaluators:
            try:
                found.append(evaluator.evaluate(subject))
            except (ValueError, MemoryError) as error:
                found.append(str(error) or type(error).__name__)
        return found


class SpreadMeasurer:
    """Measurer of base models that are spread over ranks; an actor, which is the first of them.

    Args:
        shards: how each is spread, and the resources of a rank, by label; the actor's placement
            group has a bundle for each rank.
        run: the folder of the run.
        measured: the other arguments of a `Measurer`.
    """

    def __init__(self, shards: Mapping[str, ShardsConfig], run: Place, *measured: Any) -> None:
        self._shards, self._run, self._measured = shards, run, measured
        self._label: str | None = None
        self._group: ShardGroup[Measurer] | None = None

    def rows(self, label: str, point: FrontPoint | None) -> tuple[list[Measured], dict[str, str]]:
        """Return the same as `Measurer.rows`.

        Raises:
            InputError: as there.
            PoolError: if a rank died or failed; this object is of no more use.
        """
        try:
            if self._group is None or label != self._label:
                self.close()
                self._label, shards = label, self._shards[label]
                self._group = ShardGroup(
                    shards,
                    device_of(model_named(open_run(self._run), label)),
                    measurer_of,
                    (shards, self._run, *self._measured),
                    get_current_placement_group(),
                )
            found: tuple[list[Measured], dict[str, str]] = self._group.call("rows", label, point)
        except GroupError as error:
            raise PoolError(str(error)) from error
        return found

    def close(self) -> None:
        """End the other ranks."""
        if self._group is not None:
            self._group.stop()


def measurer_of(address: RankAddress, shards: ShardsConfig, *measured: Any) -> Measurer:
    """Return the measurer of one rank; `measured`: as for `SpreadMeasurer`."""
    run, points, battery, folder = measured
    return Measurer(run, points, battery, folder, (shards, address))


def model_named(run: RunFolder, label: str) -> BaseModelConfig:
    """Return a base model of a run."""
    return next(config for config in run.sweep.base_models if config.label == label)


def _evaluators(battery: Battery, folder: Path) -> tuple[list[Evaluator], dict[str, str]]:
    """Return the evaluators of a battery, and its items that can't run here with the reasons.

    Raises:
        InputError: if the battery can't be used.
    """
    judge = None
    if battery.safety is not None and battery.safety.judge is not None:
        judge = judge_of(bare(load_here(battery.safety.judge, folder)[0]))
    found, missing = evaluators_of(battery, folder, judge), {}
    for item in battery.harness:
        try:
            from kilobit.evaluators.battery.harness import HarnessEvaluator
        except ImportError as error:
            missing[item.task] = f"the harness is not installed (kilobit[bench]): {error}"
            continue
        include = None if item.include is None else folder / item.include
        try:
            found.append(
                HarnessEvaluator(
                    item.task,
                    item.metric,
                    item.examples,
                    include,
                    item.better,
                    trusted=item.trust_task_code,
                )
            )
        except ValueError as error:
            missing[item.task] = str(error)
    return found, missing


def _check_digest(run: RunFolder, points: Sequence[FrontPoint], frozen: FrozenModel) -> None:
    for point in points:
        part = rung_part(point.candidate, run.sweep.rungs.count - 1)
        for record in run.ledger.read_part(RungRecord, part) or ():
            if not frozen.was_recorded_as(record.base_digest):
                raise InputError(
                    f"base model {point.model}: it has the digest {frozen.machine}, the programs "
                    f"were measured with {record.base_digest}"
                )
