"""The front of a run: its points, printed as a table or drawn as a picture; counts of candidates.

Imports neither torch nor Ray, so `kilobit front` starts fast.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import pyarrow as pa
from rich.console import Console

from kilobit.cluster.console import fitting_table
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.search.front.complexity import best_lower, certified_complexity
from kilobit.search.front.pareto import complexity
from kilobit.search.front.points import (
    OF_A_CANDIDATE,
    OF_A_POINT,
    FrontPoint,
    at_last_rung,
    bare_bits,
    complete_points,
    fronts,
)
from kilobit.search.records import (
    CandidateRecord,
    CertificateRecord,
    DecisionRecord,
    RungRecord,
    VerificationRecord,
)
from kilobit.search.settings import Ruler, to_copy

# Columns dropped in this order if the terminal is too narrow; bits, score and candidate stay.
_LEAST_NEEDED = (
    "verified", "family", "template", "distinct outputs", "95 % interval", "sealed split",
)  # fmt: skip
UNKNOWN_NET = (
    "net bits are unknown: the ledger has no program of the bare question, the first candidate "
    "of the family prompt"
)
_OF_A_VERIFICATION = ("candidate", "program", "num_examples", "num_equal", "verified")


class Reader(Protocol):
    """Reader of the tables of a run."""

    def __call__(self, table: str, columns: Sequence[str] | None = None, /) -> pa.Table:
        """Return the rows of a table with some columns, all by default."""


Completed = tuple[list[CandidateRecord], list[RungRecord], dict[tuple[str, str], int]]
"""Candidates, their records at the last rung, and the bits of the bare question."""


class Front:
    """Completed programs and the fronts among them.

    Args:
        points: the programs, of one run or of several.

    Attributes:
        points: the programs.
        by_model: the front of each (task, model), in the order in which they first appear.
    """

    def __init__(self, points: Sequence[FrontPoint]) -> None:
        self.points = points
        self.by_model = fronts(points)

    @property
    def on_front(self) -> list[FrontPoint]:
        """Return the points of all fronts, front by front."""
        return [point for front in self.by_model.values() for point in front]

    @property
    def unverified(self) -> list[FrontPoint]:
        """Return the programs on the fronts that have not been verified yet."""
        return [point for point in self.on_front if point.verified is None]


class RunFront(Front):
    """The fronts of a run; a command reads them once and hands them on.

    Args:
        run: the run.
        trusting: use the results of earlier verifications; False ignores them.

    Attributes:
        run: the run.
    """

    def __init__(self, run: RunFolder, *, trusting: bool = True) -> None:
        self.run = run
        self._completed = completed_in(run.ledger.read, run.sweep)
        self.refresh(trusting=trusting)

    def refresh(self, *, trusting: bool = True) -> None:
        """Take over what verification and certification have written since."""
        read, name = self.run.ledger.read, self.run.path.name
        super().__init__(
            points_from(name, read, self.run.sweep, None, self._completed, trusting=trusting)
        )


def points_from(
    name: str,
    read: Reader,
    sweep: Sweep,
    length: Ruler | None = None,
    completed: Completed | None = None,
    *,
    trusting: bool = True,
    bare: Mapping[tuple[str, str], int] | None = None,
) -> list[FrontPoint]:
    """Return the completed points of a run.

    Args:
        name: the run's name in its points.
        read: returns columns of a table of its ledger.
        sweep: the run's sweep.
        length: which length to compare by; that of the sweep file by default.
        completed: what `completed_in` returns, if it was read before.
        trusting: use the results of earlier verifications; False ignores them.
        bare: program bits of the bare question that are known from elsewhere.
    """
    verified = VerificationRecord.all_of(read("verifications", _OF_A_VERIFICATION))
    candidates, rungs, found = completed or completed_in(read, sweep)
    points = complete_points(
        name,
        candidates,
        rungs,
        verified if trusting else [],
        sweep.rungs.ladder()[-1],
        length or sweep.length,
        CertificateRecord.all_of(read("certificates")),
        sweep.targets,
        {**(bare or {}), **found},
    )
    # Base models in the order of the sweep file, independent of which finished first.
    order = {model.label: number for number, model in enumerate(sweep.base_models)}
    return sorted(points, key=lambda point: order.get(point.model, len(order)))


def completed_in(read: Reader, sweep: Sweep) -> Completed:
    """Return the candidates that completed the last rung, and what `Completed` has besides."""
    candidates, rungs = read("candidates", OF_A_CANDIDATE), read("rungs", OF_A_POINT)
    found = at_last_rung(candidates.drop_columns("spec"), rungs, sweep.rungs.ladder()[-1])
    return *found, bare_bits(candidates, rungs)


def print_front(console: Console, front: Front, targets: Iterable[float]) -> None:
    """Print the front of each model and its task complexity at each target."""
    if not front.points:
        console.print("No candidate has completed the last rung yet: there is no front.")
    for (task, model), front_points in front.by_model.items():
        group = [point for point in front.points if (point.task, point.model) == (task, model)]
        certificates = [point.certificate for point in group if point.certificate is not None]
        columns = _columns(front_points, are_certified=bool(certificates))
        title = f"{task}, {model}: bits of program and payload, score"
        for shown in fitting_table(console, columns, _LEAST_NEEDED, title):
            console.print(shown)
        if group[0].net_bits is None:
            console.print(f"  {UNKNOWN_NET}")
        for target in targets:
            bits = complexity(front_points, target)
            kind = front_points[0].length
            found = "not reached" if bits is None else f"at most {bits} {kind} bits"
            certified = certified_text(group, target) if certificates else "not certified"
            console.print(f"  score ≥ {target:g} on the search split: {found} ({certified})")
        for text in sorted({_what_holds(certificate) for certificate in certificates}):
            console.print(f"  {text}")


def _columns(points: list[FrontPoint], *, are_certified: bool) -> dict[str, list[str]]:
    """Return the columns of a front by their headings, without those that no program has."""
    verified = {None: "not yet", True: "yes", False: "no"}
    known = {
        "template": any(p.template_bits for p in points),
        "net": points[0].net_bits is not None,
        "sealed split": are_certified,
        # Versions that did not count them wrote the run.
        "distinct outputs": any(p.num_distinct is not None for p in points),
    }
    columns = {
        "program": [str(p.program_bits) for p in points],
        "payload": [str(p.payload_bits) for p in points],
        "template": ["" if p.template_bits is None else str(p.template_bits) for p in points],
        "net": ["?" if p.net_bits is None else str(p.net_bits) for p in points],
        "score": [f"{p.score:.3f}" for p in points],
        "95 % interval": [range_text(p.lower, p.upper) for p in points],
        "sealed split": [_sealed(p.certificate) for p in points],
        "distinct outputs": ["" if p.num_distinct is None else str(p.num_distinct) for p in points],
        "family": [p.family for p in points],
        "verified": [verified[p.verified] for p in points],
        "candidate": [p.candidate for p in points],
    }
    return {head: cells for head, cells in columns.items() if known.get(head, True)}


def certified_text(points: list[FrontPoint], target: float) -> str:
    """Return a text on the certified bits at `target`, or the best lower bound instead."""
    bits = certified_complexity(points, target)
    if bits is not None:
        return f"certified: at most {bits}"
    best = best_lower(points)
    return "not certified" if best is None else f"not certified: best lower bound {best:.3f}"


def range_text(lower: float | None, upper: float | None) -> str:
    """Return an interval as text, empty if a bound is unknown."""
    return "" if lower is None or upper is None else f"{lower:.3f} - {upper:.3f}"


def _sealed(certificate: CertificateRecord | None) -> str:
    if certificate is None:
        return "not run"
    return range_text(certificate.lower, certificate.upper) or "failed"


def _what_holds(certificate: CertificateRecord) -> str:
    repeated = (
        "; repeated: the sealed split had been opened before for other programs"
        if certificate.repeated
        else ""
    )
    return (
        f"sealed split: {certificate.num_examples} examples; the bounds of "
        f"{certificate.num_programs} programs hold at once with probability "
        f"{certificate.level:g}{repeated}"
    )


def print_left_out(console: Console, run_folder: RunFolder) -> None:
    """Print the parts found damaged when this attempt began; no other output names them."""
    for line in run_folder.left_out:
        console.print(f"damaged, will be recomputed: {line}")


def ends_of(run_folder: RunFolder) -> list[DecisionRecord]:
    """Return the decisions by which candidates of a run ended."""
    decisions = run_folder.ledger.records(DecisionRecord, ["candidate", "rung", "decision"])
    return [one for one in decisions if one.decision != "promote"]


def num_ended(run_folder: RunFolder) -> int:
    """Return how many candidates of a run have ended."""
    return len({one.candidate for one in ends_of(run_folder)})


def num_lost(run_folder: RunFolder) -> int:
    """Return how many candidates ended at a rung that was found damaged; `resume` repeats it."""
    rungs = run_folder.ledger.records(RungRecord, ["candidate", "rung", "num_examples"])
    there = {(one.candidate, one.rung) for one in rungs}
    return len({(one.candidate, one.rung) for one in ends_of(run_folder)} - there)


def num_running(run_folder: RunFolder) -> int:
    """Return how many candidates of a run were proposed and have not ended."""
    (positions,) = run_folder.ledger.read("candidates", ["position"]).columns
    return int(len(positions) - positions.null_count) - num_ended(run_folder)


def draw(front: RunFront, path: Place) -> None:
    """Write the picture of a run's front."""
    from kilobit.evaluators.figures.plot_front import AXES, draw_front

    # A run has one task, so its models name the curves.
    sweep = front.run.sweep
    curves = {
        model: [point for point in points if point.length == sweep.length]
        for (_, model), points in front.by_model.items()
    }
    title, axis = f"{sweep.name}: length against score", AXES[sweep.length]
    write_whole(path, draw_front(curves, sweep.targets, title, axis))


