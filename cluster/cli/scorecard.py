"""The command `scorecard`: side effects of a front's programs on a battery of other inputs.

Each base model is loaded once, in this process; the programs are applied to it and removed again,
one after the other. Items with missing data are named; nothing is downloaded. The results are
written to RUN/scorecard.parquet, whole or not at all, one line per item and part
(`kilobit.evaluators.battery.side_effects.SideEffect`).

The terminal shows programs in rows, items in columns, and harm in red.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from kilobit.cluster.console import Bar, Terminal, stderr_console, wide_table
from kilobit.cluster.fleet.session import ray_kept
from kilobit.cluster.requests import ScorecardRequest, wrong_input
from kilobit.cluster.runs.folder import RunFolder, open_run
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.battery.battery import Evaluator, Row
from kilobit.evaluators.battery.config import Battery, evaluators_of, load_battery
from kilobit.evaluators.battery.side_effects import (
    SideEffect,
    compare,
    failed_line,
    judge_lines,
    trades,
)
from kilobit.evaluators.ledger.parts import DamagedError, as_parquet
from kilobit.evaluators.ledger.storage import write_whole
from kilobit.evaluators.proof.program_files import read_program
from kilobit.evaluators.statistics.paired import LEVEL
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.front.points import FrontPoint
from kilobit.search.records import RungRecord, rung_part
from kilobit.search.settings import InputError
from kilobit.search.task import Task

if TYPE_CHECKING:
    from kilobit.evaluators.model.adapted import AdaptedModel
    from kilobit.evaluators.model.base_model import FrozenModel

FILE = "scorecard.parquet"
DONE, FAILED = 0, 1
_SCHEMA = pa.schema(
    [
        ("run", pa.string()),
        ("task", pa.string()),
        ("model", pa.string()),
        ("regime", pa.string()),
        ("candidate", pa.string()),
        ("family", pa.string()),
        ("program", pa.string()),
        ("program_bits", pa.int64()),
        ("payload_bits", pa.int64()),
        ("own_score", pa.float64()),
        ("verified", pa.bool_()),
        ("certified", pa.bool_()),
        ("item", pa.string()),
        ("tag", pa.string()),
        ("better", pa.string()),
        ("num_examples", pa.int64()),
        ("base", pa.float64()),
        ("value", pa.float64()),
        ("change", pa.float64()),
        ("lower", pa.float64()),
        ("upper", pa.float64()),
        ("p", pa.float64()),
        ("verdict", pa.string()),
        ("error", pa.string()),
    ]
)
Found = list[Row] | str
"""The rows of an evaluator, or the reason why there are none."""
# Signs beside colours, for terminals and readers without colours.
_SHOWN = {"harms": ("red", " ▼"), "helps": ("green", " ▲"), None: ("", "")}


def scorecard(request: ScorecardRequest) -> int:
    """Measure the front of a run on a battery and print the side effects of its programs."""
    began = time.monotonic()
    battery, battery_folder = load_battery(request.battery)
    run = open_run(request.run)
    with wrong_input():
        groups = [points for points in RunFront(run).by_model.values() if points]
    if not groups:
        raise InputError(
            f"{request.run}: no candidate has completed the last rung: there is no front"
        )
    import torch

    from kilobit.evaluators.battery.offline import offline

    torch.set_num_threads(run.sweep.workers.threads)
    console = Terminal()
    console.quiet = request.json
    with offline(), ray_kept():
        evaluators, missing = _evaluators(battery, battery_folder)
        lines: list[SideEffect] = []
        for points in groups:
            # The bare model is measured first.
            doing = f"measuring {len(points)} programs of {points[0].model}"
            # Standard output is for the lines of JSON only.
            said = stderr_console() if request.json else console
            with Bar(said, doing, (1 + len(points)) * len(evaluators)) as bar:
                lines += measure(
                    run, points, evaluators, steps=battery.postprocess, on_each=bar.advance
                )
    for item, why in missing.items():
        lines += [failed_line(point, item, why) for points in groups for point in points]
    lines = judge_lines(lines)
    write_whole(run.path / FILE, encoded(lines))
    if request.json:
        for line in lines:
            print(json.dumps(line.as_json()))
    else:
        print_card(console, lines, missing)
        seconds = time.monotonic() - began
        console.print(f"\n{seconds:.0f} s in all; written to {run.path / FILE}")
    return FAILED if any(line.error and line.item not in missing for line in lines) else DONE


def encoded(lines: Sequence[SideEffect]) -> bytes:
    """Return the bytes of scorecard.parquet."""
    return as_parquet(pa.Table.from_pylist([line.as_json() for line in lines], schema=_SCHEMA))


def _evaluators(battery: Battery, folder: Path) -> tuple[list[Evaluator], dict[str, str]]:
    """Return the evaluators of a battery, and its items that can't run here with the reasons.

    Raises:
        InputError: if the battery can't be used.
    """
    judge = None
    if battery.safety is not None and battery.safety.judge is not None:
        from kilobit.evaluators.judges.model_judges import judge_of
        from kilobit.evaluators.model.adapted import bare

        judge = judge_of(bare(_load(battery.safety.judge, folder)))
    found, missing = evaluators_of(battery, folder, judge), {}
    for item in battery.harness:
        try:
            from kilobit.evaluators.battery.harness import HarnessEvaluator
        except ImportError as error:
            missing[item.task] = f"the harness is not installed (kilobit[bench]): {error}"
            continue
        include = None if item.include is None else folder / item.include
        try:
            found.append(
                HarnessEvaluator(item.task, item.metric, item.examples, include, item.better)
            )
        except ValueError as error:
            missing[item.task] = str(error)
    return found, missing


def measure(
    run: RunFolder,
    points: Sequence[FrontPoint],
    evaluators: Sequence[Evaluator],
    *,
    steps: bool,
    on_each: Callable[[], None] = lambda: None,
) -> list[SideEffect]:
    """Return the lines of the programs `points`, all of one base model.

    Args:
        run: the run of the programs.
        points: the programs.
        evaluators: the evaluators to run.
        steps: apply the programs' post-processing steps too.
        on_each: called after each evaluator of each program.

    Raises:
        InputError: if the base model, the run's data or a program can't be read, or the model is
            not the one that the programs were measured with.
    """
    from kilobit.evaluators.model.adapted import bare

    config = next(c for c in run.sweep.base_models if c.label == points[0].model)
    with wrong_input():
        task = load_task(run.sweep.task, run.sweep_folder)
    frozen = _load(config, run.sweep_folder)
    _check_digest(run, points, frozen)
    base = [_rows(evaluator, bare(frozen), on_each) for evaluator in evaluators]
    lines = []
    for point in points:
        for evaluator, rows, without in zip(
            evaluators,
            _rows_of(run, point, task, frozen, evaluators, steps=steps, on_each=on_each),
            base,
            strict=True,
        ):
            if isinstance(without, str):
                lines.append(failed_line(point, evaluator.name, f"bare model: {without}"))
            elif isinstance(rows, str):
                lines.append(failed_line(point, evaluator.name, rows))
            else:
                lines += compare(point, evaluator.better, rows, without)
    return lines


def _rows_of(
    run: RunFolder,
    point: FrontPoint,
    task: Task,
    frozen: "FrozenModel",
    evaluators: Sequence[Evaluator],
    *,
    steps: bool,
    on_each: Callable[[], None],
) -> list[Found]:
    from kilobit.evaluators.model.adapted import with_program

    part = rung_part(point.candidate, run.sweep.rungs.count - 1)
    try:
        program = read_program(run.ledger, part)
    except DamagedError as error:
        raise InputError(f"{error}; recompute its rung by `kilobit resume {run.path}`") from error
    specs = run.ledger.read("candidates", ["candidate", "spec"])
    (spec, *_) = specs.filter(pc.equal(specs["candidate"], point.candidate))["spec"].to_pylist()
    candidate = Candidate.model_validate_json(spec)
    with ExitStack() as stack:
        try:
            subject = stack.enter_context(
                with_program(frozen, candidate, program, task, steps=steps)
            )
        except (ValueError, RuntimeError) as error:
            return [f"it can't be applied to the model: {error}"] * len(evaluators)
        return [_rows(evaluator, subject, on_each) for evaluator in evaluators]


def _rows(evaluator: Evaluator, subject: "AdaptedModel", on_each: Callable[[], None]) -> Found:
    try:
        return evaluator.evaluate(subject)
    except (ValueError, MemoryError) as error:
        return str(error) or type(error).__name__
    finally:
        on_each()


def _load(config: BaseModelConfig, folder: Path) -> "FrozenModel":
    """Load a base model that is on this machine.

    Raises:
        InputError: if it is missing or can't be loaded.
    """
    if config.path is not None and not (folder / config.path).is_dir():
        raise InputError(f"base model {config.label}: there is no folder {folder / config.path}")
    try:
        from huggingface_hub import snapshot_download

        from kilobit.evaluators.model.base_model import load

        if config.hub is not None:
            place = snapshot_download(config.hub, revision=config.revision, local_files_only=True)
            update = {"path": Path(place), "hub": None, "revision": None}
            config = config.model_copy(update=update)
        return load(config, folder)
    except Exception as error:  # transformers and the hub raise many types here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"base model {config.label} can't be loaded: {reason}") from error


def _check_digest(run: RunFolder, points: Sequence[FrontPoint], frozen: "FrozenModel") -> None:
    for point in points:
        part = rung_part(point.candidate, run.sweep.rungs.count - 1)
        for record in run.ledger.read_part(RungRecord, part) or ():
            if not frozen.was_recorded_as(record.base_digest):
                raise InputError(
                    f"base model {point.model}: it has the digest {frozen.machine}, the programs "
                    f"were measured with {record.base_digest}"
                )


def print_card(console: Console, lines: Sequence[SideEffect], missing: Mapping[str, str]) -> None:
    """Print a table for each base model, the unavailable items, and each program's trade-offs.

    Args:
        console: the console to print to.
        lines: measured changes, with verdicts.
        missing: items that are not available on this machine, with the reason.
    """
    by_model: dict[tuple[str, str], list[SideEffect]] = {}
    for line in lines:
        by_model.setdefault((line.point.task, line.point.model), []).append(line)
    for own in by_model.values():
        _print_model(console, own)
    whole = [line for line in lines if line.tag is None]
    tested = sum(line.p is not None for line in whole)
    console.print(
        "Each change is against the bare base model on the same examples, with its own 95 % "
        f"interval. ▼ harms and ▲ helps beyond noise: the probability of any wrong mark among "
        f"all {tested} comparisons is at most {LEVEL:g}."
    )
    for item, why in missing.items():
        console.print(f"not available: {item}: {why}")
    for line in whole:
        if line.error is not None and line.item not in missing:
            console.print(f"failed: {line.point.candidate} on {line.item}: {line.error}")
    _print_trades(console, whole)


def _print_model(console: Console, lines: Sequence[SideEffect]) -> None:
    found = [line for line in lines if line.error is None]
    items = list(dict.fromkeys(line.item for line in found if line.tag is None))
    by_program: dict[str, dict[tuple[str, str | None], SideEffect]] = {}
    for line in lines:
        by_program.setdefault(line.point.candidate, {})[line.item, line.tag] = line
    first = lines[0].point
    bases = {line.item: line for line in found if line.tag is None}
    rows: list[list[str | Text]] = [
        ["bare", "", "", *(_number(bases[item].base, signed=False) for item in items)]
    ]
    for cells in by_program.values():
        about = next(iter(cells.values())).point
        certified = {None: "", True: "yes", False: "no"}[about.certified]
        own = [str(about.program_bits), f"{about.score:.3f}", certified]
        rows.append([*own, *(_cell(cells.get((item, None))) for item in items)])
    title = f"{first.task}, {first.model}: change against the bare base model"
    console.print(wide_table(console, ("bits", "score", "certified", *items), rows, title))
    _print_parts(console, [line for line in found if line.tag is not None])


def _print_parts(console: Console, lines: Sequence[SideEffect]) -> None:
    """Print the bare model's value in each part of an item, and the programs that change it."""
    by_item: dict[str, list[SideEffect]] = {}
    for line in lines:
        by_item.setdefault(line.item, []).append(line)
    for item, parts in by_item.items():
        bare = {line.tag: line for line in parts}
        each = (f"{tag} {_number(one.base, signed=False)}" for tag, one in sorted(bare.items()))
        console.print(f"  {item}, bare: {', '.join(each)}")
        changed: dict[str, list[str]] = {}
        for line in parts:
            if line.change:
                text = f"{line.tag} {_number(line.change)} of {line.num_examples}"
                program = f"{line.point.program_bits} bits, {line.point.candidate}"
                changed.setdefault(program, []).append(text)
        for program, texts in changed.items():
            console.print(f"  {item}, {program}: {', '.join(texts)}")


def _cell(line: SideEffect | None) -> Text:
    if line is None or line.error is not None:
        return Text("failed")
    style, sign = _SHOWN[line.verdict]
    if line.change == line.lower == line.upper == 0:
        # The value changed in no example.
        return Text("0")
    interval = "" if line.lower is None else f" ({_number(line.lower)} {_number(line.upper)})"
    return Text(f"{_number(line.change)}{interval}{sign}", style=style)


def _number(value: float | None, *, signed: bool = True) -> str:
    if value is None:
        return "?"
    return f"{value:+.2f}" if signed else f"{value:.2f}"


def _print_trades(console: Console, lines: Sequence[SideEffect]) -> None:
    for line, helps, harms in trades(lines):
        about = line.point
        console.print(
            f"{about.candidate} ({about.model}, {about.program_bits} bits) helps "
            f"{_changes(helps) or 'nothing here'} and harms {_changes(harms)}"
        )


def _changes(lines: Sequence[SideEffect]) -> str:
    return ", ".join(f"{line.item} {_number(line.change)}" for line in lines)
