"""Scoring a candidate: its program is built, decoded, and run batch by batch.

A batch that the same program has been through comes from the cache. While it runs, the candidate
races with the incumbent of its length, and stops where it can't win any more.
"""

import hashlib
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch

from cluster.adapters import Adapter
from cluster.builder import Builder, run_batch
from cluster.frozen import Frozen
from cluster.prequential import Learned
from evaluators.cache import Batch, CachedOutputs, PredictionCache, cache_key
from evaluators.ledger import Ledger
from evaluators.task import Task
from search.candidate import Candidate
from search.programs.numbers import Tensor
from search.programs.postprocess import postprocess
from search.programs.program import Decoded, Length, Program
from search.programs.text import TextCodec
from search.racing import Incumbent, Race, Verdict, incumbent_of
from search.rungs import Rung


@dataclass
class Measured:
    """What a program did on the examples that it was scored on, in their order.

    Attributes:
        program: the program.
        exact: its files exist; what those of a data candidate are before its last rung is only
            estimated.
        outputs: after post-processing.
        scores: of each output.
        generated: how many examples did not come from the cache.
        against: the incumbent that it raced with.
        gap: mean score minus the incumbent's on the same examples.
        verdict: how the race ended, None where it is open.
    """

    program: Program
    exact: bool
    outputs: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    generated: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    generate_s: float = 0.0
    against: str | None = None
    gap: float | None = None
    verdict: Verdict | None = None


class Scorer:
    """Scores candidates on one resident base model.

    Args:
        frozen: the base model.
        builder: makes its programs.
        task: whose search split they are scored on.
        ledger: where the incumbents' predictions are.
        cache: outputs that were generated before.
        level: error level of a race, None for no races.
        length: by which candidates are compared.
    """

    def __init__(
        self,
        frozen: Frozen,
        builder: Builder,
        task: Task,
        ledger: Ledger,
        cache: PredictionCache,
        level: float | None,
        length: Length,
    ) -> None:
        self._frozen, self._builder, self._task = frozen, builder, task
        self._ledger, self._cache, self._level, self._length = ledger, cache, level, length

    def score(
        self,
        candidate: Candidate,
        rung: Rung,
        texts: dict[TextCodec, bytes],
        adapter: Adapter | None,
        content: Sequence[Tensor] | Learned,
        incumbents: Sequence[Incumbent],
        *,
        race: bool = True,
    ) -> Measured:
        """Run a candidate's program on the examples of `rung`, or on fewer where it loses its race.

        Args:
            candidate: what is scored.
            rung: how many examples.
            texts: its prompt as the codecs write it.
            adapter: its adapter, on the model; it then holds the numbers of the payload.
            content: the adapter's trained numbers, or what it has learned from.
            incumbents: whom it has to beat, by increasing length.
            race: stop where it can't beat them; one that is still in training may yet.

        Raises:
            ValueError: if a number is not finite or a prompt does not fit into the context.
            OSError: if the cache can't be written.
        """
        program = self._builder.build(candidate, texts, adapter, content)
        decoded = self._builder.decode(program)
        learned = content if isinstance(content, Learned) else None
        if adapter is not None and learned is None:
            # What is scored is what the payload says, in its coarse numbers.
            adapter.assign(decoded.tensors)
        measured = Measured(program, learned is None or learned.exact)
        bits = program.program_bits if self._length == "program" else program.payload_bits
        rival = incumbent_of([i for i in incumbents if i.candidate != candidate.id], bits)
        theirs = self._scores_of(rival, rung)
        if rival is not None and theirs:
            measured.against = rival.candidate
        cached = self._cache.open(cache_key(self._behaviour(program, decoded)))
        model = self._frozen.model if adapter is None else adapter.model
        began = time.monotonic()
        try:
            level = self._level if race else None
            self._run(measured, rung, decoded.prompt, model, cached, theirs, level)
        finally:
            cached.save()
        measured.generate_s = time.monotonic() - began
        return measured

    def _run(
        self,
        measured: Measured,
        rung: Rung,
        prompt: str,
        model: Any,
        cached: CachedOutputs,
        theirs: Sequence[float],
        level: float | None,
    ) -> None:
        recipe, metric = measured.program.recipe, self._task.metric
        examples = self._task.splits.search[: rung.num_examples]
        race = None
        if level is not None and theirs:
            whole = theirs if len(theirs) == len(examples) else None
            race = Race(level, whole)
        for first in range(0, len(examples), recipe.batch_size):
            batch = examples[first : first + recipe.batch_size]
            names = [example.id for example in batch]
            found = cached.get(names)
            if found is None:
                inputs = [example.input for example in batch]
                generated = run_batch(measured.program, prompt, self._frozen, model, inputs)
                found = Batch(
                    tuple(generated.texts), generated.input_tokens, generated.output_tokens
                )
                cached.add(names, found)
                measured.generated += len(batch)
                measured.input_tokens += found.input_tokens
                measured.output_tokens += found.output_tokens
            outputs = [postprocess(text, recipe.postprocess) for text in found.outputs]
            scores = [
                metric.per_example(self._task.cut(output), example)
                for output, example in zip(outputs, batch, strict=True)
            ]
            measured.outputs += outputs
            measured.scores += scores
            rivals = theirs[first : first + len(batch)]
            if race is not None and rivals:
                measured.verdict = race.add(scores[: len(rivals)], rivals)
                if measured.verdict == "loses":
                    break
        shared = min(len(measured.scores), len(theirs))
        if shared:
            measured.gap = (sum(measured.scores[:shared]) - sum(theirs[:shared])) / shared

    def _scores_of(self, rival: Incumbent | None, rung: Rung) -> list[float]:
        """Return the incumbent's scores at this rung, in the order of the examples."""
        if rival is None:
            return []
        name = f"{rival.candidate}-r{rung.index}"
        return [row["score"] for row in self._ledger.read_part("predictions", name) or []]

    def _behaviour(self, program: Program, decoded: Decoded) -> dict[str, object]:
        """Return everything that decides raw outputs, for the key of the cache."""
        recipe, adapter = program.recipe, program.recipe.adapter
        plain = recipe.model_copy(
            update={
                "prompt": None,
                "start_token": None,
                "adapter": None,
                "data": None,
                "postprocess": (),
            }
        )
        numbers = hashlib.sha256()
        for tensor in decoded.tensors:
            numbers.update(repr(tensor.shape).encode() + tensor.tobytes())
        parts: dict[str, object] = {
            "base": self._frozen.digest,
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


def _machine() -> list[str]:
    """Return what besides the program decides the last bits of a float sum."""
    place = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    return [place, version("torch"), version("transformers"), version("peft")]
