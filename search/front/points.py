"""Pareto fronts from ledger rows: the programs that count, and their certificates.

A candidate counts with the result of its last rung. Only candidates that completed the whole ladder
are on the front: scores on fewer examples are not comparable with theirs.

Published points, beside the points of runs and never among them.

Their programs were not run here: lengths and scores come from a table, are often measured on other
splits, and often count other parts of a program. So they have fronts of their own, and no
complexity is read off them.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.search.candidate import Rung
from kilobit.search.front.pareto import P, pareto_front
from kilobit.search.records import (
    CandidateRecord,
    CertificateRecord,
    RungRecord,
    VerificationRecord,
)
from kilobit.search.settings import Ruler

_Key = TypeVar("_Key")
# Columns of the ledger's `rungs` from which points are made.
OF_A_POINT = (
    "candidate",
    "rung",
    "split",
    "num_examples",
    "score",
    "lower",
    "upper",
    "program_bits",
    "payload_bits",
    "program",
    "num_distinct",
    "template_bits",
)
_OF_BITS = ("candidate", "program_bits")
# Columns of the ledger's `candidates` from which points and the bare question are read.
OF_A_CANDIDATE = ("candidate", "task", "model", "regime", "family", "spec")
OF_BARE_BITS = (("candidates", OF_A_CANDIDATE), ("rungs", (*_OF_BITS, "payload_bits")))

# Fields of a certificate that `front --json` shows, in this order.
_OF_A_CERTIFICATE = ("score", "lower", "upper", "num_examples", "level", "num_programs",
                     "repeated")  # fmt: skip


@dataclass(frozen=True)
class FrontPoint:
    """One program on a front; the fields and their order are those of `front --json`."""

    run: str
    task: str
    model: str
    regime: str
    candidate: str
    family: str
    program_bits: int
    payload_bits: int
    score: float
    lower: float | None
    upper: float | None
    num_examples: int
    split: str | None
    verified: bool | None
    certified: bool | None
    program: str
    length: Ruler = "program"
    certificate: CertificateRecord | None = None
    imported: bool = False
    num_distinct: int | None = None
    template_bits: int | None = None
    net_bits: int | None = None

    @property
    def bits(self) -> int:
        """Return the length by which this point is compared with other points of its front."""
        found = _length_of(self)
        assert found is not None, "a point without net bits is compared by its program bits"
        return found

    def by(self, length: Ruler) -> Self | None:
        """Return this point compared by another length, None if that length is unknown."""
        point = replace(self, length=length)
        return None if _length_of(point) is None else point

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this point, with the results of its certificate."""
        sealed = self.certificate
        shown = sealed and {name: getattr(sealed, name) for name in _OF_A_CERTIFICATE}
        return asdict(self) | {"certificate": shown}


def _length_of(point: "FrontPoint | ImportedPoint") -> int | None:
    bits: int | None = getattr(point, f"{point.length}_bits")
    return bits


def bare_bits(candidates: pa.Table, rungs: pa.Table) -> dict[tuple[str, str], int]:
    """Return the program bits of the bare question by (task, base model), where they are known.

    The bare question is the candidate that adds nothing to the base model: no prompt, adapter or
    step on the output, and no limit of tokens of its own. With or without the chat template, the
    shorter one counts, at whatever rung it has a program.

    Args:
        candidates: columns `candidate`, `task`, `model`, `family` and `spec`.
        rungs: columns `candidate`, `program_bits` and `payload_bits`.
    """
    of_none = pc.and_(pc.equal(rungs["payload_bits"], 0), pc.is_valid(rungs["program_bits"]))
    rungs = rungs.filter(of_none)
    bits: dict[str, int] = {}
    for name, length in zip(*(rungs[c].to_pylist() for c in _OF_BITS), strict=True):
        bits[name] = min(length, bits.get(name, length))
    prompts = pc.and_(
        pc.equal(candidates["family"], "prompt"),
        pc.is_in(candidates["candidate"], value_set=pa.array(bits, pa.string())),
    )
    found: dict[tuple[str, str], int] = {}
    for one in candidates.filter(prompts).to_pylist():
        if is_bare(one["spec"]):
            key, length = (one["task"], one["model"]), bits[one["candidate"]]
            found[key] = min(length, found.get(key, length))
    return found


