"""The command `scorecard`: side effects of a front's programs on a battery of other inputs.

Each base model is loaded once, in this process; the programs are applied to it and removed again,
one after the other. Items with missing data are named; nothing is downloaded. The results are
written to RUN/scorecard.parquet, whole or not at all, one line per item and part
(`search.cost.Line`).
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import torch
from huggingface_hub import snapshot_download

from cluster.card import print_card
from cluster.frozen import Frozen, load
from cluster.judge import judge_of
from cluster.offline import offline
from cluster.program_files import read_program
from cluster.progress import Bar
from cluster.run_folder import RunFolder, open_run
from cluster.show import points_of
from cluster.subject import Subject, bare, with_program
from cluster.terminal import Terminal, stderr_console
from evaluators.battery import Evaluator, Row
from evaluators.parts import DamagedError, as_parquet
from evaluators.storage import write_whole
from evaluators.task import Task
from evaluators.tasks import load_task
from search.base_model import BaseModelConfig
from search.battery import Battery, evaluators_of, load_battery
from search.candidate import Candidate
from search.cost import Line, compare, failed_line, judge_lines
from search.front import FrontPoint, fronts
from search.sweep import SweepError

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


def scorecard(args: argparse.Namespace) -> int:
    """Measure the front of a run on a battery and print the side effects of its programs."""
    began = time.monotonic()
    battery, battery_folder = load_battery(args.battery)
    run = open_run(args.run)
    try:
        groups = [points for points in fronts(points_of(run)).values() if points]
    except ValueError as error:
        raise SweepError(str(error)) from error
    if not groups:
        raise SweepError(f"{args.run}: no candidate has completed the last rung: there is no front")
    torch.set_num_threads(run.sweep.workers.threads)
    console = Terminal()
    console.quiet = args.json
    with offline():
        evaluators, missing = _evaluators(battery, battery_folder)
        lines: list[Line] = []
        for points in groups:
            # The bare model is measured first.
            doing = f"measuring {len(points)} programs of {points[0].model}"
            # Standard output is for the lines of JSON only.
            said = stderr_console() if args.json else console
            with Bar(said, doing, (1 + len(points)) * len(evaluators)) as bar:
                lines += measure(
                    run, points, evaluators, steps=battery.postprocess, on_each=bar.advance
                )
    for item, why in missing.items():
        lines += [failed_line(point, item, why) for points in groups for point in points]
    lines = judge_lines(lines)
    write_whole(run.path / FILE, encoded(lines))
    if args.json:
        _print_json(lines)
    else:
        print_card(console, lines, missing)
        seconds = time.monotonic() - began
        console.print(f"\n{seconds:.0f} s in all; written to {run.path / FILE}")
    return FAILED if any(line.error and line.item not in missing for line in lines) else DONE


def encoded(lines: Sequence[Line]) -> bytes:
    """Return the bytes of scorecard.parquet."""
    return as_parquet(pa.Table.from_pylist([line.as_json() for line in lines], schema=_SCHEMA))


def _print_json(lines: Sequence[Line]) -> None:
    import json

    for line in lines:
        print(json.dumps(line.as_json()))


def _evaluators(battery: Battery, folder: Path) -> tuple[list[Evaluator], dict[str, str]]:
    """Return the evaluators of a battery, and its items that can't run here with the reasons.

    Raises:
        SweepError: if the battery can't be used.
    """
    judge = None
    if battery.safety is not None and battery.safety.judge is not None:
        judge = judge_of(bare(_load(battery.safety.judge, folder)))
    found, missing = evaluators_of(battery, folder, judge), {}
    for item in battery.harness:
        try:
            from cluster.harness import HarnessEvaluator
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
) -> list[Line]:
    """Return the lines of the programs `points`, all of one base model.

    Args:
        run: the run of the programs.
        points: the programs.
        evaluators: the evaluators to run.
        steps: apply the programs' post-processing steps too.
        on_each: called after each evaluator of each program.

    Raises:
        SweepError: if the base model, the run's data or a program can't be read, or the model is
            not the one that the programs were measured with.
    """
    config = next(c for c in run.sweep.base_models if c.label == points[0].model)
    try:
        task = load_task(run.sweep.task, run.sweep_folder)
    except ValueError as error:
        raise SweepError(str(error)) from error
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
    frozen: Frozen,
    evaluators: Sequence[Evaluator],
    *,
    steps: bool,
    on_each: Callable[[], None],
) -> list[Found]:
    part = f"{point.candidate}-r{run.sweep.rungs.count - 1}"
    try:
        program = read_program(run.ledger, part)
    except DamagedError as error:
        raise SweepError(f"{error}; recompute its rung by `kilobit resume {run.path}`") from error
    specs = run.ledger.rows("candidates", ["candidate", "spec"])
    spec = next(row["spec"] for row in specs if row["candidate"] == point.candidate)
    candidate = Candidate.model_validate_json(spec)
    with ExitStack() as stack:
        try:
            subject = stack.enter_context(
                with_program(frozen, candidate, program, task, steps=steps)
            )
        except (ValueError, RuntimeError) as error:
            return [f"it can't be applied to the model: {error}"] * len(evaluators)
        return [_rows(evaluator, subject, on_each) for evaluator in evaluators]


def _rows(evaluator: Evaluator, subject: Subject, on_each: Callable[[], None]) -> Found:
    try:
        return evaluator.evaluate(subject)
    except (ValueError, MemoryError) as error:
        return str(error) or type(error).__name__
    finally:
        on_each()


def _load(config: BaseModelConfig, folder: Path) -> Frozen:
    """Load a base model that is on this machine.

    Raises:
        SweepError: if it is missing or can't be loaded.
    """
    if config.path is not None and not (folder / config.path).is_dir():
        raise SweepError(f"base model {config.label}: there is no folder {folder / config.path}")
    try:
        if config.hub is not None:
            place = snapshot_download(config.hub, revision=config.revision, local_files_only=True)
            update = {"path": Path(place), "hub": None, "revision": None}
            config = config.model_copy(update=update)
        return load(config, folder)
    except Exception as error:  # transformers and the hub raise many types here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SweepError(f"base model {config.label} can't be loaded: {reason}") from error


def _check_digest(run: RunFolder, points: Sequence[FrontPoint], frozen: Frozen) -> None:
    for point in points:
        part = f"{point.candidate}-r{run.sweep.rungs.count - 1}"
        for row in run.ledger.read_part("rungs", part) or ():
            if row["base_digest"] not in (None, frozen.digest):
                raise SweepError(
                    f"base model {point.model}: its weights have the digest {frozen.digest}, the "
                    f"programs were measured with {row['base_digest']}"
                )
