"""The commands `verify` and `export`.

`verify` takes a run or a program's folder, runs the programs in fresh processes and compares their
predictions with the recorded ones. `export` writes a program's adapter in PEFT's file format. Both
raise `InputError` for input that they can't use.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from kilobit.cluster.console import Terminal, followed, waiting
from kilobit.cluster.requests import ExportRequest, VerifyRequest, wrong_input
from kilobit.cluster.runs.access import check_reachable
from kilobit.cluster.runs.folder import RunFolder, reopen_run
from kilobit.cluster.runs.fronts import RunFront, num_lost, print_front, print_left_out
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.front.points import FrontPoint
from kilobit.search.records import RungRecord, VerificationRecord, rung_part
from kilobit.search.settings import InputError

if TYPE_CHECKING:
    from kilobit.evaluators.proof.verify import Verifier

VERIFY_TIMEOUT_S = 3600


def verify_front(front: RunFront, console: Console, timeout_s: int = VERIFY_TIMEOUT_S) -> float:
    """Verify the programs on a run's front, and those that move onto it when one fails.

    Args:
        front: the front, which has the results afterwards.
        console: where progress is shown.
        timeout_s: wall-clock limit for one program.

    Returns:
        The wall-clock seconds.

    Raises:
        InputError: if the run's data or a base model has changed; nothing is recorded then.
        DamagedRunError: if a program's part of the ledger is damaged.
        OSError: if the ledger can't be written.
    """
    began, run = time.monotonic(), front.run
    while unverified := [point for point in front.on_front if point.verified is None]:
        from kilobit.evaluators.proof.verify import each_at_once

        with ExitStack() as stack:
            with waiting(console, "loading the base models of the front"):
                found = stack.enter_context(verifier(run, unverified, timeout_s))
            results = each_at_once(found.verify, unverified, at_once(run))
            doing = f"verifying {len(unverified)} programs of the front"
            for point, result in followed(results, doing, len(unverified), console):
                if not result.verified:
                    why = result.error or (
                        f"{result.num_examples - result.num_equal} of {result.num_examples} "
                        "predictions differ"
                    )
                    console.print(f"not verified, so not on the front: {point.candidate}: {why}")
        front.refresh()
    return time.monotonic() - began


@contextmanager
def verifier(run: RunFolder, points: Sequence[FrontPoint], timeout_s: int) -> Iterator["Verifier"]:
    """Yield a verifier for the base models of the programs `points` of a run.

    Raises:
        InputError: if the run's data or one of the models is missing or has changed.
    """
    from kilobit.evaluators.proof.verify import Verifier, model_folder

    last_rung = run.sweep.rungs.count - 1
    with wrong_input():
        task = load_task(run.sweep.task, run.sweep_folder)
    digests: dict[str, set[str]] = {point.model: set() for point in points}
    for point in points:
        for record in run.ledger.read_part(RungRecord, rung_part(point.candidate, last_rung)) or ():
            if record.base_digest is not None:
                digests[point.model].add(record.base_digest)
    with ExitStack() as stack:
        models = {
            config.label: stack.enter_context(
                model_folder(config, run.sweep_folder, digests[config.label])
            )
            for config in run.sweep.base_models
            if config.label in digests
        }
        threads = run.sweep.workers.threads
        yield Verifier(run.path, run.ledger, last_rung, threads, task, models, timeout_s)


def at_once(run: RunFolder) -> int:
    """Return the number of programs of a run that this machine can run concurrently."""
    if any(model.device != "cpu" for model in run.sweep.base_models):
        return 1
    return max(1, (os.cpu_count() or 1) // run.sweep.workers.threads)


def verify(request: VerifyRequest) -> int:
    """Verify the front of a run, or one program in a folder."""
    console = Terminal()
    check_reachable(request.what)
    if (request.what / "manifest.json").exists():
        return _verify_folder(request, console)
    with reopen_run(request.what) as run:
        print_left_out(console, run)
        front = RunFront(run, trusting=False)
        seconds = verify_front(front, console, request.timeout_s)
        print_front(console, front, run.sweep.targets)
        rows = report_agreement(console, run)
    console.print(f"{seconds:.1f} s")
    lost = num_lost(run)
    if lost:
        console.print(f"{lost} rungs are damaged; recompute them:\n  kilobit resume {run.path}")
    return 1 if lost or any(not row.verified for row in rows) else 0


def report_agreement(console: Console, run: RunFolder) -> list[VerificationRecord]:
    """Print the programs with differing predictions, and return all verifications."""
    rows = run.ledger.records(VerificationRecord)
    for row in rows:
        if row.verified and row.num_equal < row.num_examples:
            console.print(
                "verified by its score, because only float32 on a CPU gives exact predictions: "
                f"{row.candidate}: {row.num_equal} of {row.num_examples} predictions equal"
            )
        if not row.verified:
            console.print(
                f"not verified: {row.candidate}: {row.num_equal} of {row.num_examples} "
                f"predictions equal {row.error or ''}"
            )
    return rows


def _verify_folder(request: VerifyRequest, console: Console) -> int:
    from kilobit.evaluators.proof.program_files import (
        read_examples,
        read_folder,
        read_train,
    )
    from kilobit.evaluators.proof.sandbox import ProgramFailedError, network_can_be_cut, run_files
    from kilobit.evaluators.proof.verify import exact, limits_of, names_examples

    with wrong_input():
        program, manifest, ours = read_folder(request.what)
        examples = read_examples(request.what)
        train = read_train(request.what) if names_examples(program) else None
    if request.model is None:
        raise InputError(f"--model: give the folder of the base model ({manifest.get('model')})")
    if not (request.model / "config.json").is_file():
        raise InputError(f"--model: {request.model} holds no model: config.json is missing")
    from kilobit.evaluators.proof.export import load_frozen

    expected = manifest.get("base_digest")
    with wrong_input():
        digest = load_frozen(request.model, program).digest
    if expected not in (None, digest):
        raise InputError(
            f"--model: {request.model} is another base model: its weights have the digest "
            f"{digest}, the program was measured with {expected}"
        )
    origin = (
        "program.py is the script that this version builds from its recipe"
        if ours
        else "program.py is not the script that this version builds from its recipe: it is foreign "
        "code"
    )
    network = "without" if network_can_be_cut() else "WITH"
    console.print(
        f"{origin}\nrunning it {network} network, for at most {request.timeout_s} s; it can read "
        "every file that you can read"
    )
    try:
        with waiting(console, f"running it on {len(examples)} examples"):
            outputs = run_files(
                program.script,
                program.payload,
                request.model,
                [example["input"] for example in examples],
                limits_of(program, 1, request.timeout_s),
                train,
            )
    except ProgramFailedError as error:
        print(f"kilobit: the program failed: {error}", file=sys.stderr)
        return 1
    equal = sum(a == b["output"] for a, b in zip(outputs, examples, strict=True))
    console.print(f"{equal} of {len(examples)} predictions equal the recorded ones")
    console.print(f"{program.program_bits} program bits, {program.payload_bits} payload bits")
    if equal < len(examples) and not exact(program):
        console.print(
            f"predictions may differ on {program.recipe.device} in {program.recipe.dtype}"
        )
    return 0 if equal == len(examples) else 1


def export(request: ExportRequest) -> int:
    """Write a program's adapter in PEFT's file format."""
    from kilobit.evaluators.proof.program_files import read_folder

    with wrong_input(OSError):
        read_folder(request.program)
        from kilobit.evaluators.proof.export import export_peft

        export_peft(request.program, request.peft, request.model)
    print(f"{request.peft} holds the adapter; the prompt is in its README.md")
    return 0
