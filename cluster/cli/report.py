"""The command `report`: one or more runs as one HTML file, and as figures for print."""

import io
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kilobit.cluster.cli.front import (
    RESULT_HEADS,
    imported_points_of,
    length_of,
    of_one_length,
    result_cells,
    results_of,
)
from kilobit.cluster.console import Terminal
from kilobit.cluster.requests import ReportRequest, wrong_input
from kilobit.cluster.runs.access import check_writable
from kilobit.cluster.runs.history import SearchHistory, most_common
from kilobit.cluster.runs.report_parts import origin_of, shown_points, shown_programs
from kilobit.cluster.runs.result_sources import Source, apart_lines, open_sources
from kilobit.evaluators.ledger.parts import checked
from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.evaluators.merge.published_points import parse_columns, read_overlay
from kilobit.evaluators.report.contents import (
    Needed,
    Published,
    Report,
    RungCount,
    ShownModel,
    ShownTask,
)
from kilobit.search.front.complexity import collapses, rows_of
from kilobit.search.front.points import FrontPoint, ImportedPoint, imported_fronts
from kilobit.search.settings import InputError, Ruler

DONE, FAILED = 0, 1
_MEBIBYTE = 1 << 20
_PAGES = (".html", ".htm")


def report(request: ReportRequest) -> int:
    """Write the report of runs, and figures if `--figures` is given."""
    began = time.monotonic()
    out = page_path(request.runs, request.out)
    with wrong_input():
        columns = _columns(request.overlay, request.columns)
        runs, imported = open_sources(request.runs)
        check_writable(str(out) if request.out is None else f"-o {out}", out.parent)
        if request.figures is not None:
            check_writable(f"--figures {request.figures}", request.figures)
        sources = _distinct(runs)
        asked = length_of(sources, request.length) if sources else request.length
        points, num_without = imported_points_of(imported, asked)
        if not sources and not points:
            raise InputError(
                f"none of the {num_without} imported points has {request.length} bits, and there "
                "is no run: give another --length"
            )
        length = asked or points[0].length
        overlay = [p for path in request.overlay for p in read_overlay(path, columns, length)]
        overlay += _imported(points)
        made = make(sources, length, overlay, out, ", ".join(one.name for one in imported))
    console = Terminal()
    for words in apart_lines(sources):
        console.print(words)
    if sources and not made.programs:
        console.print("No candidate has completed the last rung yet: there is no front.")
    for program in made.programs:
        if program.trouble:
            console.print(f"can't be read: {program.trouble}")
    from kilobit.evaluators.report.page import page

    content = page(made)
    write_whole(out, content)
    shown = len(made.programs)
    more = f", {made.num_completed - shown} more not shown" if made.num_completed > shown else ""
    drawn = "" if sources else f", {len(overlay)} published points on fronts"
    console.print(
        f"{shown} programs{more}{drawn}; {len(content) / _MEBIBYTE:.1f} MiB in "
        f"{time.monotonic() - began:.1f} s: {out}"
    )
    if request.figures is not None:
        _write_figures(console, made, request.figures)
    return FAILED if any(program.trouble for program in made.programs) else DONE


def make(
    sources: Sequence[Source],
    length: Ruler,
    overlay: Sequence[Published] = (),
    out: Place | None = None,
    title: str = "",
) -> Report:
    """Return the content of a report of some sources.

    Args:
        sources: sources with distinct names.
        length: the length by which programs are compared.
        overlay: published points.
        out: the page's path, which links to programs start from.
        title: the heading if there is no run.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
    """
    models, points = _models(sources), list[FrontPoint]()
    courses, rungs, reasons, errors = [], [], [], []
    num_coarser = 0
    for source in sources:
        own = source.points(length)
        search = SearchHistory(source)
        courses += search.courses(own)
        rungs += search.rung_counts()
        reasons += search.reasons()
        errors += search.errors()
        num_coarser += search.num_coarser(own)
        points += own
    on_front, others = shown_points(points)
    labels = [model.label for model in models]
    return Report(
        title=", ".join(source.name for source in sources) or title,
        made_at=_made_at(),
        length=length,
        models=models,
        tasks=_tasks(sources, points, [*on_front, *others], length)
        if sources
        else _published_tasks(overlay),
        programs=shown_programs(sources, on_front, others, out),
        num_completed=len(points),
        num_coarser=num_coarser,
        courses=sorted(courses, key=lambda one: labels.index(one.model)),
        rungs=_merged(rungs),
        reasons=most_common(reasons),
        errors=most_common(errors),
        scorecard=_scorecard(sources),
        overlay=overlay,
        origins=[origin_of(source) for source in sources],
        results=[list(RESULT_HEADS), *map(result_cells, results_of(sources, points, length))],
    )


def page_path(runs: Sequence[Place], out: Place | None) -> Place:
    """Return the path of the page.

    Raises:
        InputError: if it is ambiguous, a folder, or has another ending than HTML files.
    """
    if out is None and len(runs) > 1:
        raise InputError("a report of several runs has no default path: give -o FILE.html")
    out = runs[0] / "report.html" if out is None else out
    if isinstance(out, Path) and out.is_dir():
        raise InputError(f"-o {out}: that is a folder; give a file such as {out / 'report.html'}")
    if not out.name.lower().endswith(_PAGES):
        raise InputError(
            f"-o {out}: a report is one HTML file: its name ends in {' or '.join(_PAGES)} "
            "(--figures DIR writes pictures as PDF and PNG)"
        )
    return out


