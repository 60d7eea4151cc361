"""Imported points (published elsewhere) in the output of the command `front`."""

from collections.abc import Sequence

from rich.console import Console

from cluster.sources import Imported
from cluster.terminal import wide_table
from search.imported import ImportedPoint, imported_fronts, imported_points
from search.programs.program import Length


def imported_points_of(
    sources: Sequence[Imported], length: Length | None
) -> tuple[list[ImportedPoint], int]:
    """Return the imported points of these sources, and the number that lack the length.

    Args:
        sources: the imported data.
        length: the length to compare by; None for the one that most of the points have.

    Raises:
        ValueError: naming the file, if one is damaged.
    """
    rows = [(source.name, row) for source in sources for row in source.points().to_pylist()]
    if length is None:
        known = {kind: sum(row[f"{kind}_bits"] is not None for _, row in rows)
                 for kind in ("program", "payload")}  # fmt: skip
        length = "program" if known["program"] >= known["payload"] else "payload"
    points = [point for name, row in rows for point in imported_points(name, [row], length)]
    return points, len(rows) - len(points)


def print_imported(
    console: Console, points: Sequence[ImportedPoint], num_without: int, length: Length | None
) -> None:
    """Print the fronts of imported points.

    Args:
        console: where to print.
        points: those that have the length.
        num_without: number of points that lack it.
        length: the length that was asked for, None if none was.
    """
    for (task, model), front in imported_fronts(points).items():
        columns = {
            "program": ["" if p.program_bits is None else str(p.program_bits) for p in front],
            "payload": ["" if p.payload_bits is None else str(p.payload_bits) for p in front],
            "score": [f"{p.score:.3f}" for p in front],
            "interval": [_range(p) for p in front],
            "family": [p.family or "" for p in front],
            "verified": ["imported" for _ in front],
            "candidate": [p.candidate or "" for p in front],
            "from": [p.run for p in front],
        }
        title = (
            f"{task or 'unknown task'}, {model or 'unknown model'}: imported, by "
            f"{front[0].length} bits as published"
        )
        console.print(wide_table(console, columns, zip(*columns.values(), strict=True), title))
    if points:
        console.print("  imported: these files were not run here, and no complexity counts them")
    if num_without:
        other = "payload" if (length or _length_of(points)) == "program" else "program"
        console.print(f"  {num_without} imported points lack this length; try --length {other}")


def _length_of(points: Sequence[ImportedPoint]) -> Length:
    return points[0].length if points else "program"


def _range(point: ImportedPoint) -> str:
    if point.lower is None or point.upper is None:
        return ""
    return f"{point.lower:.3f} - {point.upper:.3f}"