def bare_scores(candidates: pa.Table, rungs: pa.Table) -> dict[tuple[str, str], tuple[int, float]]:
    """Return number of examples and score of the bare question at its last rung.

    A search may stop it before the last rung of the ladder. With or without the chat template, the
    one with more examples counts, of equal ones the better one.

    Args:
        candidates: columns `candidate`, `task`, `model`, `family` and `spec`.
        rungs: columns `candidate`, `num_examples`, `score` and `payload_bits`.
    """
    rungs = rungs.filter(pc.and_(pc.equal(rungs["payload_bits"], 0), pc.is_valid(rungs["score"])))
    scores: dict[str, tuple[int, float]] = {}
    for row in rungs.to_pylist():
        one = row["num_examples"], row["score"]
        scores[row["candidate"]] = max(one, scores.get(row["candidate"], one))
    own = pc.is_in(candidates["candidate"], value_set=pa.array(scores, pa.string()))
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for about in candidates.filter(
        pc.and_(pc.equal(candidates["family"], "prompt"), own)
    ).to_pylist():
        if is_bare(about["spec"]):
            key, one = (about["task"], about["model"]), scores[about["candidate"]]
            found[key] = max(one, found.get(key, one))
    return found


def is_bare(spec: str | None) -> bool:
    """Return whether a candidate, by its canonical JSON, is the bare question."""
    try:
        return set(json.loads(spec or "[0]")) <= {"task", "model", "chat"}
    except (ValueError, TypeError):
        return False


def at_last_rung(
    candidates: pa.Table, rungs: pa.Table, last_rung: Rung
) -> tuple[list[CandidateRecord], list[RungRecord]]:
    """Return the candidates that have a score at `last_rung`, and their records there.

    Most rows of a large ledger belong to lower rungs, or to candidates that did not get so far;
    those never become Python objects.
    """
    complete = pc.and_(
        pc.and_(pc.equal(rungs["rung"], last_rung.index), pc.is_valid(rungs["score"])),
        pc.equal(rungs["num_examples"], last_rung.num_examples),
    )
    rows = rungs.filter(complete)
    about = candidates.filter(pc.is_in(candidates["candidate"], value_set=rows["candidate"]))
    return CandidateRecord.all_of(about), RungRecord.all_of(rows)


def complete_points(
    run: str,
    candidates: Sequence[CandidateRecord],
    rungs: Sequence[RungRecord],
    verifications: Sequence[VerificationRecord],
    last_rung: Rung,
    length: Ruler,
    certificates: Sequence[CertificateRecord] = (),
    targets: Sequence[float] = (),
    bare: Mapping[tuple[str, str], int] | None = None,
) -> list[FrontPoint]:
    """Return a point for every candidate that has a score at `last_rung`, in their order.

    A program gets no point if verification failed: its files did not give its predictions.

    Args:
        run: name of the points' run.
        candidates: the run's candidates.
        rungs: their records at some rungs.
        verifications: the verifications of their programs.
        last_rung: the last rung of the ladder.
        length: the length by which the points are compared; program bits instead of unknown net
            bits, because within a base model both have the same order.
        certificates: certificates of their programs; the last one of a program counts.
        targets: scores that a program may claim to reach.
        bare: program bits of the bare question, see `bare_bits`.
    """
    scored = {
        record.candidate: record
        for record in rungs
        if record.rung == last_rung.index
        and record.score is not None
        # A candidate that lost its race there was not scored on all examples.
        and record.num_examples == last_rung.num_examples
    }
    # The same files under two base models are two programs.
    verified = {(one.candidate, one.program): one.verified for one in verifications}
    by_program = {
        (one.candidate, one.program): one
        for one in sorted(certificates, key=lambda one: one.finished_at)
    }
    points = []
    for about in candidates:
        record = scored.get(about.candidate)
        if record is None:
            continue
        score, program = record.score, record.program
        assert score is not None, "it is among the scored ones"
        assert program is not None, "the last rung has a program"
        assert record.program_bits is not None, "a program has a length"
        assert record.payload_bits is not None, "a payload has a length"
        key = (record.candidate, program)
        if verified.get(key) is False:
            continue
        certificate = by_program.get(key)
        base = (bare or {}).get((about.task, about.model))
        points.append(
            FrontPoint(
                run=run,
                task=about.task,
                model=about.model,
                regime=about.regime,
                candidate=record.candidate,
                family=about.family,
                program_bits=record.program_bits,
                payload_bits=record.payload_bits,
                score=score,
                lower=record.lower,
                upper=record.upper,
                num_examples=record.num_examples,
                split=record.split,
                verified=verified.get(key),
                certified=_is_certified(score, certificate, targets),
                program=program,
                length="program" if length == "net" and base is None else length,
                certificate=certificate,
                num_distinct=record.num_distinct,
                template_bits=record.template_bits,
                net_bits=None if base is None else record.program_bits - base,
            )
        )
    return points


