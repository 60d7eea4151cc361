"""One candidate at one rung: its state in memory, and its rows in the ledger.

A worker writes its predictions, its program, and last the row of the rung. Raises `SupersededError`
if a newer attempt at the run has begun, and `OSError` if they can't be written.
"""

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kilobit.cluster.messages import BaseModelChangedError
from kilobit.cluster.shards.group import GroupError
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.output_cache import CachedOutputs
from kilobit.evaluators.model.adapters import Adapter, Trained
from kilobit.evaluators.model.text_codec import Learned
from kilobit.evaluators.proof.program_files import write_program
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.programs.numbers import Tensor
from kilobit.search.programs.program import Program
from kilobit.search.programs.text import TextCodec
from kilobit.search.records import CandidateRecord, PredictionRecord, RungRecord
from kilobit.search.reward_training import Rewards
from kilobit.search.schedulers.racing import Race, Verdict
from kilobit.search.task import Example, Task

SPLIT = "search"


@dataclass
class Measured:
    """Results of a program on the examples scored so far, in their order.

    Attributes:
        program: the program.
        exact: its files exist; before the last rung, those of a data candidate are only estimated.
        outputs: the outputs after post-processing.
        scores: the score of each output, None if a judge gave no verdict on it.
        generated: number of outputs that were not in the cache.
        against: the incumbent that it raced with.
        gap: mean score minus the incumbent's on the same examples.
        verdict: how the race ended, None while it is open.
    """

    program: Program
    exact: bool
    outputs: list[str] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    generated: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    generate_s: float = 0.0
    against: str | None = None
    gap: float | None = None
    verdict: Verdict | None = None


def total(before: Measured | None, more: Sequence[Measured]) -> Measured:
    """Return results without outputs, whose counts are the sums of those of others."""
    every = [before, *more] if before is not None else more
    found = Measured(every[0].program, exact=False)
    for one in every:
        found.generated += one.generated
        found.input_tokens += one.input_tokens
        found.output_tokens += one.output_tokens
        found.generate_s += one.generate_s
    return found


@dataclass
class Scoring:
    """In-progress scoring of a program on the examples of a rung.

    Attributes:
        measured: the results so far.
        prompt: the prompt decoded from the payload.
        examples: all examples of the rung.
        cached: outputs that were generated before.
        theirs: the incumbent's scores.
        race: the race with the incumbent, None without one.
        model: an adapted model that generates for this candidate alone, None in a pack.
        slot: the name under which the resident model keeps the candidate's numbers.
        num_soft: number of soft prompt vectors before the text.
        size: examples that are scored together.
        error: the reason why scoring failed.
    """

    measured: Measured
    prompt: str
    examples: Sequence[Example]
    cached: CachedOutputs
    theirs: Sequence[float | None]
    race: Race | None
    model: Any
    slot: str
    num_soft: int
    size: int
    error: Exception | None = None

    def batches(self, most: int) -> list[Sequence[Example]]:
        """Return at most `most` next batches, none if scoring has ended."""
        if self.error is not None or self.measured.verdict == "loses":
            return []
        ends = range(len(self.measured.scores), len(self.examples), self.size)
        return [self.examples[at : at + self.size] for at in ends[:most]]


