"""The commands `run` and `resume`, and the message and exit status of any command that fails.

A module is imported inside the command that uses it, so that `front` and `status` answer and a
mistake is refused at once.
"""

import glob
import logging
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from kilobit.cluster.messages import PoolError, StoppedError
from kilobit.cluster.requests import Request, ResumeRequest, RunRequest
from kilobit.cluster.runs.access import check_there
from kilobit.evaluators.proof.sandbox import plain
from kilobit.search.settings import InputError, to_copy
from kilobit.search.task import near_duplicates, repetitions

if TYPE_CHECKING:
    from rich.console import Console

    from kilobit.cluster.driver.attempt import Outcome
    from kilobit.cluster.driver.beside import Beside
    from kilobit.cluster.driver.check import Plan
    from kilobit.cluster.fleet.pool import Pool
    from kilobit.cluster.fleet.session import Beforehand
    from kilobit.cluster.runs.folder import RunFolder
    from kilobit.cluster.runs.fronts import RunFront
    from kilobit.cluster.sweep.sweep import Sweep
    from kilobit.evaluators.ledger.storage import Place

_LOG = logging.getLogger("kilobit")
# Where a command is, if not in the module of its name in `cluster/cli`; no other is imported.
_MODULES = {
    "check": "cli.status",
    "export": "cli.proofs",
    "kubernetes": "launchers.kubernetes",
    "model": "cli.doctor",
    "results": "cli.front",
    "resume": "cli.run",
    "slurm": "launchers.slurm",
    "verify": "cli.proofs",
}
# Commands that run on the cluster if their address is outside of it, as `run` does by itself.
_DRIVEN = ("resume", "verify", "certify", "scorecard")
_MEASURING = "measuring how fast the models are"
_CHECKING = "checking the sweep, its data and its models"
_COLUMNS = (
    "candidate", "rung", "num_examples", "error", "train_s", "generate_s", "num_unjudged",
    "attempt",
)  # fmt: skip
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


def dispatch(request: Request) -> int:
    """Run the command of a request and return its exit status."""
    name = request.command
    try:
        request.check()
        for place in request.reads:
            check_there(place, "program" if name == "export" else "run")
        address = getattr(request, "address", None)
        if name in _DRIVEN and address:
            from kilobit.cluster.fleet.remote_driver import is_outside

            if is_outside(address):
                return _drive(address, request.command_line)
        module = import_module(f"kilobit.cluster.{_MODULES.get(name, f'cli.{name}')}")
        return int(getattr(module, name)(request))
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

    return PoolError, StoppedError, OSError, SupersededError, DamagedRunError, DamagedError


def run(request: RunRequest) -> int:
    """Begin a run, or only check its sweep file."""
    from kilobit.cluster.fleet.remote_driver import is_outside
    from kilobit.cluster.launchers.launcher import Local, Sweeps
    from kilobit.cluster.sweep.sweep import load_sweep

    began = time.monotonic()
    if is_outside(request.address) and not request.dry_run:
        flags = ["--continue"] * request.go_on + ["--take-over"] * request.take_over
        logged = ("--log-level", request.log_level)
        launcher = Local(partial(_drive, request.address), (*flags, *logged))
        sweeps = Sweeps((request.sweep,), request.overrides, request.out)
        return launcher.submit(launcher.plan(sweeps)).status
    sweep = load_sweep(request.sweep, request.overrides)
    if request.take_over and not request.go_on:
        raise InputError("--take-over belongs to --continue: a new run is not locked")
    folder = request.sweep.absolute().parent
    if request.dry_run:
        return _dry_run(sweep, folder, request.address)
    from kilobit.cluster.runs.folder import check_free, continue_run, create_run, holds_run

    going_on = request.go_on and holds_run(sweep, request.out)
    if not going_on:
        check_free(sweep, request.out)
    # After what is refused without it: rich takes a tenth of a second.
    from kilobit.cluster.console import Terminal

    console = Terminal()
    with ExitStack() as stack:
        early: list[Beforehand[Pool]] = []

        def start() -> None:
            # A run that goes on may have nothing left that needs workers.
            if request.address is None and not going_on:
                early.append(stack.enter_context(_workers(sweep, request)))

        plan = check(sweep, folder, console, request.address, start)
        from kilobit.cluster.runs.fronts import print_left_out

        run_folder = stack.enter_context(
            continue_run(sweep, request.out, take_over=request.take_over)
            if going_on
            else create_run(sweep, request.sweep, request.out)
        )
        print_left_out(console, run_folder)
        check_s = time.monotonic() - began
        given = run_folder, plan, console, request.address, check_s, request.log_level
        return _execute(*given, *(one.take for one in early))


