"""Training and scoring candidates at their rungs: as many as can in common passes, others alone."""

import time
from collections.abc import Sequence

from cluster.adapters import Adapter, installed
from cluster.builder import Builder
from cluster.frozen import Frozen
from cluster.incumbents import IncumbentsReader
from cluster.messages import rung_part
from cluster.packing.changes import detached
from cluster.packing.measure import pass_tokens
from cluster.packing.planner import Planner
from cluster.packing.train import Job, train_pack
from cluster.prequential import Learned, learn
from cluster.rung_rows import RungRows
from cluster.scoring import Scorer, Scoring
from cluster.shards.shard import ALONE, Shard
from cluster.states import States
from cluster.training import Lesson
from cluster.warm_start import begin_from
from cluster.waves import Waves
from cluster.work import Work
from evaluators.ledger import Ledger
from evaluators.task import Task
from search.rungs import Rung
from search.sweep import Sweep


class RungRunner:
    """Runs rungs on one resident base model.

    Args:
        sweep: whose candidates they are.
        task: what is asked.
        frozen: the base model.
        builder: makes its programs.
        scorer: prepares their scoring.
        states: adapters between rungs.
        rows: what is recorded.
        ledger: says which variants are recorded already.
        incumbents: whom candidates have to beat.
        shard: the part of the model that is here.
    """

    def __init__(
        self,
        sweep: Sweep,
        task: Task,
        frozen: Frozen,
        builder: Builder,
        scorer: Scorer,
        states: States,
        rows: RungRows,
        ledger: Ledger,
        incumbents: IncumbentsReader,
        shard: Shard = ALONE,
    ) -> None:
        self._sweep, self._task, self._frozen, self._builder = sweep, task, frozen, builder
        self._scorer, self._states, self._rows, self._ledger = scorer, states, rows, ledger
        self._incumbents, self._shard = incumbents, shard
        limit = pass_tokens(frozen)
        self._planner = Planner(limit)
        self._waves = Waves(frozen, task, Planner(limit), shard)

    def run(self, works: Sequence[Work]) -> None:
        """Train candidates up to their rungs and score them there; their rows are then filled in.

        Predictions, programs and rows of variants are written, the candidates' own rows are not.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if something can't be written.
        """
        together = [work for work in works if self._prepare(work)]
        self._run_together(together)
        for work in works:
            if work not in together and not work.failed:
                self._run_alone(work)

    def _prepare(self, work: Work) -> bool:
        """Code the prompt and build the adapter; return whether others can share its passes."""
        with work.guarded():
            spec, last = work.candidate.adapter, self._is_last(work.rung)
            work.texts = self._builder.code_text(work.candidate.prompt, by_model=last)
            if spec is None:
                return True
            found = detached(self._frozen, spec)
            if found is not None:
                work.adapter, work.changes = found
                self._take_up(work, work.adapter)
                return True
        return False

    def _run_together(self, works: Sequence[Work]) -> None:
        jobs: list[tuple[Work, Job]] = []
        for work in works:
            if work.adapter is not None and not work.failed:
                until = min(work.adapter.spec.steps, work.rung.train_steps)
                job = Job(work.adapter, work.changes, self._lesson(work), until)
                jobs.append((work, job))
        train_pack(self._frozen, [job for _, job in jobs], self._planner, self._shard)
        for work, job in jobs:
            work.trained, work.train_s = job.trained, job.seconds
            work.seconds += job.seconds
            with work.guarded():
                if job.error is not None:
                    raise job.error
                self._keep(work, job.adapter)
        self._score(works)
        variants = [variant for work in works for variant in self._variants(work)]
        self._score(variants)
        self._rows.finish(variants)

    def _run_alone(self, work: Work) -> None:
        """Train and score a candidate whose adapter has to be on the model."""
        assert work.candidate.adapter is not None
        with work.guarded(), installed(self._frozen, work.candidate.adapter) as adapter:
            work.adapter = adapter
            began = time.monotonic()
            self._train_alone(work, adapter)
            work.train_s = time.monotonic() - began
            self._score([work])
            for variant in self._variants(work):
                # The numbers on the model are those of one variant at a time.
                self._score([variant])
                self._rows.finish([variant])

    def _train_alone(self, work: Work, adapter: Adapter) -> None:
        last = self._is_last(work.rung)
        if adapter.spec.method == "data":
            # Examples that are coded while the adapter learns have to be met from the start.
            learned = learn(self._frozen, adapter, self._task, work.rung.train_steps, exact=last)
            work.trained, work.content = learned.trained, learned
            work.row["excess_bits"] = learned.excess_bits
            return
        self._take_up(work, adapter)
        until = min(adapter.spec.steps, work.rung.train_steps)
        work.trained = adapter.train(self._frozen, self._lesson(work), until)
        self._keep(work, adapter)

    def _take_up(self, work: Work, adapter: Adapter) -> None:
        """Go on from the state of an earlier rung, if there is one.

        Without one, begin from the candidate that the adapter's `start` names, if it names one.
        """
        earlier = self._states.before(work.candidate.id, work.rung.index)
        start = adapter.spec.start
        if earlier is not None:
            adapter.restore(earlier)
        elif start is not None:
            begin_from(adapter, start, self._states.before(start, self._sweep.rungs.count))

    def _keep(self, work: Work, adapter: Adapter) -> None:
        self._states.write(work.candidate.id, work.rung.index, adapter.state())
        work.content = adapter.tensors()

    def _lesson(self, work: Work) -> Lesson:
        prompt = work.candidate.prompt.render(self._task)
        return Lesson(self._task, prompt, self._task.splits.train, work.candidate.chat)

    def _score(self, works: Sequence[Work]) -> None:
        """Run the candidates' programs and record what they did."""
        for work in works:
            if not work.failed:
                with work.guarded():
                    work.scoring = self._begin(work)
        scorings = [work.scoring for work in works if work.scoring is not None]
        began = time.monotonic()
        self._waves.run(scorings)
        rest = time.monotonic() - began - sum(s.measured.generate_s for s in scorings)
        for work in works:
            scoring = work.scoring
            if scoring is not None and not work.failed:
                work.seconds += scoring.measured.generate_s + rest / len(scorings)
                with work.guarded():
                    if scoring.error is not None:
                        raise scoring.error
                    self._rows.record(work, scoring.measured)

    def _begin(self, work: Work) -> Scoring:
        left = self._rows.left(work.candidate, work.rung)
        return self._scorer.begin(
            work.candidate,
            work.rung,
            work.texts,
            work.adapter,
            work.changes,
            work.content,
            self._incumbents(work.candidate.model, work.rung.index, left),
            race=left == 0,
        )

    def _variants(self, parent: Work) -> list[Work]:
        """Return an adapter in coarser codings, each a candidate of its own, recorded as one."""
        scoring = parent.scoring
        if parent.adapter is None or not self._is_last(parent.rung) or parent.failed:
            return []
        if scoring is None or scoring.measured.verdict == "loses":
            return []
        if isinstance(parent.content, Learned):
            return []
        found = []
        for variant in self._sweep.rate_search.variants(parent.candidate):
            if self._ledger.read_part("rungs", rung_part(variant.id, parent.rung)) is None:
                self._rows.introduce(variant, parent.candidate)
                row = self._rows.begin(variant, parent.rung)
                found.append(
                    Work(
                        variant,
                        parent.rung,
                        row,
                        parent.texts,
                        parent.adapter,
                        parent.changes,
                        parent.content,
                    )
                )
        return found

    def _is_last(self, rung: Rung) -> bool:
        return rung.index == self._sweep.rungs.count - 1
