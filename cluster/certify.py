"""The command `certify`: runs the programs of the fronts once on the sealed split.

A program's outputs are written as soon as it has ended, so an interrupted certification resumes
with the remaining programs. Bounds are written after all have run, because they hold jointly.
"""

import argparse
import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console

from cluster.openings import Chosen, Opening, choose, open_sealed
from cluster.progress import followed, waiting
from cluster.proofs import VERIFY_TIMEOUT_S, at_once, verify_front
from cluster.run_folder import RunFolder, reopen_run
from cluster.sandbox import ProgramFailedError
from cluster.seeds import print_seeds, refuse_same_seeds
from cluster.show import num_lost, num_running, points_of, print_front, print_left_out
from cluster.terminal import Terminal
from evaluators.certification import Bounds
from evaluators.storage import Place
from evaluators.task import Task
from search.front import FrontPoint
from search.sweep import SweepError

SPLIT = "sealed"
DONE, FAILED, INTERRUPTED = 0, 1, 130


def certify(args: argparse.Namespace) -> int:
    """Certify the fronts of one or more runs and print the bounds."""
    seen: set[Place] = set()
    for path in args.runs:
        if path.resolve() in seen:
            raise SweepError(f"{path} is named twice: give each run once")
        seen.add(path.resolve())
    with ExitStack() as held:
        return _certify_held([held.enter_context(reopen_run(path)) for path in args.runs], args)


def _certify_held(runs: Sequence[RunFolder], args: argparse.Namespace) -> int:
    console = Terminal()
    refuse_same_seeds(runs)
    for run in runs:
        print_left_out(console, run)
        try:
            left, lost = num_running(run), num_lost(run)
        except ValueError as error:
            raise SweepError(str(error)) from error
        if lost:
            # A sealed split is opened for one choice of programs, so the front must be complete.
            console.print(
                f"nothing is certified: {lost} rungs are damaged; first compute them again:\n"
                f"  kilobit resume {run.path}"
            )
            return FAILED
        if left:
            console.print(
                f"{left} candidates of {run.path} have not ended: certifying programs that they "
                "may still add to the front needs --again"
            )
    try:
        failed = certify_runs(runs, console, args.timeout, again=args.again)
    except KeyboardInterrupt:
        names = shlex.join(str(path) for path in args.runs)
        console.print(
            "\ninterrupted; the outputs of programs that have ended are kept. Go on with:\n"
            f"  kilobit certify {names}"
        )
        return INTERRUPTED
    found = [(run.sweep.seed, points_of(run)) for run in runs]
    targets = sorted({target for run in runs for target in run.sweep.targets})
    print_front(console, [point for _, points in found for point in points], targets)
    if len(runs) > 1:
        print_seeds(console, found, targets)
    return FAILED if failed else DONE


def certify_runs(
    runs: Sequence[RunFolder],
    console: Console,
    timeout_s: int = VERIFY_TIMEOUT_S,
    *,
    again: bool = False,
) -> list[str]:
    """Certify the fronts of runs; runs that share a sealed split are certified together.

    Args:
        runs: the runs to certify; programs that are not verified yet are verified first.
        console: the console that shows progress.
        timeout_s: wall-clock limit for one program, in seconds.
        again: certify even if the sealed split was opened before for other programs.

    Returns:
        A line for each program that failed.

    Raises:
        SealedError: if the sealed split was opened before for other programs, and not `again`.
        SweepError: if there is nothing to certify, or something can't be read.
        OSError: if a ledger can't be written.
    """
    for run in runs:
        verify_front(run, console, timeout_s)
    # Choose all programs before the sealed split is opened, so that it can't guide the choice.
    chosen = [choose(run) for run in runs]
    failed = []
    for opening, task, members in open_sealed(chosen, again=again):
        for one in members:
            failed += _run_programs(one, opening, task, console, timeout_s)
        _write_certificates(members, opening, task)
    return failed


def _part(opening: Opening, point: FrontPoint) -> str:
    return f"{opening.opening}-{point.candidate}"


def _run_programs(
    one: Chosen, opening: Opening, task: Task, console: Console, timeout_s: int
) -> list[str]:
    """Run the programs that were not run yet, and write their outputs or errors to the ledger."""
    ledger, examples = one.run.ledger, task.splits.sealed
    missing = [p for p in one.points if ledger.read_part("predictions", _part(opening, p)) is None]
    if not missing:
        return []
    from cluster.verify import Verifier, each_at_once, verifier

    base_digests = dict(zip(one.points, one.base_digests, strict=True))

    def certify(found: Verifier, point: FrontPoint) -> str | None:
        part = _part(opening, point)
        try:
            program = found.program_of(point)
            outputs = found.outputs(point, program, [example.input for example in examples])
            scores = task.metric.scores([task.cut(output) for output in outputs], examples)
        except (ProgramFailedError, ValueError) as error:
            row = _row(point, opening, base_digests[point]) | {"error": str(error)}
            ledger.write("certificates", part, [row | {"finished_at": datetime.now(UTC)}])
            return str(error)
        rows = [
            {
                "candidate": point.candidate,
                "split": SPLIT,
                "example": example.id,
                "output": output,
                "score": score,
                "columns": task.columns(output, example),
            }
            for output, example, score in zip(outputs, examples, scores, strict=True)
        ]
        ledger.write("predictions", part, rows)
        return None

    failed = []
    with ExitStack() as stack:
        with waiting(console, "loading the base models of the front"):
            found = stack.enter_context(verifier(one.run, missing, timeout_s))
        results = each_at_once(partial(certify, found), missing, at_once(one.run))
        doing = f"certifying {len(missing)} programs on {len(examples)} sealed examples"
        for point, error in followed(results, doing, len(missing), console):
            if error is not None:
                failed.append(f"{point.candidate}: {error}")
                console.print(f"not certified, it failed: {point.candidate}: {error}")
    return failed


def _row(point: FrontPoint, opening: Opening, base_digest: str) -> dict[str, Any]:
    return {
        "program": point.program,
        "candidate": point.candidate,
        "split": SPLIT,
        "num_examples": opening.num_examples,
        "level": opening.level,
        "num_programs": opening.num_programs,
        "opening": opening.opening,
        "repeated": opening.repeated,
        "base_digest": base_digest,
    }


def _write_certificates(members: Sequence[Chosen], opening: Opening, task: Task) -> None:
    """Write the bounds of every program that has outputs; existing bounds are kept."""
    examples = task.splits.sealed
    order = [example.id for example in examples]
    found: list[tuple[RunFolder, dict[str, Any], str, list[str]]] = []
    for one in members:
        for point, base_digest in zip(one.points, one.base_digests, strict=True):
            part = _part(opening, point)
            rows = one.run.ledger.read_part("predictions", part)
            if rows is None:
                continue
            outputs = {row["example"]: row["output"] for row in rows}
            row = _row(point, opening, base_digest)
            found.append((one.run, row, part, [task.cut(outputs[name]) for name in order]))
    if not found:
        return
    outputs_of = [outputs for *_, outputs in found]
    bounds: list[Bounds] = task.metric.bounds(
        outputs_of, examples, opening.num_programs, opening.level
    )
    for (run, row, part, _), found_bounds in zip(found, bounds, strict=True):
        known = run.ledger.read_part("certificates", part)
        if known is None or known[0]["lower"] is None:
            whole = row | vars(found_bounds) | {"finished_at": datetime.now(UTC)}
            run.ledger.write("certificates", part, [whole])
