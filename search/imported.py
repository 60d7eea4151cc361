"""Published points, beside the points of runs and never among them.

Their programs were not run here: lengths and scores come from a table, are often measured on other
splits, and often count other parts of a program. So they have fronts of their own, and no
complexity is read off them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search.pareto import pareto_front
from search.programs.program import Length


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
    length: Length = "program"
    certificate: None = None
    imported: bool = True

    @property
    def bits(self) -> int:
        """Return the length by which this point is compared with other points of its front."""
        found = self.program_bits if self.length == "program" else self.payload_bits
        assert found is not None, "the point lacks the length by which its front is compared"
        return found

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this point."""
        return asdict(self)


def imported_points(
    run: str, rows: Iterable[Mapping[str, Any]], length: Length
) -> list[ImportedPoint]:
    """Return the points of a table that have the given length, in their order.

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
        if row[f"{length}_bits"] is not None
    ]


def imported_fronts(
    points: Sequence[ImportedPoint],
) -> dict[tuple[str | None, str | None], list[ImportedPoint]]:
    """Return the Pareto front of each (task, model), in the order in which they first appear."""
    groups: dict[tuple[str | None, str | None], list[ImportedPoint]] = {}
    for point in points:
        groups.setdefault((point.task, point.model), []).append(point)
    return {key: pareto_front(group) for key, group in groups.items()}
