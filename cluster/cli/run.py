"""The commands of the command line, and the messages and exit status of each.

A module is imported inside the command that uses it, so that `front` and `status` answer and a
mistake is refused at once.
"""

import argparse
import logging
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kilobit.cluster.console import Terminal
from kilobit.cluster.fleet.remote_driver import drive, is_outside
from kilobit.cluster.runs.log import close_log, log_to
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.proof.sandbox import plain
from kilobit.search.settings import InputError

if TYPE_CHECKING:
    from kilobit.cluster.driver.attempt import Outcome
    from kilobit.cluster.driver.check import Plan
    from kilobit.cluster.runs.folder import RunFolder

_LOG = logging.getLogger("kilobit")
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
# The module of each command, imported only for that command. Its function has the command's name.
_MODULES = {
    "run": "cli.run",
    "resume": "cli.run",
    "doctor": "cli.run",
    "status": "cli.status",
    "front": "cli.front",
    "aggregate": "cli.aggregate",
    "report": "cli.report",
    "verify": "cli.proofs",
    "export": "cli.proofs",
    "certify": "cli.certify",
    "scorecard": "cli.scorecard",
    "compare": "cli.compare",
    "slurm": "launchers.slurm",
    "kubernetes": "launchers.kubernetes",
}


def dispatch(args: argparse.Namespace) -> int:
    """Run the command that `args` names and return its exit status."""
    try:
        module = import_module(f"kilobit.cluster.{_MODULES[args.command]}")
        command: Callable[[argparse.Namespace], int] = getattr(module, args.command)
        return command(args)
    except InputError as error:
        print(f"kilobit: {plain(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        # Not a failure: the reader has closed the pipe.
        raise
    except KeyboardInterrupt:
        print("interrupted before anything started", file=sys.stderr)
        return INTERRUPTED
    except _failures() as error:
        print(f"kilobit: {plain(str(error))}", file=sys.stderr)
        return FAILED


def _failures() -> tuple[type[Exception], ...]:
    """Return the errors that end a command; Python asks for them only once one is raised."""
    from kilobit.evaluators.ledger.fencing import SupersededError
    from kilobit.evaluators.ledger.parts import DamagedError, DamagedRunError

    return OSError, SupersededError, DamagedRunError, DamagedError


def run(args: argparse.Namespace) -> int:
    """Begin a run, or only check its sweep file."""
    began = time.monotonic()
    console = Terminal()
    sweep = load_sweep(args.sweep, args.overrides)
    folder = args.sweep.absolute().parent
    if is_outside(args.address) and not args.dry_run:
        flags = ["--continue"] * args.go_on + ["--take-over"] * args.take_over + _logged(args)
        out = args.out or sweep.out or Path("runs") / sweep.name
        where = [str(args.sweep.absolute()), "--out", str(out.absolute())]
        return _drive(args.address, ["run", *where, *flags, *args.overrides])
    if args.take_over and not args.go_on:
        raise InputError("--take-over belongs to --continue: a new run is not locked")
    if args.dry_run:
        return _dry_run(console, sweep, folder, local=args.address is None)
    from kilobit.cluster.runs.folder import check_free, continue_run, create_run, holds_run
    from kilobit.cluster.runs.fronts import print_left_out

    going_on = args.go_on and holds_run(sweep, args.out)
    if not going_on:
        check_free(sweep, args.out)
    with console.status("checking the sweep file, its data and its models"):
        from kilobit.cluster.driver.check import check_sweep

        plan = check_sweep(sweep, folder, local=args.address is None)
    with (
        continue_run(sweep, args.out, take_over=args.take_over)
        if going_on
        else create_run(sweep, args.sweep, args.out)
    ) as run_folder:
        print_left_out(console, run_folder)
        check_s = time.monotonic() - began
        return _execute(run_folder, plan, console, args.address, check_s, args.log_level)


def resume(args: argparse.Namespace) -> int:
    """Resume a run."""
    if is_outside(args.address):
        flags = ["--take-over"] * args.take_over + _logged(args)
        return _drive(args.address, ["resume", str(args.run.absolute()), *flags, *args.overrides])
    from kilobit.cluster.runs.folder import check_proposer_is_known, reopen_run
    from kilobit.cluster.runs.fronts import print_left_out

    began = time.monotonic()
    console = Terminal()
    check_proposer_is_known(args.run)
    with reopen_run(args.run, take_over=args.take_over, overrides=args.overrides) as run_folder:
        print_left_out(console, run_folder)
        with console.status("checking the sweep file, its data and its models"):
            from kilobit.cluster.driver.check import check_sweep

            local = args.address is None
            plan = check_sweep(run_folder.sweep, run_folder.sweep_folder, local=local)
        check_s = time.monotonic() - began
        return _execute(run_folder, plan, console, args.address, check_s, args.log_level)


def _logged(args: argparse.Namespace) -> list[str]:
    return ["--log-level", args.log_level]


def _drive(address: str, words: Sequence[str]) -> int:
    """Run a command on the cluster behind an address and show its output."""

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        return drive(address, words, show)
    except ConnectionError as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str | None, error: ConnectionError) -> InputError:
    reason = str(error).strip().splitlines()[0]
    return InputError(
        f"--address: no Ray cluster that accepts our token answers at {address}: {reason}"
    )


