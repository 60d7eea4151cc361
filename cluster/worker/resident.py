"""The resident base model of one rank and its adapters, run by a shard group on all its ranks.

All ranks must make the same calls with the same arguments; every rank has all numbers of every
adapter. With a single rank it is an ordinary object. An adapter is either kept beside the model,
as changes that are applied during a pass, or installed in the model; this module does the former.

Warm start: a new adapter begins from the trained numbers of another candidate's adapter.

A tensor of the same name is copied. Where the shapes differ, as those of another rank do, the
common leading part is copied and the rest keeps its initial values; so does a tensor that the other
adapter does not have. Optimizer moments and the number of steps are not copied: training begins at
its first step. A program holds only the result, so it does not depend on where its training began.

The numbers need not mean the same in the new adapter. In `lora` they do: a higher rank adds nothing
at first, a lower one drops components of the product. Methods around fixed random matrices
(`lora_fa`, `vera`, `tinylora`, `unilora`, `fourierft`) draw different matrices for another shape.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_tensors

from kilobit.cluster.shards.load import load_sharded
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.model.adapters import Adapter, Trained
from kilobit.evaluators.model.base_model import FrozenModel, unchanged
from kilobit.evaluators.model.packing.decode import Asked, answer, judge
from kilobit.evaluators.model.packing.deltas import Changes, detached, fixed
from kilobit.evaluators.model.packing.passes import Planner, pass_tokens
from kilobit.evaluators.model.packing.probe import probe
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.rate_training import LearnedBits, first_range
from kilobit.evaluators.model.text_codec import encode_text
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.numbers import Tensor
from kilobit.search.reward_training import Scores
from kilobit.search.task import Task

_PREFIX = "weight/"


@dataclass(frozen=True)
class Training:
    """Request to train one adapter.

    Attributes:
        key: the adapter's name, as given to `Resident.adapt`.
        prompt: the text before the question.
        chat: the question goes into the model's chat template.
        until: the step at which training ends.
        turns: in a chat, the text between the prompt's turns; empty if it is in the question's.
    """

    key: str
    prompt: str
    chat: bool
    until: int
    turns: str = ""


@dataclass(frozen=True)
class TrainingEnd:
    """Result of a training, with its share of the seconds and its error, if any."""

    trained: Trained
    seconds: float
    error: Exception | None


class Resident:
    """Base model of one rank with the adapters beside it; see the module's docstring.

    Args:
        address: this rank.
        config: the base model.
        folder: the folder that the model's relative path starts from.
        shards: how the model is sharded over ranks.
        task: the task that adapters are trained on.
        threads: CPU threads of this process.

    Raises:
        OSError, ValueError: if the model can't be loaded or sharded as asked, or is split while
            packs do not hold for it.
    """

    def __init__(
        self,
        address: RankAddress,
        config: BaseModelConfig,
        folder: Path,
        shards: ShardsConfig,
        task: Task,
        threads: int,
    ) -> None:
        self._threads, self._task = threads, task
        torch.set_num_threads(threads)
        self.frozen: FrozenModel = load_sharded(config, folder, shards, address)
        self._beside: dict[str, tuple[Adapter, Changes]] = {}
        self._fixed: dict[str, Changes] = {}
        self.packs = probe(self.frozen)
        why = self.packs.why_not
        if shards.are_split and why is not None:
            raise ValueError(
                f"candidates would run alone on {config.label}, which a model that is split over "
                f"ranks can't do: {why}"
            )
        self._is_split = shards.are_split
        limit, shard = pass_tokens(self.frozen), self.frozen.shard
        self._train_planner, self._answer_planner = Planner(limit, shard), Planner(limit, shard)

    def use_threads(self) -> None:
        """Set the number of torch threads for the calling thread; torch keeps one per thread."""
        torch.set_num_threads(self._threads)

    def adapt(
        self,
        key: str,
        spec: AdapterSpec,
        state: bytes | None,
        start: tuple[str, bytes | None] | None,
    ) -> bool:
        """Create an adapter beside the model; return False if it must be installed in the model.

        Args:
            key: the adapter's name in later calls.
            spec: its specification.
            state: the checkpoint to resume from, as written by `Adapter.state`.
            start: or a warm start from another candidate: its id and its checkpoint.

        Raises:
            ValueError: if the model has no module for it, a checkpoint belongs to another adapter,
                or it must be installed in the model and the model is sharded.
        """
        found = detached(self.frozen, spec) if self.packs.holds else None
        if found is None or not self.packs.takes(found[1]):
            if self._is_split:
                raise ValueError(
                    f"{spec.method} on {spec.target_modules} has to be installed in the model, "
                    "which is not possible in a model that is sharded over ranks"
                )
            return False
        adapter = found[0]
        if state is not None:
            adapter.restore(state)
        elif start is not None:
            begin_from(adapter, *start)
        self._beside[key] = found
        return True

    def adapter(self, key: str) -> Adapter:
        """Return an adapter; reading it needs no call on the other ranks."""
        return self._beside[key][0]

    def train(self, asked: Sequence[Training]) -> list[TrainingEnd]:
        """Train adapters in shared passes over the model."""
        examples = self._task.splits.train
        jobs = [
            Job(
                *self._beside[a.key],
                Lesson(self._task, a.prompt, examples, a.chat, a.turns),
                a.until,
            )
            for a in asked
        ]
        train_pack(self.frozen, jobs, self._train_planner)
        return [TrainingEnd(job.trained, job.seconds, job.error) for job in jobs]

    def spread(self, key: str) -> None:
        """Store the changes of each member of an adapter's next generation, as `KEY/NUMBER`."""
        adapter, changes = self._beside[key]
        assert adapter.reward is not None
        for number, numbers in enumerate(adapter.reward.members()):
            adapter.show(numbers)
            self._fixed[f"{key}/{number}"] = fixed(changes)

    def learn(self, key: str, scores: Sequence[Scores]) -> None:
        """End a generation of an adapter; see `Adapter.learn`."""
        self._beside[key][0].learn(scores)

    def fix(
        self, slot: str, key: str | None, numbers: Sequence[Tensor], delta: bool | None = None
    ) -> None:
        """Store under `slot` the changes by an adapter with these numbers, none without an adapter.

        `numbers` and `delta` are those of `Adapter.assign`.

        Raises:
            ValueError: if the shapes of the numbers are not those of the adapter.
        """
        self._fixed[slot] = {}
        if key is not None:
            adapter, changes = self._beside[key]
            adapter.assign(numbers, delta)
            self._fixed[slot] = fixed(changes)

    def answer(self, slots: Sequence[str], rows: Sequence[Asked]) -> list[list[int] | Exception]:
        """Generate continuations of rows; see `kilobit.evaluators.model.packing.decode.answer`."""
        changes = [self._fixed[slot] for slot in slots]
        return answer(self.frozen, changes, rows, self._answer_planner)

    def judge(
        self, slots: Sequence[str], rows: Sequence[Asked], answers: Sequence[Sequence[int]]
    ) -> list[tuple[float, bool] | Exception]:
        """Judge answers to rows; see `kilobit.evaluators.model.packing.decode.judge`."""
        changes = [self._fixed[slot] for slot in slots]
        return judge(self.frozen, changes, rows, answers, self._answer_planner)

    def encode_text(self, text: str) -> bytes:
        """Return a text encoded by the model; see `encode_text`."""
        return encode_text(self.frozen, text)

    def unchanged(self) -> bool:
        """Return whether the weights are still those that were loaded, on all ranks."""
        return unchanged(self.frozen)

    def forget(self) -> None:
        """Drop all adapters and their stored changes."""
        self._beside.clear()
        self._fixed.clear()