@dataclass
class Work:
    """State of a candidate at a rung: its record so far, its adapter and its timings.

    Attributes:
        candidate: the candidate.
        rung: the rung.
        record: its record, as far as it is known.
        texts: its prompt as coded by each codec.
        adapter: its adapter, beside the model or on it; None for prompts.
        key: key of an adapter that is beside the model.
        content: the adapter's trained numbers, or the examples it has learned from.
        trained: result of its training.
        scoring: its progress through the examples.
        train_s: seconds of its training.
        code_s: seconds of coding its prompt, and of building and decoding its program.
        seconds: all seconds spent on it.
        rewards: of the generations of its training by reward.
        rolled: what these have generated; None for other training.
        too_long: its program is longer than the sweep allows, so it is not scored.
    """

    candidate: Candidate
    rung: Rung
    record: RungRecord
    texts: dict[TextCodec, bytes] = field(default_factory=dict)
    adapter: Adapter | None = None
    key: str | None = None
    content: Sequence[Tensor] | Learned = ()
    trained: Trained | None = None
    scoring: Scoring | None = None
    train_s: float = 0.0
    code_s: float = 0.0
    seconds: float = 0.0
    rewards: Rewards | None = None
    rolled: Measured | None = None
    too_long: bool = False
    _guards: int = 0

    @property
    def part(self) -> str:
        """Return the name of its parts in the ledger."""
        return self.record.part

    @property
    def failed(self) -> bool:
        """Return whether it has an error."""
        return self.record.error is not None

    def fail(self, error: str) -> None:
        """Record an error; the first one is kept."""
        if not self.failed:
            self.record = replace(self.record, error=error)

    def leave_out(self, program: Program) -> None:
        """Record the lengths of a program that is too long to be scored."""
        self.too_long = True
        self.record = replace(
            self.record,
            num_examples=0,
            program_bits=program.program_bits,
            payload_bits=program.payload_bits,
            template_bits=program.template_bits,
            train_steps=0,
            train_s=0.0,
        )

    @contextmanager
    def coding(self) -> Iterator[None]:
        """Count the time of the block as coding."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.code_s += time.monotonic() - began

    def spend(self, seconds: float) -> None:
        """Count its share of time spent on several candidates, unless `guarded` is counting."""
        if not self._guards:
            self.seconds += seconds

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Count the time of the block, and record failures of the candidate.

        Raises:
            BaseModelChangedError, GroupError, SupersededError, OSError: failures of the worker, the
                run or the disk, which are not the candidate's.
        """
        began = time.monotonic()
        self._guards += 1
        try:
            yield
        except (BaseModelChangedError, GroupError, SupersededError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a candidate may fail in any way
            self.fail("".join(traceback.format_exception(error)))
        finally:
            self._guards -= 1
            self.spend(time.monotonic() - began)


class RungRows:
    """Writer of one worker's ledger rows.

    Args:
        sweep: the sweep of the candidates.
        task: how outputs are scored.
        ledger: the ledger to write to.
        worker: name of the worker.
        digests: of its base model, its machine and its data, by the names of their columns.
    """

    def __init__(
        self, sweep: Sweep, task: Task, ledger: Ledger, worker: str, digests: Mapping[str, str]
    ) -> None:
        self._sweep, self._task, self._ledger = sweep, task, ledger
        self._worker, self._digests = worker, digests
        self._regimes = {model.label: model.regime for model in sweep.base_models}

    def begin(self, candidate: Candidate, rung: Rung) -> RungRecord:
        """Return a new record with what is known before the rung runs."""
        return RungRecord(
            candidate=candidate.id,
            rung=rung.index,
            split=SPLIT,
            num_examples=rung.num_examples,
            left=self.left(candidate, rung),
            worker=self._worker,
            attempt=self._ledger.attempt,
            base_digest=self._digests["base_digest"],
            machine=self._digests["machine"],
            data=self._digests["data"],
        )

    def left(self, candidate: Candidate, rung: Rung) -> int:
        """Return the number of rungs until a candidate's training is complete."""
        ladder = self._sweep.rungs.ladder()
        return max(0, candidate.trained_at(ladder) - rung.index)

    def record(self, work: Work, measured: Measured) -> None:
        """Write a candidate's predictions and its program if it has one; fill in its record.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if they can't be written.
        """
        examples = self._task.splits.search[: len(measured.outputs)]
        program, candidate, rung = measured.program, work.candidate, work.rung
        steps = program.recipe.postprocess
        cut = [self._task.cut(output, steps) for output in measured.outputs]
        result = self._task.metric.corpus(cut, examples)
        self._ledger.write(
            PredictionRecord,
            work.part,
            [
                PredictionRecord(
                    candidate=candidate.id,
                    rung=rung.index,
                    split=SPLIT,
                    example=example.id,
                    output=output,
                    score=score,
                    columns=self._task.columns(scored, example),
                )
                for output, scored, score, example in zip(
                    measured.outputs, cut, measured.scores, examples, strict=True
                )
            ],
        )
        if measured.exact:
            write_program(self._ledger, work.part, candidate.id, rung.index, program)
        rolled = work.rolled or Measured(program, exact=False)
        rewards = work.rewards or Rewards()
        work.record = replace(
            work.record,
            num_examples=len(examples),
            num_generated=measured.generated + rolled.generated,
            rewards=tuple(rewards.means) or None,
            best_reward=rewards.bests[-1] if rewards.bests else None,
            num_unjudged=measured.scores.count(None),
            num_distinct=len({output.strip() for output in cut}),
            score=result.score,
            lower=result.lower,
            upper=result.upper,
            program_bits=program.program_bits,
            payload_bits=program.payload_bits,
            template_bits=program.template_bits,
            program=program.digest if measured.exact else None,
            input_tokens=measured.input_tokens + rolled.input_tokens,
            output_tokens=measured.output_tokens + rolled.output_tokens,
            generate_s=measured.generate_s,
            against=measured.against,
            gap=measured.gap,
            verdict=measured.verdict,
            train_steps=0,
            train_s=0.0,
        )

    def introduce(self, variant: Candidate, parent: Candidate) -> None:
        """Record a coarser coding of `parent` as a candidate of its own.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if it can't be written.
        """
        about = CandidateRecord(
            candidate=variant.id,
            task=variant.task,
            model=variant.model,
            regime=self._regimes[variant.model],
            family=variant.family,
            spec=variant.canonical(),
            seed=self._sweep.seed,
            parent=parent.id,
            operator="coarsen",
        )
        self._ledger.write(CandidateRecord, variant.id, [about])

    def finish(self, works: Sequence[Work]) -> None:
        """Write the rungs' own parts last: if one exists, its predictions and program exist too.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if they can't be written.
        """
        for work in works:
            if work.trained is not None and not work.failed:
                work.record = replace(
                    work.record,
                    train_steps=work.trained.steps,
                    train_loss=work.trained.loss,
                    train_tokens=work.trained.tokens,
                    train_s=work.train_s,
                )
            work.record = replace(
                work.record,
                seconds=work.seconds,
                code_s=work.code_s,
                finished_at=datetime.now(UTC),
            )
            self._ledger.write(RungRecord, work.part, [work.record])
