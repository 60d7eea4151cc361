"""From ledger rows to the front: which programs count, how they compare, and what a line says.

A candidate stands for itself with the result of its last rung. Only candidates that completed the
whole ladder are on the front: scores on fewer examples are not comparable with theirs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search.pareto import pareto_front
from search.programs.program import Length
from search.rungs import Rung


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
    split: str
    verified: bool | None
    certified: bool | None
    program: str
    length: Length = "program"

    @property
    def bits(self) -> int:
        """Return the length by which this point is compared with others of its front."""
        return self.program_bits if self.length == "program" else self.payload_bits

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this point."""
        return asdict(self)


def complete_points(
    run: str,
    candidates: Sequence[Mapping[str, Any]],
    rungs: Sequence[Mapping[str, Any]],
    verifications: Sequence[Mapping[str, Any]],
    last_rung: Rung,
    length: Length,
) -> list[FrontPoint]:
    """Return a point for every candidate that has a score at `last_rung`, in their order.

    A program whose files did not give its predictions is no point.

    Args:
        run: what the points call their run.
        candidates: rows of the ledger's `candidates`.
        rungs: rows of the ledger's `rungs`.
        verifications: rows of the ledger's `verifications`.
        last_rung: the last rung of the ladder.
        length: by which the points are compared.
    """
    scored = {
        row["candidate"]: row
        for row in rungs
        if row["rung"] == last_rung.index
        and row["score"] is not None
        # One that lost its race there was not scored on all examples.
        and row["num_examples"] == last_rung.num_examples
    }
    verified = {row["program"]: row["verified"] for row in verifications}
    points = []
    for about in candidates:
        row = scored.get(about["candidate"])
        if row is None or verified.get(row["program"]) is False:
            continue
        points.append(
            FrontPoint(
                run=run,
                task=about["task"],
                model=about["model"],
                regime=about["regime"],
                candidate=row["candidate"],
                family=about["family"],
                program_bits=row["program_bits"],
                payload_bits=row["payload_bits"],
                score=row["score"],
                lower=row["lower"],
                upper=row["upper"],
                num_examples=row["num_examples"],
                split=row["split"],
                verified=verified.get(row["program"]),
                certified=None,
                program=row["program"],
                length=length,
            )
        )
    return points


def fronts(points: Sequence[FrontPoint]) -> dict[tuple[str, str], list[FrontPoint]]:
    """Return the Pareto front of each (task, model), in the order in which they first appear."""
    groups: dict[tuple[str, str], list[FrontPoint]] = {}
    for point in points:
        groups.setdefault((point.task, point.model), []).append(point)
    return {key: pareto_front(group) for key, group in groups.items()}
