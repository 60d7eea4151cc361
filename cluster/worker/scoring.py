"""Preparation of scoring: a candidate's program, built and decoded, and the incumbent it races."""

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from kilobit.cluster.messages import Notice
from kilobit.cluster.shards.group import ShardGroup
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.worker.resident import Resident
from kilobit.cluster.worker.rung_record import Measured, Scoring, Work
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.output_cache import CachedOutputs, PredictionCache, cache_key
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.text_codec import Learned
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.programs.program import Decoded, Program
from kilobit.search.records import PredictionRecord, rung_part
from kilobit.search.reward_training import examples_of
from kilobit.search.schedulers.racing import Incumbent, Race, incumbent_of
from kilobit.search.task import Task, clusters_of

# Each file of the cache is written again whenever outputs are added to it.
_GENERATIONS_A_FILE = 16


@dataclass
class WorkerContext:
    """Objects that the parts of a worker share.

    Attributes:
        sweep: the sweep of the candidates.
        task: the task that they are trained and scored on.
        group: holds the base model.
        builder: builds the candidates' programs.
        ledger: the ledger of the run.
        digests: of the machine and the data, by these names.
        notice: the latest notice of the driver, None while there is none.
        folder: where relative paths of the sweep begin.
        most_bits: the most bits of a program that is scored, see `most_bits_of`.
    """

    sweep: Sweep
    task: Task
    group: ShardGroup[Resident]
    builder: Builder
    ledger: Ledger
    digests: Mapping[str, str] = field(default_factory=dict)
    notice: Notice | None = None
    folder: Path = Path()
    most_bits: int | None = None

    def bits(self, program: Program) -> int:
        """Return the length of a program that the search minimises."""
        whole = self.sweep.minimised == "program"
        return program.program_bits if whole else program.payload_bits


