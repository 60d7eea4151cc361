"""The commands `front` and `results`: fronts, base models compared, and the table of results.

Imported points have fronts of their own, and no place among the results.
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import prod

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from kilobit.cluster.console import Terminal, wide_table
from kilobit.cluster.requests import FrontRequest, ResultsRequest, wrong_input
from kilobit.cluster.runs.fronts import (
    UNKNOWN_NET,
    Front,
    print_front,
    range_text,
)
from kilobit.cluster.runs.result_sources import Imported, Source, apart_lines, open_sources
from kilobit.evaluators.ledger.storage import Place
from kilobit.search.front.complexity import (
    BASELINES,
    AdapterSize,
    Collapse,
    Lengths,
    Result,
    collapses,
    rows_of,
)
from kilobit.search.front.complexity import results as rows_of_results
from kilobit.search.front.pareto import bjontegaard
from kilobit.search.front.points import (
    OF_A_CANDIDATE,
    FrontPoint,
    ImportedPoint,
    bare_scores,
    fronts,
    imported_fronts,
    imported_points,
)
from kilobit.search.programs.recipe import Recipe
from kilobit.search.settings import InputError, Ruler

# Headings of the table of results; the last four are factors.
RESULT_HEADS = ("task", "base model", "bare score", "target", "proof", "program bits", "bytes",
          "payload bits", "net bits", "LoRA r=1 (16 bits)", "PEFT file", "full fine-tuning",
          "random model", "candidate")  # fmt: skip


def imported_points_of(
    sources: Sequence[Imported], length: Ruler | None
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
    console: Console, points: Sequence[ImportedPoint], num_without: int, length: Ruler | None
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
            "interval": [range_text(p.lower, p.upper) for p in front],
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
        shown = length or (points[0].length if points else "program")
        other = "program" if shown == "payload" else "payload"
        console.print(f"  {num_without} imported points lack this length; try --length {other}")


def print_regimes(
    console: Console, points: Sequence[FrontPoint], order: Sequence[str], targets: Sequence[float]
) -> None:
    """Print the shortest program of each base model for each score, if a task has several models.

    Args:
        console: where to print.
        points: programs of any tasks and base models.
        order: labels of base models, from the least to the most trained.
        targets: scores to reach.
    """
    for task in dict.fromkeys(point.task for point in points):
        own = [point for point in points if point.task == task]
        # Base models without net bits have another length, which compares with nothing.
        length: Ruler = "net" if any(p.length == "net" for p in own) else own[0].length
        own = of_one_length(own, length)
        models = [label for label in dict.fromkeys(order) if any(p.model == label for p in own)]
        if len(models) > 1:
            _print_task(console, task, own, models, targets)


def _print_task(
    console: Console,
    task: str,
    points: Sequence[FrontPoint],
    models: Sequence[str],
    targets: Sequence[float],
) -> None:
    of_scores = rows_of(points, models, targets)
    rows = [
        [f"≥ {score:g}{' target' if score in targets else ''}", *map(_cell, each)]
        for score, each in of_scores
    ]
    any_certified = any(found.certified is not None for _, each in of_scores for found in each)
    of_these = " (of these certified)" if any_certified else ""
    title = f"{task}: shortest program in {points[0].length} bits{of_these}"
    console.print(wide_table(console, ("score", *models), rows, title))
    any_found = False
    for target in targets:
        for one in collapses(points, models, target):
            any_found = True
            how = "certified" if one.certified else "found, not certified"
            console.print(
                f"  score ≥ {target:g}, {one.before} to {one.after}: {_factor(one)} ({how}); "
                f"{one.after} holds at most {one.information} bits of "
                f"information about this task that {one.before} does not"
            )
            by_each = (f"{factor:.2f} by {length} bits" for length, factor in one.factors.items())
            console.print(f"    {', '.join(by_each)}")
    if any_found:
        console.print(
            "  The last number is an upper bound, as certain as the program's score: the first "
            "model with that\n  program does the task. The factor compares the programs found. It "
            "proves nothing about the\n  ratio of complexities, because a shorter program may "
            "exist under either model, and no lower\n  bound is known."
        )


def _factor(one: Collapse) -> str:
    if one.factor < 1:
        return f"{one.after} needs {1 / one.factor:.2f} times as many bits"
    return f"collapse by a factor of {one.factor:.2f}"


def _cell(found: Lengths) -> str:
    if found.found is None and found.certified is None:
        return "not reached"
    certified = "" if found.certified is None else f" ({found.certified})"
    return f"{'?' if found.found is None else found.found}{certified}"


def of_one_length(points: Sequence[FrontPoint], length: Ruler) -> list[FrontPoint]:
    """Return the points that have a length: without a bare question there are no net bits."""
    return [point for point in points if point.length == length]


def front(request: FrontRequest) -> int:
    """Print the fronts of one or more runs, and of imported points."""
    sources, others = open_sources(request.runs)
    sweeps = [source.sweep for source in sources]
    length = request.length or next((sweep.length for sweep in sweeps), None)
    with wrong_input():
        found = Front(_points(sources, request.length))
        imported, num_without = imported_points_of(others, length)
        lines = list(_against(found, imported, request.against, length))
    if request.json:
        ours = [point.as_json() for point in found.on_front]
        theirs = [point.as_json() for each in imported_fronts(imported).values() for point in each]
        for line in ours + theirs + lines:
            print(json.dumps(line))
        return 0
    targets = sorted({target for sweep in sweeps for target in sweep.targets})
    console = Terminal()
    for words in apart_lines(sources):
        console.print(words)
    if sweeps:
        print_front(console, found, targets)
        order = [model.label for sweep in sweeps for model in sweep.base_models]
        print_regimes(console, found.points, order, targets)
    print_imported(console, imported, num_without, length)
    for line in lines:
        console.print(_against_text(line))
    return 0


def _points(sources: Sequence[Source], length: Ruler | None) -> list[FrontPoint]:
    return [point for source in sources for point in source.points(length)]


def _against(
    found: Front,
    imported: Sequence[ImportedPoint],
    place: Place | None,
    length: Ruler | None,
) -> Iterator[dict[str, object]]:
    """Yield the difference of each front from that of the same task and base model elsewhere."""
    if place is None:
        return
    sources, others = open_sources([place])
    length = length or next((point.length for point in imported), None)
    theirs, _ = imported_points_of(others, length)
    groups = []
    for own, published in ((found.points, imported), (_points(sources, length), theirs)):
        each: dict[tuple[str | None, str | None], Sequence[FrontPoint | ImportedPoint]] = {}
        each.update(imported_fronts(published))
        of_runs = fronts(of_one_length(own, length) if length else own)
        each.update({(task, model): front for (task, model), front in of_runs.items()})
        groups.append(each)
    both = [key for key in groups[0] if key in groups[1]]
    if not both:
        raise InputError(
            f"--against {place}: it has no front of the same task and base model by {length} bits"
        )
    for task, model in both:
        one = bjontegaard(groups[0][task, model], groups[1][task, model])
        yield {"against": str(place), "task": task, "model": model, "length": length} | (
            {"doublings": None, "factor": None, "low": None, "high": None}
            if one is None
            else {**asdict(one), "factor": 2**one.doublings}
        )


def _against_text(line: dict[str, object]) -> str:
    start = f"{line['task']}, {line['model']} against {line['against']}: "
    if line["doublings"] is None:
        return start + "no score is reached by both fronts above their lowest"
    return start + (
        f"{line['factor']:.3f} times the {line['length']} bits on average "
        f"(Bjøntegaard, {line['doublings']:+.2f} doublings, over scores {line['low']:.3f} to "
        f"{line['high']:.3f})"
    )


def results_of(
    sources: Sequence[Source], points: Sequence[FrontPoint], length: Ruler
) -> list[Result]:
    """Return the table of results, task by task.

    Args:
        sources: the runs.
        points: their completed programs.
        length: the length to compare by; points by another one lack it and are left out.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
    """
    points = of_one_length(points, length)
    rows = []
    for task in dict.fromkeys(point.task for point in points):
        own = [source for source in sources if source.sweep.task.name == task]
        # A data set may hold a candidate under a run of the same task by another name.
        own = own or list(sources)
        targets = sorted({target for source in own for target in source.sweep.targets})
        adapters: dict[tuple[str, str], AdapterSize] = {}
        num_parameters: dict[str, int] = {}
        random: set[str] = set()
        asked: dict[str, tuple[int, float]] = {}
        for source in own:
            workers = source.read("workers", ["model", "num_parameters"])
            for label, number in zip(*(c.to_pylist() for c in workers.columns), strict=True):
                num_parameters |= {} if number is None else {label: number}
            rungs = source.read("rungs", ["candidate", "num_examples", "score", "payload_bits"])
            for (name, label), one in bare_scores(
                source.read("candidates", OF_A_CANDIDATE), rungs
            ).items():
                if name == task:
                    asked[label] = max(one, asked.get(label, one))
            for config in source.sweep.base_models:
                random |= {config.label} if config.weights == "random" else set()
            wanted = [
                point.candidate
                for point in points
                if point.run == source.name
                and point.family == "lora"
                and point.score >= min(targets, default=1.0)
            ]
            if wanted:
                sizes = _sizes(source, wanted)
                adapters |= {(source.name, name): size for name, size in sizes.items()}
        of_task = [point for point in points if point.task == task]
        rows += rows_of_results(of_task, targets, adapters, num_parameters, random, asked)
    return rows


def length_of(sources: Sequence[Source], asked: Ruler | None) -> Ruler:
    """Return the length by which the programs of some runs are compared.

    Raises:
        InputError: if none is asked for and the runs differ in it.
    """
    each: dict[Ruler, str] = {source.sweep.length: source.name for source in sources}
    if asked is None and len(each) > 1:
        said = ", ".join(f"{name} by {length} bits" for length, name in each.items())
        raise InputError(f"the runs compare programs differently ({said}): give --length")
    return next(iter(each)) if asked is None else asked


def _sizes(source: Source, candidates: Sequence[str]) -> dict[str, AdapterSize]:
    """Return the sizes of the adapters of LoRA candidates, those that change nothing left out."""
    rows = source.read("programs", ["candidate", "rung", "recipe"])
    last = source.sweep.rungs.count - 1
    chosen = pc.and_(
        pc.equal(rows["rung"], last),
        pc.is_in(rows["candidate"], value_set=pa.array(candidates, pa.string())),
    )
    found = {}
    for row in rows.filter(chosen).to_pylist():
        part = Recipe.model_validate_json(row["recipe"]).adapter
        if part is not None:
            numbers = sum(map(prod, part.shapes))
            size = AdapterSize(part.arguments.get("r", 8), numbers, least_file_bytes(part.shapes))
            found[row["candidate"]] = size
    return found


def least_file_bytes(shapes: Sequence[tuple[int, int]]) -> int:
    """Return at least the bytes of the safetensors file that PEFT saves for these tensors.

    Eight bytes for the length of the header; the header without the names of the tensors, which
    are those of the base model's modules and not in a ledger, and without their places in the
    file; four bytes a number.
    """
    entries = [f'"":{{"dtype":"F32","shape":[{a},{b}],"data_offsets":[0,4]}}' for a, b in shapes]
    header = ",".join(['{"__metadata__":{"format":"pt"}', *entries]) + "}"
    return 8 + len(header) + 4 * sum(map(prod, shapes))


def result_cells(row: Result) -> list[str]:
    """Return the cells of a row of the table of results; a dash where there is no value."""

    def whole(value: int | None) -> str:
        return "-" if value is None else str(value)

    bare = "-"
    if row.bare_score is not None:
        bare = f"{row.bare_score:.3f} ({row.bare_num_examples})"
    model = row.model if row.regime == row.model else f"{row.model} ({row.regime})"
    factors = ("-" if (f := row.factors[name]) is None else f"{f:.1f}" for name in BASELINES)
    proof = row.proof or ("not verified" if row.reached else "not reached")
    found = row.as_json()
    bits = (found[name] for name in ("program_bits", "num_bytes", "payload_bits", "net_bits"))
    return [row.task, model, bare, f"≥ {row.target:g}", proof, *map(whole, bits), *factors,
            found["candidate"] or "-"]  # fmt: skip


def results(request: ResultsRequest) -> int:
    """Print the table of results of one or more runs."""
    sources, others = open_sources(request.runs)
    if not sources:
        raise InputError("there is no run in it, only imported points: `kilobit front` shows them")
    length = length_of(sources, request.length)
    with wrong_input():
        rows = results_of(sources, _points(sources, length), length)
    if request.json:
        for row in rows:
            print(json.dumps(row.as_json()))
        return 0
    cells = [result_cells(row) for row in rows]
    if request.format == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([RESULT_HEADS, *cells])
        return 0
    if request.format == "markdown":
        for line in (RESULT_HEADS, ["---"] * len(RESULT_HEADS), *cells):
            print(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |")
        return 0
    console = Terminal()
    for words in apart_lines(sources):
        console.print(words)
    if not rows:
        console.print(
            f"{UNKNOWN_NET}: --length program"
            if length == "net"
            else "No candidate has completed the last rung yet: there are no results."
        )
        return 0
    title = f"shortest programs in {length} bits"
    console.print(wide_table(console, RESULT_HEADS, cells, title))
    console.print(
        f"  The last four numbers of a row are factors: the bits of another way over the {length} "
        "bits of the\n  program. LoRA: 16 bits for each number of the smallest adapter of rank 1 "
        "here that reaches the target.\n  PEFT: the least bytes of its file for the smallest LoRA "
        "that does. Full fine-tuning: 16 bits for\n  each parameter, a count and no measurement. "
        "Random model: its shortest program that does. A dash:\n  nothing here reaches the "
        "target, or it is unknown. Bare score: that of the question alone\n  (on so many examples)."
    )
    if others:
        console.print("  Imported points have no place here: their files were not run")
    return 0
