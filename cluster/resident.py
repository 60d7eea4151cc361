"""A base model on this rank and the adapters beside it: what a shard group runs on all its ranks.

All ranks make the same calls with the same arguments, and every rank has the whole numbers of every
adapter. On one rank this is an object like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.adapters import Adapter, Trained
from cluster.frozen import Frozen, unchanged
from cluster.packing.changes import Changes, detached, fixed
from cluster.packing.generate import Asked, answer
from cluster.packing.measure import pass_tokens
from cluster.packing.planner import Planner
from cluster.packing.train import Job, train_pack
from cluster.shards.load import load_sharded
from cluster.shards.place import Place
from cluster.token_logits import encode_text, text_bits
from cluster.training import Lesson
from cluster.warm_start import begin_from
from evaluators.task import Task
from search.adapter import AdapterSpec
from search.base_model import BaseModelConfig
from search.programs.numbers import Tensor
from search.shards import ShardsConfig


@dataclass(frozen=True)
class Training:
    """An adapter that is to be trained.

    Attributes:
        key: under which it was made.
        prompt: the text before the question.
        chat: the question goes into the model's chat template.
        until: the step at which it ends.
    """

    key: str
    prompt: str
    chat: bool
    until: int


@dataclass(frozen=True)
class TrainingEnd:
    """What a training did, its share of the seconds, and what went wrong with it, if anything."""

    trained: Trained
    seconds: float
    error: Exception | None


class Resident:
    """A base model and adapters beside it; see the module's text.

    Args:
        place: this rank.
        config: the base model.
        folder: where its relative path starts.
        shards: how it is spread over ranks.
        task: what adapters are trained on.
        threads: of this process.

    Raises:
        OSError, ValueError: if the model can't be loaded or laid out as asked.
    """

    def __init__(
        self,
        place: Place,
        config: BaseModelConfig,
        folder: Path,
        shards: ShardsConfig,
        task: Task,
        threads: int,
    ) -> None:
        self._threads, self._task = threads, task
        torch.set_num_threads(threads)
        self.frozen: Frozen = load_sharded(config, folder, shards, place)
        self._beside: dict[str, tuple[Adapter, Changes]] = {}
        self._fixed: dict[str, Changes] = {}
        # All ranks have to cut their work alike.
        limits = torch.zeros(place.world_size, dtype=torch.int64, device=self.frozen.model.device)
        limits[place.rank] = pass_tokens(self.frozen)
        limit = int(self.frozen.shard.sum(limits).min())
        self._train_planner, self._answer_planner = Planner(limit), Planner(limit)

    def use_threads(self) -> None:
        """Set the number of threads for the calling thread; each has a number of its own."""
        torch.set_num_threads(self._threads)

    def adapt(
        self,
        key: str,
        spec: AdapterSpec,
        state: bytes | None,
        start: tuple[str, bytes | None] | None,
    ) -> bool:
        """Make an adapter beside the model; return False if it can only be on it.

        Args:
            key: what it is called from now on.
            spec: what it is.
            state: goes on from here, as `Adapter.state` wrote it.
            start: or begins from the numbers of another candidate: its id and its state.

        Raises:
            ValueError: if the model has no place for it, or a state is another adapter's.
        """
        found = detached(self.frozen, spec)
        if found is None:
            if self.frozen.shard.world_size > 1:
                raise ValueError(
                    f"{spec.method} on {spec.target_modules} has to be on the model, which is "
                    "spread over ranks here"
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
        """Return an adapter; what is only read of it needs no other rank."""
        return self._beside[key][0]

    def train(self, asked: Sequence[Training]) -> list[TrainingEnd]:
        """Train adapters in common passes."""
        examples = self._task.splits.train
        jobs = [
            Job(*self._beside[a.key], Lesson(self._task, a.prompt, examples, a.chat), a.until)
            for a in asked
        ]
        train_pack(self.frozen, jobs, self._train_planner)
        return [TrainingEnd(job.trained, job.seconds, job.error) for job in jobs]

    def fix(self, slot: str, key: str | None, numbers: Sequence[Tensor]) -> None:
        """Keep under `slot` what an adapter with these numbers changes; nothing without an adapter.

        Raises:
            ValueError: if the numbers are not of the adapter's shapes.
        """
        self._fixed[slot] = {}
        if key is not None:
            adapter, changes = self._beside[key]
            adapter.assign(numbers)
            self._fixed[slot] = fixed(changes)

    def answer(self, slots: Sequence[str], rows: Sequence[Asked]) -> list[list[int] | MemoryError]:
        """Continue rows; see `cluster.packing.generate.answer`."""
        changes = [self._fixed[slot] for slot in slots]
        return answer(self.frozen, changes, rows, self._answer_planner)

    def encode_text(self, text: str) -> bytes:
        """Return a text coded by the model; see `cluster.token_logits.encode_text`."""
        return encode_text(self.frozen, text)

    def text_bits(self, texts: Sequence[str]) -> list[float]:
        """Return how many bits each text takes under the model, inf where it can't code it."""
        return [text_bits(self.frozen, text) for text in texts]

    def unchanged(self) -> bool:
        """Return whether the weights are those that were loaded, on all ranks."""
        return unchanged(self.frozen)

    def forget(self) -> None:
        """Let go of all adapters and of what was kept of them."""
        self._beside.clear()
        self._fixed.clear()