def _columns(paths: Sequence[Path], columns: str | None) -> dict[str, str]:
    if columns is not None and not paths:
        raise InputError("--columns belongs to --overlay FILE")
    return parse_columns(columns)


def _published_tasks(overlay: Sequence[Published]) -> list[ShownTask]:
    """Return the tasks of published points alone; what has no task is in each of them."""
    names = list(dict.fromkeys(one.task for one in overlay if one.task is not None))
    return [ShownTask(name, [], [], [], [], {}) for name in names or ["unknown task"]]


def _imported(points: Sequence[ImportedPoint]) -> list[Published]:
    """Return the fronts of imported points, labelled by base model."""
    return [
        Published(
            label=f"{point.model or point.run} (imported)",
            bits=point.bits,
            score=point.score,
            lower=point.lower,
            upper=point.upper,
            task=point.task,
        )
        for front in imported_fronts(points).values()
        for point in front
    ]


def _distinct(sources: Sequence[Source]) -> list[Source]:
    """Return the sources with distinct names.

    Raises:
        InputError: if one is given twice.
    """
    places = Counter(str(source.place) for source in sources)
    twice = next((place for place, count in places.items() if count > 1), None)
    names = Counter(source.name for source in sources)
    renamed = [
        source if names[source.name] == 1 else replace(source, name=str(source.place))
        for source in sources
    ]
    if len({source.name for source in renamed}) < len(renamed):
        raise InputError(f"{twice} is given twice")
    return renamed


def _made_at() -> str:
    try:
        made_by = f"kilobit {version('kilobit')}"
    except PackageNotFoundError:
        made_by = "kilobit"
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by {made_by}"


def _models(sources: Sequence[Source]) -> list[ShownModel]:
    """Return the base models of all sources in the sweeps' order, the least trained first."""
    regimes: dict[str, str] = {}
    for source in sources:
        for config in source.sweep.base_models:
            regimes.setdefault(config.label, config.regime)
    return [ShownModel(label, regime, n) for n, (label, regime) in enumerate(regimes.items())]


def _tasks(
    sources: Sequence[Source],
    points: Sequence[FrontPoint],
    shown: Sequence[FrontPoint],
    length: Ruler,
) -> list[ShownTask]:
    """Return the tasks with the shortest programs of each base model.

    The shown points suffice: the shortest programs of a base model are on its front, and the
    shortest certified ones have a certificate, and all of these are shown.
    """
    order = [config.label for source in sources for config in source.sweep.base_models]
    completed = Counter((point.task, point.model) for point in points)
    # A run without any point still names its task.
    names = [*(point.task for point in points), *(source.sweep.task.name for source in sources)]
    tasks = []
    for name in dict.fromkeys(names):
        own = of_one_length([point for point in shown if point.task == name], length)
        runs = [s for s in sources if s.sweep.task.name == name] or list(sources)
        targets = sorted({target for source in runs for target in source.sweep.targets})
        models = [label for label in dict.fromkeys(order) if completed[name, label]]
        lacking = {p.model for p in shown if p.task == name and p.length != length}
        models = [label for label in models if label not in lacking]
        found = [one for target in targets for one in collapses(own, models, target)]
        tasks.append(
            ShownTask(
                name=name,
                targets=targets,
                models=models,
                needed=_needed(own, models, targets),
                collapses=[asdict(one) for one in found],
                num_completed={label: completed[name, label] for label in models},
                lacking=sorted(lacking),
            )
        )
    return tasks


def _needed(
    points: Sequence[FrontPoint], models: Sequence[str], targets: Sequence[float]
) -> list[Needed]:
    return [
        Needed(
            target,
            target in targets,
            {model: one.found for model, one in zip(models, each, strict=True)},
            {model: one.certified for model, one in zip(models, each, strict=True)},
        )
        for target, each in rows_of(points, models, targets)
    ]


def _merged(counts: Iterable[RungCount]) -> list[RungCount]:
    """Return the counts, summed over all runs."""
    found: dict[tuple[str, str, int, int], list[int]] = {}
    for one in counts:
        key = (one.task, one.model, one.rung, one.num_examples)
        total = found.setdefault(key, [0, 0, 0, 0])
        for position, value in enumerate((one.went_on, one.stopped, one.failed, one.coarser)):
            total[position] += value
    return [RungCount(*key, *total) for key, total in found.items()]


def _scorecard(sources: Sequence[Source]) -> list[dict[str, Any]] | None:
    """Return the lines of all scorecards, None if no run has one.

    Raises:
        ValueError: naming the run, if one is damaged.
    """
    lines: list[dict[str, Any]] = []
    for source in sources:
        content = source.scorecard()
        if content is None:
            continue
        try:
            rows = pq.read_table(io.BytesIO(checked(content))).to_pylist()
            lines += [row | {"run": source.name, "item": str(row["item"])} for row in rows]
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{source.home / 'scorecard.parquet'}: {error}") from error
    return lines or None


def _write_figures(console: Terminal, made: Report, folder: Path) -> None:
    from kilobit.evaluators.figures.all import figures

    for name, content in figures(made):
        write_whole(folder / name, content)
    console.print(f"pictures: {folder}")