class Scorer:
    """Factory of the scorings of one resident base model, which `scoring_loop` runs.

    Args:
        context: the worker's; its ledger has the incumbents' predictions.
        cache: outputs that were generated before.
    """

    def __init__(self, context: WorkerContext, cache: PredictionCache) -> None:
        self._context, self._cache = context, cache
        self._frozen = context.group.resident.frozen
        # Programs with the same cache key share their new outputs while they run together.
        self._opened: WeakValueDictionary[str, CachedOutputs] = WeakValueDictionary()

    def begin(self, work: Work, left: int) -> Scoring:
        """Build and decode a candidate's program, and return its scoring, ready to run.

        Args:
            work: the candidate at its rung, with its coded prompt and its adapter, which holds the
                numbers of the payload afterwards.
            left: number of rungs until its training is complete. While there are any it is compared
                with the incumbent, but not stopped: further training may still improve it.

        Raises:
            ValueError: if a number is not finite.
        """
        candidate, rung, adapter, content = work.candidate, work.rung, work.adapter, work.content
        context = self._context
        program = context.builder.build(candidate, work.texts, adapter, content)
        decoded = context.builder.decode(program)
        learned = content if isinstance(content, Learned) else None
        spec = candidate.adapter
        # Score with the coarse numbers decoded from the payload, not with the trained ones.
        if adapter is not None and adapter.model is not None and learned is None:
            adapter.assign(decoded.tensors, decoded.delta)
        elif adapter is None or adapter.model is None:
            context.group.call("fix", candidate.id, work.key, decoded.tensors, decoded.delta)
        measured = Measured(program, learned is None or learned.exact)
        bits = context.bits(program)
        incumbents: Sequence[Incumbent] = ()
        # What needs no model costs nothing to score, so it is never stopped by a race.
        if context.notice is not None and not candidate.is_model_free:
            incumbents = context.notice.incumbents.get((rung.index, left), ())
        rival = incumbent_of([i for i in incumbents if i.candidate != candidate.id], bits)
        theirs = self._scores_of(rival, rung)
        if rival is not None and theirs:
            measured.against = rival.candidate
        examples = context.task.splits.search[: rung.num_examples]
        racing, race = context.sweep.scheduler.racing, None
        whole = len(theirs) == len(examples)
        # Examples in clusters are no independent draws: no claim beyond the rung is tested on them.
        if racing.enabled and left == 0 and theirs and (whole or clusters_of(examples) is None):
            race = Race(racing.level, comparable(theirs, theirs)[0] if whole else None)
        model = None if adapter is None else adapter.model
        if model is None and not context.group.resident.packs.holds:
            model = self._frozen.model
        key = cache_key(self._behaviour(program, decoded))
        cached = self._opened.get(key) or self._cache.open(key)
        self._opened[key] = cached
        soft = 0 if spec is None else spec.num_soft
        return Scoring(
            measured,
            decoded.prompt,
            examples,
            cached,
            theirs,
            race,
            model,
            candidate.id,
            soft,
            # PEFT puts soft prompts before the padding, so padding would change the outputs.
            1 if soft else context.sweep.batch_size,
        )

    def rollouts(self, work: Work) -> Callable[[], list[Scoring]]:
        """Return a function that prepares the next generation of a training by reward.

        It returns the scoring of each member on the same train examples. Outputs are cached by the
        signs so far, from which the members' numbers follow.
        """
        context, adapter = self._context, work.adapter
        assert adapter is not None
        assert adapter.reward is not None
        spec, reward = adapter.spec, adapter.reward
        bare = work.candidate.model_copy(update={"adapter": None})
        program = context.builder.build(bare, work.texts, None, ())
        if spec.num_soft:
            alone = program.recipe.model_copy(update={"batch_size": 1})
            program = replace(program, recipe=alone)
        decoded = context.builder.decode(program)
        about = self._behaviour(program, decoded)
        about["reward"] = spec.model_dump(mode="json", exclude={"steps"})
        if reward.base is not None:
            about["base numbers"] = [_digest(start.tobytes()) for start in reward.base]
        model = adapter.model

        def generation() -> list[Scoring]:
            examples = examples_of(spec, context.task.splits.train, adapter.steps)
            key = cache_key(about | {"generations": adapter.steps // _GENERATIONS_A_FILE})
            cached, signs = (
                self._cache.open(key),
                _digest(bytes(s + 1 for s in reward.replay.signs)),
            )
            return [
                Scoring(
                    Measured(program, exact=False),
                    decoded.prompt,
                    examples,
                    cached.of(f"{signs} {member}"),
                    theirs=(),
                    race=None,
                    model=model,
                    slot=f"{work.candidate.id}/{member}",
                    num_soft=spec.num_soft,
                    size=len(examples),
                )
                for member in range(2 * reward.num_pairs)
            ]

        return generation

    def _scores_of(self, rival: Incumbent | None, rung: Rung) -> list[float | None]:
        """Return the incumbent's scores at this rung, in the order of the examples."""
        if rival is None:
            return []
        name = rung_part(rival.candidate, rung.index)
        found = self._context.ledger.read_part(PredictionRecord, name)
        return [one.score for one in found or []]

    def _behaviour(self, program: Program, decoded: Decoded) -> dict[str, object]:
        """Return everything that determines raw outputs, for the key of the cache."""
        recipe, adapter = program.recipe, program.recipe.adapter
        plain = recipe.model_copy(
            update={
                "prompt": None,
                "start_token": None,
                "adapter": None,
                "data": None,
                "postprocess": (),
                "steps_rule": 1,
            }
        )
        numbers = hashlib.sha256()
        for tensor in decoded.tensors:
            numbers.update(repr(tensor.shape).encode() + tensor.tobytes())
        parts: dict[str, object] = {
            **{f"{name} digest": digest for name, digest in self._context.digests.items()},
            "base": self._frozen.machine,
            "recipe": plain.canonical(),
            "prompt": decoded.prompt,
            "machine": _machine(),
        }
        if adapter is not None:
            about = adapter.model_dump(mode="json", exclude={"numbers"})
            parts["adapter"] = [about, numbers.hexdigest()]
        if recipe.data is not None:
            payload = hashlib.sha256(program.payload).hexdigest()
            parts["data"] = [recipe.data.model_dump(mode="json"), payload]
        return parts


def comparable(
    mine: Sequence[float | None], theirs: Sequence[float | None]
) -> tuple[list[float], list[float]]:
    """Return two programs' scores on the same examples, equal where one of them is unknown.

    An example on which both score the same is no evidence for either side of a race.
    """
    second = [0.5 if score is None else score for score in theirs]
    pairs = zip(mine, theirs, second, strict=True)
    return [even if None in (one, two) else one or 0.0 for one, two, even in pairs], second


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def most_bits_of(
    sweep: Sweep, builder: Builder, task: Task, model: str, *, template: bool
) -> int | None:
    """Return the most bits of a program that is scored, in the length that a search minimises.

    Args:
        sweep: the sweep, whose `max_bits` counts in its `length`.
        builder: of the base model.
        task: the task to solve.
        model: label of the base model.
        template: it has a chat template.

    Returns:
        The bound, None if there is none.

    Raises:
        ValueError: if the program that only asks the question is longer.
    """
    if sweep.max_bits is None:
        return None
    prompt = sweep.families.on(template=template).prompt
    bare = Candidate(task=task.name, model=model)
    asked = [
        builder.build(bare.model_copy(update={"chat": chat}), {}, None, ()).program_bits
        for chat in sorted({*(prompt.chats if prompt else (False, template))})
    ]
    if sweep.length == "net":
        return sweep.max_bits + min(asked)
    if sweep.length == "program" and sweep.max_bits < min(asked):
        raise ValueError(
            f"max_bits: {min(asked)} or more is needed, which the program has that only asks "
            f"{model} the question (found {sweep.max_bits}); `length: net` counts from there"
        )
    return sweep.max_bits


def _machine() -> list[str]:
    """Return the hardware and the versions that can change the last bits of a float sum."""
    device_name = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    return [device_name, version("torch"), version("transformers"), version("peft")]