def _workers(sweep: "Sweep", request: RunRequest) -> "Beforehand[Pool]":
    """Return the workers of a new run on this machine, which import libraries until it begins."""
    from kilobit.cluster.fleet.pool import Pool
    from kilobit.cluster.fleet.session import Beforehand
    from kilobit.cluster.runs.folder import path_of

    _LOG.setLevel(request.log_level.upper())
    folder, path = request.sweep.absolute().parent, path_of(sweep, request.out)
    return Beforehand(partial(Pool, sweep, folder, path, 1, local=True, early=True))


def resume(request: ResumeRequest) -> int:
    """Resume a run."""
    from kilobit.cluster.console import Terminal
    from kilobit.cluster.runs.folder import check_proposer_is_known, open_run, reopen_run
    from kilobit.cluster.runs.fronts import print_left_out

    began = time.monotonic()
    console = Terminal()
    check_proposer_is_known(open_run(request.run))
    with reopen_run(
        request.run, take_over=request.take_over, overrides=request.overrides
    ) as run_folder:
        print_left_out(console, run_folder)
        plan = check(run_folder.sweep, run_folder.sweep_folder, console, request.address)
        check_s = time.monotonic() - began
        return _execute(run_folder, plan, console, request.address, check_s, request.log_level)


def check(
    sweep: "Sweep",
    folder: Path,
    console: "Console",
    address: str | None,
    before_models: Callable[[], object] = lambda: None,
) -> "Plan":
    """Check a sweep, its data and its models, before anything is written, and return its plan.

    `before_models` is called when all but the models is checked.

    Raises:
        InputError: naming field and value, if the sweep can't run.
    """
    from kilobit.evaluators.model import quick_imports

    with console.status(_CHECKING), quick_imports():
        from kilobit.cluster.driver.check import check_sweep

        local = address is None
        return check_sweep(sweep, folder, local=local, before_models=before_models)


def _drive(address: str, words: Sequence[str]) -> int:
    """Run a command on the cluster behind an address and show its output."""
    from kilobit.cluster.fleet.remote_driver import drive, no_cluster

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        return drive(address, words, show)
    except ConnectionError as error:
        raise no_cluster(address, error) from error


def _execute(
    run_folder: "RunFolder",
    plan: "Plan",
    console: "Console",
    address: str | None,
    check_s: float,
    log_level: str,
    take: "Callable[[], Pool | None]" = lambda: None,
) -> int:
    began = time.monotonic()
    go_on = to_copy("resume", run_folder.path, address=address)
    kept = f"every finished rung is kept. Go on with:\n  {go_on}"
    try:
        outcome, front = attempt(run_folder, plan, console, address, log_level, take)
    except KeyboardInterrupt:
        console.print(f"\ninterrupted; {kept}")
        return INTERRUPTED
    except _failures() as error:
        if not (run_folder.path / "run.json").exists():
            # Nothing has begun that could be resumed.
            raise
        print(f"kilobit: {plain(str(error))}", file=sys.stderr)
        console.print(f"stopped; {kept}")
        return FAILED
    outcome.seconds = {"check": check_s, **outcome.seconds}
    seconds = check_s + time.monotonic() - began
    return _summarise(front, outcome, console, seconds, plan.num_candidates, address)