@torch.no_grad()
def begin_from(adapter: Adapter, start: str, state: bytes | None) -> None:
    """Copy the numbers of a checkpoint, as `Adapter.state` wrote it, into an untrained adapter.

    Args:
        adapter: on the model, untrained.
        start: id of the candidate that the checkpoint belongs to, for messages.
        state: the checkpoint, None if that candidate has none.

    Raises:
        ValueError: if there is no checkpoint, or none of its tensors is in this adapter.
    """
    if state is None:
        raise ValueError(f"the adapter can't begin from {start}: it has no checkpoint in this run")
    saved = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in load_tensors(state).items()
        if name.startswith(_PREFIX)
    }
    if not saved.keys() & adapter.masters.keys():
        raise ValueError(
            f"the adapter can't begin from {start}: none of its tensors has a name of this adapter"
        )
    learned = {} if adapter.transform is None else adapter.transform.learned
    square = adapter.spec.traits.square
    for name, tensor in (adapter.masters | learned).items():
        if name in saved:
            _copy_leading(saved[name], tensor, square=square and name in adapter.masters)
    if adapter.reward is not None:
        adapter.reward.base = adapter.tensors()
    if isinstance(adapter.transform, LearnedBits):
        for name, tensor in adapter.masters.items():
            if f"range/{name}" not in saved:
                # The range was chosen for numbers that have just been replaced.
                learned[f"range/{name}"].fill_(first_range(tensor))


def _copy_leading(source: torch.Tensor, target: torch.Tensor, *, square: bool) -> None:
    """Copy the common leading part; `square`: the numbers are a flattened square matrix."""
    if square:
        source, target = (
            t.view(*t.shape[:-1], math.isqrt(t.shape[-1]), -1) for t in (source, target)
        )
    if source.dim() != target.dim():
        return
    common = tuple(slice(min(a, b)) for a, b in zip(source.shape, target.shape, strict=True))
    target[common] = source[common].to(target)