def progress_text(ended: int, total: int | None) -> str:
    """Return a text such as "3 of 9 candidates"; without the total if it is unknown."""
    return f"{ended} candidates" if total is None else f"{ended} of {total} candidates"


def unjudged_text(number: int) -> list[str]:
    """Return a line on outputs without a verdict of the judge, none if there are none."""
    count = "1 output has" if number == 1 else f"{number} outputs have"
    return [f"not judged: {count} no verdict of the judge and no score"] if number else []


def bound_text(sweep: Sweep, too_long: int | None = None) -> list[str]:
    """Return a line on the bound of the length, none without one.

    Args:
        sweep: has the bound.
        too_long: number of candidates whose programs are longer, None if it is unknown.
    """
    if sweep.max_bits is None:
        return []
    count = "1 candidate is" if too_long == 1 else f"{too_long} candidates are"
    left_out = "" if too_long is None else f"; {count} longer"
    return [f"programs of at most {sweep.max_bits} {sweep.length} bits are scored{left_out}"]


def unverified_text(number: int, path: Place, address: str | None = None) -> list[str]:
    """Return lines on the programs of a front that are not verified, none if all are."""
    if not number:
        return []
    return [
        f"not verified: {number} programs of the front; run their files with:\n"
        f"  {to_copy('verify', path, address=address)}"
    ]