def attempt(
    run_folder: "RunFolder",
    plan: "Plan",
    console: "Console",
    address: str | None,
    log_level: str,
    take: "Callable[[], Pool | None]" = lambda: None,
) -> tuple["Outcome", "RunFront"]:
    """Search, verify the front and, if the sweep says so, certify it; keep the run's log.

    `take` returns workers that have been started already, None if there are none.

    Raises:
        InputError, PoolError: if nothing could be started; a run without results is deleted.
        StoppedError, SupersededError, DamagedRunError, DamagedError, OSError: if it had to stop.
        KeyboardInterrupt: on Ctrl-C. After this and the errors above it can be resumed.
    """
    from kilobit.cluster.cli.proofs import check_unchanged, verifier
    from kilobit.cluster.driver.attempt import execute
    from kilobit.cluster.driver.beside import Beside
    from kilobit.cluster.fleet.remote_driver import no_cluster
    from kilobit.cluster.fleet.session import ray_session
    from kilobit.cluster.runs.folder import discard_run
    from kilobit.cluster.runs.fronts import RunFront
    from kilobit.cluster.runs.log import close_log, log_to

    log_to(run_folder.path, run_folder.attempt, log_level)
    _LOG.info("attempt %d begins: %s", run_folder.attempt, shlex.join(sys.argv))
    for line in run_folder.left_out:
        _LOG.warning("damaged, will be recomputed: %s", line)
    console.print(f"run folder: {run_folder.path}")
    try:
        # What runs on a cluster after the search needs the session too.
        with (
            nullcontext() if address is None else ray_session(address),
            Beside(run_folder, address, partial(verifier, run_folder, 1)) as beside,
        ):
            outcome = execute(run_folder, plan, console, address, beside.look, take)
            if not outcome.seconds:
                # No worker has looked, because nothing was left to search.
                check_unchanged(run_folder, address)
            front = RunFront(run_folder)
            _prove(front, plan, console, address, outcome, beside)
        _LOG.info("attempt %d ends", run_folder.attempt)
    except KeyboardInterrupt:
        _LOG.warning("interrupted")
        raise
    except (InputError, PoolError, ConnectionError) as error:
        _LOG.error("stopped: %s", error)
        close_log()
        discard_run(run_folder)
        if isinstance(error, ConnectionError):
            raise no_cluster(address, error) from error
        raise
    except _failures() as error:
        _LOG.error("stopped: %s", error)
        raise
    finally:
        close_log()
    return outcome, front


def _prove(
    front: "RunFront",
    plan: "Plan",
    console: "Console",
    address: str | None,
    outcome: "Outcome",
    beside: "Beside",
) -> None:
    """Verify the front of a run that has searched, and certify it if the sweep says so.

    If that can't be done the reason is in `outcome.unproven`; the results of the search stay.

    Raises:
        SupersededError, DamagedRunError, DamagedError, OSError: if the run has to be resumed.
    """
    from kilobit.cluster.cli.certify import certify_runs
    from kilobit.cluster.cli.proofs import verify_front
    from kilobit.cluster.runs.fronts import num_ended
    from kilobit.cluster.runs.sealed_split import SealedError

    try:
        outcome.seconds["verify"] = verify_front(front, console, address=address, beside=beside)
        complete = num_ended(front.run) == plan.num_candidates
        if front.run.sweep.certify and complete and front.points:
            began = time.monotonic()
            outcome.uncertified = certify_runs(
                [front], console, address=address, opened=beside.opened
            )
            outcome.seconds["certify"] = time.monotonic() - began
    except SealedError as error:
        outcome.uncertified = [str(error)]
    except Exception as error:
        if isinstance(error, _failures()) and not isinstance(error, PoolError):
            raise
        _LOG.exception("not all is verified or certified")
        outcome.unproven = str(error).strip() or type(error).__name__
        front.refresh()


