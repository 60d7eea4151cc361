"""Progress statistics of a run, computed from records of its ledger and its sweep.

Pure functions: nothing here reads a file, prints or uses a clock.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.ledger import Following
from kilobit.evaluators.ledger.usage import Usage, searched_s, spans_of, usage_of
from kilobit.search.candidate import GIVEN, MODEL_FREE
from kilobit.search.front.pareto import complexity
from kilobit.search.front.points import OF_A_POINT, complete_points, fronts, is_bare
from kilobit.search.records import (
    CandidateRecord,
    CertificateRecord,
    DecisionRecord,
    Record,
    RungRecord,
    VerificationRecord,
    WorkerRecord,
)
from kilobit.search.settings import Ruler

# The columns needed from each table.
COLUMNS: dict[type[Record], tuple[str, ...]] = {
    CandidateRecord: ("candidate", "task", "model", "regime", "family", "operator", "position"),
    RungRecord: (
        *OF_A_POINT,
        "error",
        "finished_at",
        "worker",
        "attempt",
        "seconds",
        "train_s",
        "generate_s",
        "code_s",
        "train_tokens",
        "input_tokens",
        "output_tokens",
        "num_unjudged",
    ),
    DecisionRecord: ("candidate", "rung", "decision", "attempt"),
    WorkerRecord: ("worker", "model", "num_parameters", "load_s", "started_at"),
    VerificationRecord: ("candidate", "program", "num_examples", "num_equal", "verified"),
    CertificateRecord: (
        *("program", "candidate", "num_examples", "level", "num_programs", "opening", "repeated"),
        "finished_at",
    ),
}
_FAILURES_SHOWN = 3


@dataclass(frozen=True)
class RungCount:
    """Number of proposed candidates that finished a rung, and of those that failed there."""

    index: int
    num_examples: int
    train_steps: int
    finished: int
    failed: int


def columns_of(sweep: Sweep) -> dict[type[Record], tuple[str, ...]]:
    """Return the columns that a run's progress needs; net bits need to know the bare question."""
    if sweep.length != "net":
        return COLUMNS
    return {**COLUMNS, CandidateRecord: (*COLUMNS[CandidateRecord], "spec")}


@dataclass(frozen=True)
class ModelProgress:
    """Progress statistics of one base model.

    Attributes:
        model: its label.
        begun: number of candidates proposed for it.
        ended: number of those that have ended.
        best: score, length in bits and number of examples of its best result; a result on more
            examples outranks a higher score on fewer. None before the first result.
        front: number of programs on its front.
        unverified: number of those that are not verified yet.
        shortest: for each target the bits of the shortest program that reaches it, None if none
            does.
        length: the length that counts; of net bits none is known before the bare question is
            scored.
    """

    model: str
    begun: int
    ended: int
    best: tuple[float, int | None, int] | None
    front: int
    unverified: int
    shortest: tuple[int | None, ...]
    length: Ruler = "program"


@dataclass(frozen=True)
class Pace:
    """Speed of the last attempt that scored anything, and its expected end.

    Attributes:
        rungs_a_minute: rungs finished per minute since its first rung began.
        ends_at: when all candidates will have ended at this pace, None if it can't be estimated.
        budget_ends_at: when its time budget is used up, None if there is none.
    """

    rungs_a_minute: float
    ends_at: datetime | None
    budget_ends_at: datetime | None


@dataclass(frozen=True)
class Progress:
    """Progress statistics of a run.

    Attributes:
        rungs: counts at each rung of the ladder.
        coarser: coarsenings of adapters that were scored, counted apart from the candidates.
        coarser_failed: number of those that failed.
        models: in the order of the sweep file.
        begun: number of proposed candidates.
        most: upper limit of that number, None if only the time budget ends the run.
        completed: number of candidates that completed the last rung.
        stopped: number of candidates that ended before it.
        verified: number of programs whose files were run.
        certified: number of programs that were run on the sealed split.
        failures: candidate and last line of the error of the latest failed rungs, the latest first.
        num_failed: number of all failed rungs.
        unjudged: number of outputs without a verdict of the judge, which count in no score.
        too_long: number of candidates whose programs were longer.
        usage: how each worker spent its time.
        pace: speed and expected end, None before the first rung.
        last: when the last rung was finished.
    """

    rungs: tuple[RungCount, ...]
    coarser: int
    coarser_failed: int
    models: tuple[ModelProgress, ...]
    begun: int
    most: int | None
    completed: int
    stopped: int
    verified: int
    certified: int
    failures: tuple[tuple[str, str], ...]
    num_failed: int
    unjudged: int
    too_long: int
    usage: tuple[Usage, ...]
    pace: Pace | None
    last: datetime | None

    @property
    def ended(self) -> int:
        """Return how many candidates have ended."""
        return self.completed + self.stopped

    @property
    def running(self) -> int:
        """Return how many candidates were proposed and have not ended."""
        return max(0, self.begun - self.ended)