def _execute(
    run_folder: "RunFolder",
    plan: "Plan",
    console: Console,
    address: str | None,
    check_s: float,
    log_level: str = "info",
) -> int:
    from kilobit.cluster.cli.proofs import verify_front
    from kilobit.cluster.driver.attempt import StoppedError, execute
    from kilobit.cluster.fleet.pool import PoolError
    from kilobit.cluster.runs.folder import discard_run
    from kilobit.cluster.runs.fronts import num_ended
    from kilobit.evaluators.ledger.fencing import SupersededError
    from kilobit.evaluators.ledger.parts import DamagedError, DamagedRunError

    log_to(run_folder.path, run_folder.attempt, log_level)
    _LOG.info("attempt %d begins: %s", run_folder.attempt, shlex.join(sys.argv))
    for line in run_folder.left_out:
        _LOG.warning("damaged, will be recomputed: %s", line)
    began = time.monotonic()
    console.print(f"run folder: {run_folder.path}")
    go_on = f"kilobit resume {run_folder.path}" + (f" --address {address}" if address else "")
    kept = f"every finished rung is kept. Go on with:\n  {go_on}"
    try:
        outcome = execute(run_folder, plan, console, address)
        outcome.seconds["verify"] = verify_front(run_folder, console)
        complete = num_ended(run_folder) == plan.num_candidates
        if run_folder.sweep.certify and complete:
            certifying = time.monotonic()
            outcome.uncertified = _certify(run_folder, console)
            outcome.seconds["certify"] = time.monotonic() - certifying
        _LOG.info("attempt %d ends", run_folder.attempt)
    except KeyboardInterrupt:
        _LOG.warning("interrupted")
        console.print(f"\ninterrupted; {kept}")
        return INTERRUPTED
    except (InputError, PoolError, ConnectionError) as error:
        _LOG.error("stopped: %s", error)
        close_log()
        discard_run(run_folder)
        if isinstance(error, ConnectionError):
            raise _no_cluster(address, error) from error
        if isinstance(error, InputError):
            raise
        print(f"kilobit: {plain(str(error))}", file=sys.stderr)
        return FAILED
    except (StoppedError, SupersededError, DamagedRunError, DamagedError, OSError) as error:
        _LOG.error("stopped: %s", error)
        print(f"kilobit: {plain(str(error))}", file=sys.stderr)
        console.print(f"stopped; {kept}")
        return FAILED
    finally:
        close_log()
    outcome.seconds = {"check": check_s, **outcome.seconds}
    seconds = check_s + time.monotonic() - began
    return _summarise(run_folder, outcome, console, seconds, plan.num_candidates)


def _certify(run_folder: "RunFolder", console: Console) -> list[str]:
    """Certify the front of a run and return the reasons why programs could not be certified."""
    from kilobit.cluster.cli.certify import certify_runs
    from kilobit.cluster.runs.fronts import points_of
    from kilobit.cluster.runs.sealed_split import SealedError

    if not points_of(run_folder):
        return []
    try:
        return certify_runs([run_folder], console)
    except SealedError as error:
        return [str(error)]