def _dry_run(sweep: "Sweep", folder: Path, address: str | None) -> int:
    """Run all checks that need no network but a cluster's, and print the plan."""
    from kilobit.cluster.console import Terminal
    from kilobit.cluster.runs.fronts import bound_text

    console, local = Terminal(), address is None
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    with console.status(_CHECKING):
        from kilobit.cluster.driver.check import check_sweep
        from kilobit.cluster.driver.check_models import check_models
        from kilobit.evaluators.tasks.sources import DatasetMissingError

        plan: Plan | None
        try:
            # The sweep may be meant for another machine, so not fitting here is no error.
            plan = check_sweep(sweep, folder, local=local, dry=True)
            unchecked = list(plan.unchecked)
        except InputError as error:
            if not isinstance(error.__cause__, DatasetMissingError):
                raise
            plan, unchecked = None, [str(error), *check_models(sweep, folder, local=local)[1]]
    if plan is not None:
        _print_plan(console, plan)
    for text in dict.fromkeys(unchecked):
        console.print(f"not checked: {text}")
    ends = "The sweep file is valid; nothing was started."
    try:
        for line in _placements(sweep, address):
            console.print(line)
    except InputError as error:
        console.print(f"does not fit on this machine: {error}")
        local = False
        ends = "The sweep file is valid, but this machine can't run it; nothing was started."
    if plan is not None:
        from kilobit.cluster.driver.estimate import estimate, lines_of

        with console.status(_MEASURING):
            estimates = estimate(sweep, folder, plan, local=local)
        for line in lines_of(estimates, sweep.budget.seconds):
            console.print(line)
    ladder = ", ".join(
        f"{rung.num_examples} examples after {rung.train_steps} steps"
        for rung in sweep.rungs.ladder()
    )
    console.print(f"rungs: {ladder}")
    for line in bound_text(sweep):
        console.print(line)
    console.print(ends)
    return DONE


def _placements(sweep: "Sweep", address: str | None) -> list[str]:
    """Return the placement of the workers on this machine, or on a cluster, as text.

    Raises:
        InputError: if the fewest workers of a model do not fit on this machine.
    """
    from kilobit.cluster.driver.check import plan_here
    from kilobit.cluster.fleet.remote_driver import is_outside

    if address is None:
        return plan_here(sweep).lines()
    if is_outside(address):
        return ["not checked: the nodes of a cluster are known only on one of its machines"]
    from kilobit.cluster.fleet.session import ray_session

    try:
        with ray_session(address):
            import ray

            from kilobit.cluster.fleet.pool import nodes_there
            from kilobit.cluster.sweep.placement import needs_of, plan

            settings = sweep.workers_by_model
            cpus = {model: own.wanted_cpus for model, own in settings.items()}
            hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
            nodes = [
                replace(node, name=f"node {node.name[:6]} ({hosts[node.name]})")
                for node in nodes_there()
            ]
            return plan(nodes, needs_of(settings, cpus)).lines()
    except ConnectionError as error:
        return [f"not checked: no cluster answers at {address} ({str(error).splitlines()[0]})"]


def _print_plan(console: "Console", plan: "Plan") -> None:
    from rich.table import Table

    families = Counter((c.model, c.family) for c in (*plan.first, *plan.candidates))
    splits = plan.task.splits
    console.print(
        f"task {plan.task.name}: {len(splits.train)} train, {len(splits.search)} search, "
        f"{len(splits.sealed)} sealed examples, scored by {plan.task.metric.name}"
    )
    for found in (*repetitions(splits), *near_duplicates(splits)):
        console.print(str(found))
    for line in plan.ranks:
        console.print(line)
    for line in plan.warnings:
        console.print(f"warning: {line}")
    if plan.candidates:
        table = Table("base model", "family", "candidates")
        for (model, family), number in families.items():
            table.add_row(model, family, str(number))
        console.print(table)
    else:
        most = "no limit but time" if plan.num_candidates is None else f"{plan.num_candidates}"
        console.print(f"candidates are proposed while the search runs; in all: {most}")