def progress_of(sweep: Sweep, tables: Following) -> Progress:
    """Return the progress statistics of a run.

    Args:
        sweep: the run's sweep.
        tables: its ledger's tables with the columns `columns_of`.
    """
    candidates, rungs = tables.records(CandidateRecord), tables.records(RungRecord)
    decisions = tables.records(DecisionRecord)
    # Coarsenings have no position: a rate search makes them from a candidate after its last rung.
    first = sum(one.family in MODEL_FREE or one.operator == GIVEN for one in candidates)
    made = {one.candidate for one in candidates if one.position is None}
    coarser = [record for record in rungs if record.candidate in made]
    finished = Counter(record.rung for record in rungs if record.candidate not in made)
    failed = sorted((record for record in rungs if record.error is not None), key=_ended_at)
    failed_at = Counter(record.rung for record in failed if record.candidate not in made)
    actions = Counter(one.decision for one in decisions)
    return Progress(
        rungs=tuple(
            RungCount(r.index, r.num_examples, r.train_steps, finished[r.index], failed_at[r.index])
            for r in sweep.rungs.ladder()
        ),
        coarser=len(coarser),
        coarser_failed=sum(record.error is not None for record in coarser),
        models=_models(sweep, tables),
        begun=len(candidates) - len(made),
        most=_most(sweep, first),
        completed=actions["finish"],
        stopped=actions["stop"],
        verified=len(tables.records(VerificationRecord)),
        certified=len(tables.records(CertificateRecord)),
        failures=tuple(
            (record.candidate, (record.error or "").strip().splitlines()[-1])
            for record in reversed(failed[-_FAILURES_SHOWN:])
        ),
        num_failed=len(failed),
        unjudged=sum(record.num_unjudged or 0 for record in rungs),
        too_long=len({record.candidate for record in rungs if record.is_too_long}),
        usage=tuple(usage_of(tables.records(WorkerRecord), rungs)),
        pace=_pace(sweep, rungs, decisions, _most(sweep, first)),
        last=max(map(_ended_at, rungs), default=None),
    )


def _most(sweep: Sweep, num_first: int) -> int | None:
    """Return the greatest number of candidates, those that come first too, or None."""
    most = sweep.most_candidates
    return None if most is None else most + num_first


def _ended_at(record: RungRecord) -> datetime:
    assert record.finished_at is not None, "it is among the columns, and every row has it"
    return record.finished_at


def _models(sweep: Sweep, tables: Following) -> tuple[ModelProgress, ...]:
    candidates, rungs = tables.records(CandidateRecord), tables.records(RungRecord)
    model_of = {one.candidate: one.model for one in candidates}
    begun = Counter(one.model for one in candidates if one.position is not None)
    ended = Counter(
        model_of.get(one.candidate)
        for one in tables.records(DecisionRecord)
        if one.decision != "promote"
    )
    best: dict[str, tuple[int, float, int]] = {}
    for record in rungs:
        model = model_of.get(record.candidate)
        bits = record.program_bits if sweep.minimised == "program" else record.payload_bits
        if model is None or record.score is None or bits is None:
            continue
        found = (record.num_examples, record.score, -bits)
        best[model] = max(best.get(model, found), found)
    points = complete_points(
        sweep.name,
        candidates,
        rungs,
        tables.records(VerificationRecord),
        sweep.rungs.ladder()[-1],
        sweep.minimised,
    )
    on_front = {model: front for (_, model), front in fronts(points).items()}
    bare = _bare_bits(candidates, rungs) if sweep.length == "net" else {}

    def shown(model: str, bits: int | None) -> int | None:
        """Return program or payload bits as the sweep counts them."""
        if bits is None or sweep.length != "net":
            return bits
        return bits - bare[model] if model in bare else None

    models = []
    for label in [model.label for model in sweep.base_models]:
        front, found_best = on_front.get(label, []), best.get(label)
        models.append(
            ModelProgress(
                label,
                begun[label],
                ended[label],
                found_best and (found_best[1], shown(label, -found_best[2]), found_best[0]),
                len(front),
                sum(point.verified is None for point in front),
                tuple(shown(label, complexity(front, target)) for target in sweep.targets),
                sweep.length,
            )
        )
    return tuple(models)


def _bare_bits(
    candidates: Sequence[CandidateRecord], rungs: Sequence[RungRecord]
) -> dict[str, int]:
    """Return the program bits of the bare question by base model, where they are known."""
    asks = {
        one.candidate: one.model
        for one in candidates
        if one.family == "prompt" and is_bare(one.spec)
    }
    found: dict[str, int] = {}
    for record in rungs:
        model, bits = asks.get(record.candidate), record.program_bits
        if model is not None and bits is not None:
            found[model] = min(bits, found.get(model, bits))
    return found


def _pace(
    sweep: Sweep,
    rungs: Sequence[RungRecord],
    decisions: Sequence[DecisionRecord],
    most: int | None,
) -> Pace | None:
    spans = spans_of(rungs)
    if not spans:
        return None
    attempt = max(spans)
    began, last = spans[attempt]
    own = [record for record in rungs if (record.attempt or 0) == attempt]
    gone_s = max((last - began).total_seconds(), 1e-6)
    ended = [one for one in decisions if one.decision != "promote"]
    here = sum(one.attempt == attempt for one in ended)
    budget = sweep.budget.seconds
    ends_at = None
    if here and most is not None:
        ends_at = last + timedelta(seconds=gone_s / here * max(0, most - len(ended)))
    return Pace(
        60 * len(own) / gone_s,
        ends_at,
        # The seconds of earlier attempts count too.
        None if budget is None else last + timedelta(seconds=budget - searched_s(rungs)),
    )
