"""Training and scoring of candidates at their rungs: in shared passes if possible, else singly.

Between two rungs an adapter is kept as a checkpoint: one file per candidate, rung and attempt.
"""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from kilobit.cluster.worker.resident import Training, begin_from
from kilobit.cluster.worker.rung_record import RungRows, Scoring, Work, total
from kilobit.cluster.worker.scoring import Scorer, WorkerContext
from kilobit.cluster.worker.scoring_loop import ScoringLoop
from kilobit.evaluators.given_candidates import given_state
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.evaluators.model.adapters import Adapter, Trained, installed
from kilobit.evaluators.model.text_codec import Learned, learn
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.programs.numbers import Tensor
from kilobit.search.programs.program import Program
from kilobit.search.records import RungRecord, rung_part
from kilobit.search.reward_training import Rewards

_LOG = logging.getLogger("kilobit")


class Checkpoints:
    """The folder `states` of a run, which holds its checkpoints.

    Args:
        run: the run's folder.
        ledger: says with which attempt's checkpoint a rung was measured.
    """

    def __init__(self, run: Place, ledger: Ledger) -> None:
        self._folder, self._ledger = run / "states", ledger

    def write(self, candidate: str, rung: int, state: bytes) -> None:
        """Write the checkpoint of a candidate after a rung.

        Raises:
            OSError: if it can't be written.
        """
        write_whole(self._file(candidate, rung, self._ledger.attempt), state)

    def before(self, candidate: str, rung: int) -> bytes | None:
        """Return a candidate's latest checkpoint from before `rung`, None if there is none.

        Where several attempts wrote one at the same rung, it is the one that the accepted row was
        measured with.

        Raises:
            OSError, ValueError: if a part of the ledger can't be read.
        """
        for index in range(rung - 1, -1, -1):
            for record in self._ledger.read_part(RungRecord, rung_part(candidate, index)) or ():
                with suppress(FileNotFoundError, NotADirectoryError):
                    return self._file(candidate, index, record.attempt).read_bytes()
        return None

    def _file(self, candidate: str, rung: int, attempt: int | None) -> Place:
        return self._folder / f"{rung_part(candidate, rung)}.a{attempt}.safetensors"