def _is_certified(
    score: float, certificate: CertificateRecord | None, targets: Sequence[float]
) -> bool | None:
    """Return whether the sealed split confirms the largest target that a program claims.

    It claims the targets that its score on the search split reaches. None if it claims none, or its
    program was not run on the sealed split.
    """
    claimed = max((target for target in targets if score >= target), default=None)
    if claimed is None or certificate is None:
        return None
    return certificate.lower is not None and certificate.lower >= claimed


def fronts(points: Sequence[FrontPoint]) -> dict[tuple[str, str], list[FrontPoint]]:
    """Return the Pareto front of each (task, model), in the order in which they first appear."""
    return _fronts_by(points, lambda point: (point.task, point.model))


def _fronts_by(points: Iterable[P], key: Callable[[P], _Key]) -> dict[_Key, list[P]]:
    groups: dict[_Key, list[P]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    return {key: pareto_front(group) for key, group in groups.items()}


@dataclass(frozen=True)
class ImportedPoint:
    """A published point; fields and order are those of `front --json`, unknown is None."""

    run: str
    task: str | None
    model: str | None
    regime: str | None
    candidate: str | None
    family: str | None
    program_bits: int | None
    payload_bits: int | None
    score: float
    lower: float | None
    upper: float | None
    num_examples: int | None
    split: None = None
    verified: None = None
    certified: None = None
    program: None = None
    length: Ruler = "program"
    certificate: None = None
    imported: bool = True
    num_distinct: None = None
    template_bits: None = None
    net_bits: None = None

    @property
    def bits(self) -> int:
        """Return the length by which this point is compared with other points of its front."""
        found = _length_of(self)
        assert found is not None, "the point lacks the length by which its front is compared"
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this point."""
        return asdict(self)


def imported_points(
    run: str, rows: Iterable[Mapping[str, Any]], length: Ruler
) -> list[ImportedPoint]:
    """Return the points of a table that have the given length, in their order.

    None has net bits: the length of the bare question was not published.

    Args:
        run: name of the points' origin.
        rows: rows with the other fields of a point; further columns are ignored.
        length: the length by which the points are compared.
    """
    names = ("task", "model", "regime", "candidate", "family", "program_bits", "payload_bits",
             "score", "lower", "upper", "num_examples")  # fmt: skip
    return [
        ImportedPoint(run=run, length=length, **{name: row[name] for name in names})
        for row in rows
        if row.get(f"{length}_bits") is not None
    ]


def imported_fronts(
    points: Sequence[ImportedPoint],
) -> dict[tuple[str | None, str | None], list[ImportedPoint]]:
    """Return the Pareto front of each (task, model), in the order in which they first appear."""
    return _fronts_by(points, lambda point: (point.task, point.model))