def _dry_run(console: Console, sweep: Sweep, folder: Path, *, local: bool) -> int:
    """Run all checks that need no network, and print the plan."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    with console.status("checking the sweep file, its data and its models"):
        from kilobit.cluster.driver.check import check_fits, check_models, check_sweep
        from kilobit.evaluators.tasks.sources import DatasetMissingError

        plan: Plan | None
        try:
            # The sweep may be meant for another machine, so not fitting here is no error.
            plan = check_sweep(sweep, folder, local=False)
            unchecked = list(plan.unchecked)
        except InputError as error:
            if not isinstance(error.__cause__, DatasetMissingError):
                raise
            plan, unchecked = None, [str(error), *check_models(sweep, folder)[1]]
    if plan is not None:
        _print_plan(console, plan)
    for text in dict.fromkeys(unchecked):
        console.print(f"not checked: {text}")
    if local:
        try:
            check_fits(sweep)
        except InputError as error:
            console.print(f"does not fit on this machine: {error}")
    ladder = ", ".join(
        f"{rung.num_examples} examples after {rung.train_steps} steps"
        for rung in sweep.rungs.ladder()
    )
    console.print(f"rungs: {ladder}")
    console.print("The sweep file is valid; nothing was started.")
    return DONE


def _print_plan(console: Console, plan: "Plan") -> None:
    families = Counter((c.model, c.family) for c in plan.candidates)
    splits = plan.task.splits
    console.print(
        f"task {plan.task.name}: {len(splits.train)} train, {len(splits.search)} search, "
        f"{len(splits.sealed)} sealed examples, scored by {plan.task.metric.name}"
    )
    for line in plan.ranks:
        console.print(line)
    if plan.candidates:
        table = Table("base model", "family", "candidates")
        for (model, family), number in families.items():
            table.add_row(model, family, str(number))
        console.print(table)
    else:
        most = "no limit but time" if plan.num_candidates is None else f"{plan.num_candidates}"
        console.print(f"candidates are proposed while the search runs; in all: {most}")


def _summarise(
    run_folder: "RunFolder",
    outcome: "Outcome",
    console: Console,
    seconds: float,
    total: int | None,
) -> int:
    from kilobit.cluster.runs.fronts import draw, points_of, print_front, progress_text

    rungs = run_folder.ledger.rows(
        "rungs", ["candidate", "rung", "score", "error", "train_s", "generate_s", "seconds"]
    )
    decisions = run_folder.ledger.rows("decisions", ["candidate", "rung", "decision", "reason"])
    points = points_of(run_folder)
    picture = run_folder.path / "front.png"
    draw(run_folder, points, picture)
    print_front(console, points, run_folder.sweep.targets)

    ended = {d["candidate"]: d for d in decisions if d["decision"] != "promote"}
    stopped = sum(d["decision"] == "stop" for d in ended.values())
    failed = {row["candidate"]: row["error"] for row in rungs if row["error"]}
    workers = len(run_folder.ledger.read("workers", ["worker"]))
    console.print(
        f"\n{progress_text(len(ended), total)} ended: {len(ended) - stopped} completed the last "
        f"rung, {stopped} stopped before ({len(failed)} of them failed); {workers} model loads"
    )
    compute = sum((row["train_s"] or 0) + (row["generate_s"] or 0) for row in rungs)
    phases = ", ".join(f"{name} {s:.1f} s" for name, s in outcome.seconds.items())
    console.print(f"{seconds:.1f} s in all: {phases}; model compute of all workers {compute:.1f} s")
    for candidate, error in list(failed.items())[:5]:
        line = error.strip().splitlines()[-1]
        console.print(f"failed: {candidate}: {line}")
    for line in outcome.lost[:5]:
        console.print(f"lost: {line}")
    for line in outcome.uncertified[:5]:
        console.print(f"not certified: {line}")
    if points and not any(point.certificate for point in points):
        when = "" if total is not None and len(ended) == total else ", when the search is over"
        console.print(
            f"nothing is certified yet; open the sealed split{when} with:\n"
            f"  kilobit certify {run_folder.path}"
        )
    if total is None or len(ended) < total:
        _print_left(run_folder, console, None if total is None else total - len(ended))
    console.print(f"\npicture: {picture}\nmore details: kilobit report {run_folder.path}")
    console.print(f"              kilobit front {run_folder.path} --json")
    if shutil.which("duckdb"):
        rungs_files = f"{run_folder.path}/ledger/rungs/*.parquet"
        console.print(f"              duckdb -c \"SELECT * FROM '{rungs_files}'\"")
    return FAILED if failed or outcome.lost or outcome.uncertified else DONE


def _print_left(run_folder: "RunFolder", console: Console, left: int | None) -> None:
    """Print how many candidates are left, why, and how to resume."""
    seconds = run_folder.sweep.budget.seconds
    go_on = f"kilobit resume {run_folder.path}"
    number = "more" if left is None else left
    if seconds is None:
        console.print(f"{number} candidates are left; go on with:\n  {go_on}")
        return
    console.print(
        f"the time budget of {seconds:g} s is over and {number} candidates are left; go on for as "
        f"long again, or without a limit:\n  {go_on}\n  {go_on} budget.seconds=null"
    )


def doctor(args: argparse.Namespace) -> int:
    """Check this machine, or a cluster."""
    from kilobit.cluster.cli.doctor import examine, examine_cluster

    console = Terminal()
    with console.status("checking"):
        try:
            findings = (
                examine() if args.address is None else examine_cluster(args.address, args.out)
            )
        except ConnectionError as error:
            raise _no_cluster(args.address, error) from error
    table = Table("", "check", "found", "what to do")
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("!!", "red")
        table.add_row(mark, finding.what, finding.found, finding.remedy)
    console.print(table)
    return DONE if all(finding.ok for finding in findings) else FAILED