class RungRunner:
    """Runner of rungs on one resident base model.

    Args:
        context: the worker's; its ledger tells which variants are recorded already.
        scorer: prepares the scoring of candidates.
        states: adapter checkpoints between rungs.
        rows: writes the ledger rows.
    """

    def __init__(
        self, context: WorkerContext, scorer: Scorer, states: Checkpoints, rows: RungRows
    ) -> None:
        self._sweep, self._task, self._group = context.sweep, context.task, context.group
        self._builder, self._ledger = context.builder, context.ledger
        self._context = context
        self._frozen = self._group.resident.frozen
        self._scorer, self._states, self._rows = scorer, states, rows
        self._waves = ScoringLoop(self._group, self._task)

    def run(self, works: Sequence[Work]) -> None:
        """Train candidates up to their rungs and score them there; their rows are then filled in.

        Predictions, programs and rows of variants are written, the candidates' own rows are not.

        Raises:
            GroupError: if a rank died or is out of step; the group must not be used again.
            SupersededError: if a newer attempt at the run has begun.
            OSError: if something can't be written.
        """
        # A pack that failed may have left adapters behind.
        self._group.call("forget")
        together = [work for work in works if self._prepare(work)]
        self._run_together(together)
        self._group.call("forget")
        for work in works:
            if work not in together and not work.failed:
                self._run_alone(work)

    def _prepare(self, work: Work) -> bool:
        """Encode the prompt and create the adapter; return whether the work can share passes."""
        with work.guarded():
            spec, last = work.candidate.adapter, self._is_last(work.rung)
            # Where length is bounded, what a program is too long by has to be its own.
            by_model = last or self._context.most_bits is not None
            with work.coding():
                work.texts = self._builder.code_text(work.candidate, by_model=by_model)
            if spec is None:
                return True
            state, start = self._earlier(work, spec)
            if self._group.call("adapt", work.candidate.id, spec, state, start):
                work.key = work.candidate.id
                work.adapter = self._group.resident.adapter(work.key)
                return True
        return False

    def _run_together(self, works: Sequence[Work]) -> None:
        adapted = [work for work in works if work.key is not None and not work.failed]
        trained = [work for work in adapted if not _by_reward(work)]
        for work in adapted:
            if _by_reward(work):
                self._train_by_reward(work)
        asked = [
            Training(
                work.candidate.id,
                work.candidate.before(self._task),
                work.candidate.chat,
                self._until(work),
                work.candidate.between_turns(self._task),
            )
            for work in trained
        ]
        for work, end in zip(trained, self._group.call("train", asked), strict=True):
            work.trained, work.train_s = end.trained, end.seconds
            work.spend(end.seconds)
            with work.guarded():
                if end.error is not None:
                    raise end.error
                assert work.adapter is not None
                self._keep(work, work.adapter)
        self._score(works)
        variants = [variant for work in works for variant in self._variants(work)]
        self._score(variants)
        self._rows.finish(variants)

    def _train_by_reward(self, work: Work) -> None:
        """Train up to the rung by the scores of answers that the adapter's members generate.

        A generation runs by itself, so its float sums are the same beside any other candidates.
        """
        adapter, key = work.adapter, work.key
        assert adapter is not None
        began = time.monotonic()
        with work.guarded():
            assert adapter.reward is not None
            generation, work.rewards = self._scorer.rollouts(work), Rewards()
            while adapter.steps < self._until(work):
                members = generation()
                if key is None:
                    numbers = list(adapter.reward.members())
                    for member, own in zip(members, numbers, strict=True):
                        # The model holds the numbers of one member at a time.
                        adapter.show(own)
                        self._waves.run([member])
                else:
                    self._group.call("spread", key)
                    self._waves.run(members)
                errors = [member.error for member in members if member.error is not None]
                if errors:
                    raise errors[0]
                measured = [member.measured for member in members]
                scores = [one.scores for one in measured]
                if key is None:
                    adapter.learn(scores)
                else:
                    self._group.call("learn", key, scores)
                work.rewards.add(scores)
                work.rolled = total(work.rolled, measured)
                self._tell(work, adapter)
            # Tokens are counted as those of generation.
            work.trained = Trained(adapter.steps, None, 0)
            self._keep(work, adapter)
        work.train_s = time.monotonic() - began

    def _tell(self, work: Work, adapter: Adapter) -> None:
        if work.rewards is not None and work.rewards.means:
            _LOG.info(
                "%s: generation %d of %d, mean reward %.3f, best %.3f",
                work.candidate.id,
                adapter.steps,
                self._until(work),
                work.rewards.means[-1],
                work.rewards.bests[-1],
            )

    def _run_alone(self, work: Work) -> None:
        """Train and score a candidate with an adapter that has to be installed in the model."""
        assert work.candidate.adapter is not None
        with work.guarded(), installed(self._frozen, work.candidate.adapter) as adapter:
            work.adapter = adapter
            began = time.monotonic()
            self._train_alone(work, adapter)
            work.train_s = time.monotonic() - began
            self._score([work])
            for variant in self._variants(work):
                # The model holds the numbers of one variant at a time.
                self._score([variant])
                self._rows.finish([variant])

    def _train_alone(self, work: Work, adapter: Adapter) -> None:
        last = self._is_last(work.rung)
        if adapter.spec.traits.examples:
            # The examples are coded while the adapter learns, so each rung starts from the first.
            learned = learn(self._frozen, adapter, self._task, work.rung.train_steps, exact=last)
            work.trained, work.content = learned.trained, learned
            work.record = replace(work.record, excess_bits=learned.excess_bits)
            return
        state, start = self._earlier(work, adapter.spec)
        if state is not None:
            adapter.restore(state)
        elif start is not None:
            begin_from(adapter, *start)
        if adapter.reward is not None:
            self._train_by_reward(work)
            return
        candidate, train = work.candidate, self._task.splits.train
        said = candidate.chat, candidate.between_turns(self._task)
        lesson = Lesson(self._task, candidate.before(self._task), train, *said)
        work.trained = adapter.train(self._frozen, lesson, self._until(work))
        self._keep(work, adapter)

    def _earlier(
        self, work: Work, spec: AdapterSpec
    ) -> tuple[bytes | None, tuple[str, bytes | None] | None]:
        """Return the checkpoint of an earlier rung, and the warm start.

        A given adapter begins with the numbers of its folder. The warm start is another candidate's
        id and checkpoint; it is None if there is an earlier rung or the spec names none.

        Raises:
            ValueError: if the folder of a given adapter has changed.
        """
        if spec.traits.examples:
            return None, None
        state = self._states.before(work.candidate.id, work.rung.index)
        if state is None and spec.given is not None:
            state = given_state(self._sweep.families.given, self._context.folder, spec.given)
        if state is not None or spec.start is None:
            return state, None
        return None, (spec.start, self._states.before(spec.start, self._sweep.rungs.count))

    def _until(self, work: Work) -> int:
        assert work.candidate.adapter is not None
        return min(work.candidate.adapter.steps, work.rung.train_steps)

    def _keep(self, work: Work, adapter: Adapter) -> None:
        self._states.write(work.candidate.id, work.rung.index, adapter.state())
        work.content = adapter.tensors()

    def _score(self, works: Sequence[Work]) -> None:
        """Run the candidates' programs and record their results."""
        for work in works:
            if not work.failed:
                with work.guarded(), work.coding():
                    if self._is_left_out(work):
                        continue
                    left = self._rows.left(work.candidate, work.rung)
                    work.scoring = self._scorer.begin(work, left)
        scorings = [work.scoring for work in works if work.scoring is not None]
        began = time.monotonic()
        self._waves.run(scorings)
        rest = time.monotonic() - began - sum(s.measured.generate_s for s in scorings)
        for work in works:
            scoring = work.scoring
            if scoring is not None and not work.failed:
                work.spend(scoring.measured.generate_s + rest / len(scorings))
                with work.guarded():
                    if scoring.error is not None:
                        raise scoring.error
                    work.scoring = self._without_adapter(work, scoring) or scoring
                    self._rows.record(work, work.scoring.measured)

    def _is_left_out(self, work: Work) -> bool:
        """Return whether a program is longer than the sweep allows; its lengths are then recorded.

        Before the last rung an adapter is scored as it is if any coding of it is short enough.
        """
        if self._context.most_bits is None:
            return False
        program = self._program(work, work.candidate)
        if self._is_short_enough(program, work.content):
            return False
        coarser = [] if self._is_last(work.rung) else self._coarser(work)
        if not coarser:
            work.leave_out(program)
        return work.too_long

    def _program(self, work: Work, candidate: Candidate) -> Program:
        return self._builder.build(candidate, work.texts, work.adapter, work.content)

    def _is_short_enough(self, program: Program, content: Sequence[Tensor] | Learned) -> bool:
        most = self._context.most_bits
        # The length of training examples is only estimated before the last rung.
        exact = not isinstance(content, Learned) or content.exact
        return most is None or not exact or self._context.bits(program) <= most

    def _coarser(self, parent: Work) -> list[Candidate]:
        """Return the coarser codings of an adapter that are short enough."""
        found = self._sweep.rate_search.variants(parent.candidate)
        if self._context.most_bits is None or parent.adapter is None:
            return found
        return [
            one
            for one in found
            if self._is_short_enough(self._program(parent, one), parent.content)
        ]

    def _without_adapter(self, work: Work, scoring: Scoring) -> Scoring | None:
        """Return the scoring of the program without the adapter if it has the same outputs.

        Only a candidate whose training is complete is looked at. The plain program answers a batch
        first, and the other examples if its answers are those of the adapter.
        """
        mine = scoring.measured
        part = mine.program.recipe
        there = part.adapter is not None or part.data is not None
        whole = len(mine.outputs) == len(scoring.examples) and bool(mine.outputs)
        if not there or not whole or self._rows.left(work.candidate, work.rung):
            return None
        bare = work.candidate.model_copy(update={"adapter": None})
        plain = self._scorer.begin(Work(bare, work.rung, work.record, work.texts), left=0)
        # A race would end before all outputs are known.
        plain.race = None
        if scoring.model is not None:
            assert work.adapter is not None
            work.adapter.assign([])
            # A soft prompt is beside the base model, which is as it was.
            plain.model = self._frozen.model if scoring.num_soft else scoring.model
        every = plain.examples
        theirs = plain.measured
        for examples in (every[: plain.size], every):
            plain.examples = examples
            self._waves.run([plain])
            if plain.error is not None or theirs.outputs != mine.outputs[: len(theirs.outputs)]:
                return None
        _LOG.info(
            "%s at rung %d: its %d outputs are those without its adapter, so its program has none",
            work.candidate.id,
            work.rung.index,
            len(every),
        )
        theirs.generated += mine.generated
        theirs.input_tokens += mine.input_tokens
        theirs.output_tokens += mine.output_tokens
        theirs.generate_s += mine.generate_s
        return plain

    def _variants(self, parent: Work) -> list[Work]:
        """Record coarser codings of an adapter as candidates of their own and return their work."""
        scoring = parent.scoring
        if parent.adapter is None or not self._is_last(parent.rung) or parent.failed:
            return []
        if not parent.too_long:
            if scoring is None or scoring.measured.verdict == "loses":
                return []
            # What has no effect as it was trained has none when it is coarser.
            if scoring.measured.program.recipe.adapter is None:
                return []
        found = []
        for variant in self._coarser(parent):
            record = self._rows.begin(variant, parent.rung)
            if self._ledger.read_part(RungRecord, record.part) is None:
                self._rows.introduce(variant, parent.candidate)
                found.append(
                    Work(
                        variant,
                        parent.rung,
                        record,
                        parent.texts,
                        parent.adapter,
                        parent.key,
                        parent.content,
                    )
                )
        return found

    def _is_last(self, rung: Rung) -> bool:
        return rung.index == self._sweep.rungs.count - 1


def _by_reward(work: Work) -> bool:
    return work.adapter is not None and work.adapter.reward is not None