def _summarise(
    front: "RunFront",
    outcome: "Outcome",
    console: "Console",
    seconds: float,
    total: int | None,
    address: str | None,
) -> int:
    from kilobit.cluster.runs.fronts import (
        ends_of,
        print_front,
        progress_text,
        unjudged_text,
        unverified_text,
    )
    from kilobit.search.records import RungRecord

    run_folder = front.run
    rungs = run_folder.ledger.records(
        RungRecord,
        [*_COLUMNS],
    )
    ended = {one.candidate: one.decision for one in ends_of(run_folder)}
    picture = run_folder.path / "front.png"
    go_on = to_copy("resume", run_folder.path, address=address)
    _draw(front, picture, outcome)
    print_front(console, front, run_folder.sweep.targets)

    stopped = sum(decision == "stop" for decision in ended.values())
    failed = {one.candidate: one.error for one in rungs if one.error}
    workers = len(run_folder.ledger.read("workers", ["worker"]))
    console.print(
        f"\n{progress_text(len(ended), total)} ended: {len(ended) - stopped} completed the last "
        f"rung, {stopped} stopped before ({len(failed)} of them failed); {workers} model loads"
    )
    compute = sum((one.train_s or 0) + (one.generate_s or 0) for one in rungs)
    phases = ", ".join(f"{name} {s:.1f} s" for name, s in outcome.seconds.items())
    console.print(f"{seconds:.1f} s in all: {phases}; model compute of all workers {compute:.1f} s")
    for candidate, error in list(failed.items())[:5]:
        line = error.strip().splitlines()[-1]
        console.print(f"failed: {candidate}: {line}")
    for line in unjudged_text(sum(one.num_unjudged or 0 for one in rungs)):
        console.print(line)
    for line in outcome.lost[:5]:
        console.print(f"lost: {line}")
    for line in outcome.uncertified[:5]:
        console.print(f"not certified: {line}")
    if outcome.unproven:
        console.print(
            f"the search is over, but what follows it failed: {outcome.unproven}\n"
            f"do what is missing with:\n  {go_on}"
        )
    for line in unverified_text(len(front.unverified), run_folder.path, address):
        console.print(line)
    if front.points and not any(point.certificate for point in front.points):
        when = "" if total is not None and len(ended) == total else ", when the search is over"
        console.print(
            f"nothing is certified yet; open the sealed split{when} with:\n"
            f"  {to_copy('certify', run_folder.path, address=address)}"
        )
    if total is None or len(ended) < total:
        _print_left(run_folder, console, go_on, None if total is None else total - len(ended))
    console.print(f"\npicture: {picture}\nmore details: {to_copy('report', run_folder.path)}")
    console.print(f"              {to_copy('front', run_folder.path, '--json')}")
    if shutil.which("duckdb"):
        console.print(f"              {_duckdb(run_folder.path)}")
    # What failed in an earlier attempt was reported by it: a job that repeats the command is done.
    failed_here = any(one.error and one.attempt == run_folder.attempt for one in rungs)
    bad = failed_here or outcome.lost or outcome.uncertified or outcome.unproven
    return FAILED if bad else DONE


def _duckdb(run: "Place") -> str:
    """Return a command that shows the rungs of a run in DuckDB."""
    # A bracket begins a class of characters in its patterns, and `''` is a quote in SQL.
    name = glob.escape(str(run)).replace("'", "''")
    query = f"SELECT * FROM '{name}/ledger/rungs/*.parquet'"
    plain_text = not set(query) & set('"$`!\\')
    return "duckdb -c " + (f'"{query}"' if plain_text else shlex.quote(query))


def _draw(front: "RunFront", picture: "Place", outcome: "Outcome") -> None:
    from kilobit.cluster.runs.fronts import draw

    try:
        draw(front, picture)
    except Exception as error:  # noqa: BLE001 - a picture must not cost the text
        outcome.unproven = outcome.unproven or f"no picture: {error}"


def _print_left(run_folder: "RunFolder", console: "Console", go_on: str, left: int | None) -> None:
    """Print how many candidates are left, why, and how to resume."""
    seconds = run_folder.sweep.budget.seconds
    number = "more" if left is None else left
    if seconds is None:
        console.print(f"{number} candidates are left; go on with:\n  {go_on}")
        return
    console.print(
        f"the time budget of {seconds:g} s is over and {number} candidates are left; go on with a "
        f"larger one for all attempts together:\n  {go_on} budget.seconds={2 * seconds:g}"
    )
    if left is not None:
        console.print(f"or without a limit:\n  {go_on} budget.seconds=null")
