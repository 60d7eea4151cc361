"""The commands `verify` and `export`.

`verify` takes a run or a program's folder, runs the programs in fresh processes and compares their
predictions with the recorded ones. `export` writes a program's adapter in PEFT's file format. Both
raise `InputError` for input that they can't use.
"""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from kilobit.cluster.console import Terminal, followed, waiting
from kilobit.cluster.driver.beside import Beside
from kilobit.cluster.fleet.crew import SIZE_COLUMNS, Crew, at_once, crew_of, memory_of
from kilobit.cluster.requests import ExportRequest, VerifyRequest, wrong_input
from kilobit.cluster.runs.access import check_reachable
from kilobit.cluster.runs.folder import RunFolder, reopen_run
from kilobit.cluster.runs.fronts import RunFront, num_lost, print_front, print_left_out
from kilobit.cluster.sweep.recorded import check_data, data_parts
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.proof.sandbox import ProgramFailedError, Sandbox, enforced
from kilobit.evaluators.proof.verify import (
    ProgramRunner,
    Verifier,
    differing,
    exact,
    limits_of,
    names_examples,
    recorded_of,
    train_file,
)
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.base_model import differing_parts
from kilobit.search.programs.program import Program
from kilobit.search.records import VerificationRecord, WorkerRecord
from kilobit.search.settings import InputError, to_copy
from kilobit.search.task import Task

VERIFY_TIMEOUT_S = 3600


def verify_front(
    front: RunFront,
    console: Console,
    timeout_s: int = VERIFY_TIMEOUT_S,
    *,
    fresh: bool = False,
    address: str | None = None,
    beside: Beside | None = None,
) -> float:
    """Verify the programs on a run's front, and those that move onto it when one fails.

    Args:
        front: the front, which has the results afterwards.
        console: where progress is shown.
        timeout_s: wall-clock limit for one program.
        fresh: whether each program gets an interpreter of its own.
        address: of the cluster that runs the programs; this machine without one.
        beside: what has verified programs during the search, if there was one.

    Returns:
        The wall-clock seconds.

    Raises:
        InputError: if the run's data or a base model has changed; nothing is recorded then.
        PoolError: if the cluster can't run them.
        DamagedRunError: if a program's part of the ledger is damaged.
        OSError: if the ledger can't be written.
    """
    began, run = time.monotonic(), front.run
    unverified, opened = front.unverified, None
    if beside is not None:
        beside.end()
        opened = beside.opened
    if not unverified:
        return time.monotonic() - began
    with ExitStack() as stack:
        found, crew = opened or stack.enter_context(
            verifier(run, len(unverified), timeout_s, fresh=fresh, address=address)
        )
        verify_one = beside.verify if beside is not None and opened else found.verify
        while unverified:
            results = crew.each(verify_one, unverified)
            doing = f"verifying {len(unverified)} programs of the front"
            for point, result in followed(results, doing, len(unverified), console):
                if not result.verified:
                    why = result.error or (
                        f"{result.num_examples - result.num_equal} of {result.num_examples} "
                        "predictions differ"
                    )
                    console.print(f"not verified, so not on the front: {point.candidate}: {why}")
            front.refresh()
            unverified = front.unverified
    return time.monotonic() - began


@contextmanager
def verifier(
    run: RunFolder,
    most: int,
    timeout_s: int = VERIFY_TIMEOUT_S,
    *,
    fresh: bool = False,
    address: str | None = None,
) -> Iterator[tuple[Verifier, Crew]]:
    """Yield a verifier of programs of a run, and the crew that runs them.

    Args:
        run: the run.
        most: number of programs that will be run.
        timeout_s: wall-clock limit for one program.
        fresh: whether each program gets an interpreter of its own.
        address: of the cluster that runs them; this machine without one.

    Raises:
        InputError: if the run's data are missing or have changed, or no cluster answers.
    """
    sweep, last_rung = run.sweep, run.sweep.rungs.count - 1
    task = _task(sweep, run.sweep_folder)
    with wrong_input():
        check_data(run.ledger.records(WorkerRecord), data_parts(task, sweep))
    models = {model.label: model for model in sweep.base_models}
    threads = sweep.workers.threads
    make = partial(ProgramRunner, models, run.sweep_folder, threads, fresh=fresh)

    def memory() -> int:
        # Beside a search the verifier is there before workers have loaded any model.
        return memory_of(sweep, run.ledger.records(WorkerRecord, SIZE_COLUMNS))

    here = partial(at_once, sweep, memory)
    with crew_of(make, sweep, most, address, here, memory()) as crew:
        yield Verifier(run.path, run.ledger, last_rung, task, timeout_s, crew.call), crew


def check_unchanged(run: RunFolder, address: str | None) -> None:
    """Check that the machine and the data of a run are those that it has recorded.

    Raises:
        InputError: naming what has changed.
        PoolError: if the cluster can't load the base models.
    """
    labels = {load.model for load in run.ledger.records(WorkerRecord)}
    labels &= {model.label for model in run.sweep.base_models}
    if labels:
        with wrong_input(), verifier(run, len(labels), address=address) as (_, crew):
            for label in sorted(labels):
                crew.call("check", label, recorded_of(run.ledger, label))


def verify(request: VerifyRequest) -> int:
    """Verify the front of a run, or one program in a folder."""
    console = Terminal()
    check_reachable(request.what)
    if (request.what / "manifest.json").exists():
        return _verify_folder(request, console)
    with reopen_run(request.what) as run:
        print_left_out(console, run)
        front = RunFront(run, trusting=False)
        seconds = verify_front(
            front, console, request.timeout_s, fresh=request.fresh, address=request.address
        )
        print_front(console, front, run.sweep.targets)
        rows = report_agreement(console, run)
    console.print(f"{seconds:.1f} s")
    lost = num_lost(run)
    if lost:
        console.print(f"{lost} rungs are damaged; recompute them:\n  {to_copy('resume', run.path)}")
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

    with wrong_input():
        program, manifest, ours = read_folder(request.what)
        examples = read_examples(request.what)
        train = read_train(request.what) if names_examples(program) else None
    model, others = _checked_model(request.model, program, manifest)
    task, said = None, manifest.get("score")
    if request.task is not None:
        task = _task(load_sweep(request.task), request.task.absolute().parent)
        train = None if train is None else train_file(task)
        if not isinstance(said, (int, float)):
            raise InputError(f"{request.what / 'manifest.json'}: score: {said!r} is not a number")
    origin = (
        "program.py is the script that this version builds from its recipe"
        if ours
        else "program.py is not the script that this version builds from its recipe: it is foreign "
        "code"
    )
    console.print(f"{origin}\n{_surroundings(request.timeout_s)}")
    inputs = [example["input"] for example in examples]
    if task is not None:
        inputs = [example.input for example in task.splits.search]
    try:
        with (
            waiting(console, f"running it on {len(inputs)} examples"),
            Sandbox(1, fresh=True) as sandbox,
        ):
            files = (program.script, program.payload, model)
            limits = limits_of(program, request.timeout_s)
            outputs = sandbox.run(*files, inputs, limits, train)
    except ProgramFailedError as error:
        print(f"kilobit: the program failed: {error}", file=sys.stderr)
        return 1
    if task is not None:
        steps = program.recipe.postprocess
        agrees = _scores_as_said(task, outputs, steps, float(said or 0), console)
    else:
        agrees = _says_as_recorded(program, outputs, examples, console)
    if not agrees and others:
        console.print(f"the search ran with another {others} than this machine has")
    console.print(f"{program.program_bits} program bits, {program.payload_bits} payload bits")
    if agrees and not ours and not request.trust:
        console.print(
            "status 1, because foreign code can do other things on other inputs: read "
            f"{request.what / 'program.py'}, then give --trust"
        )
    return 0 if agrees and (ours or request.trust) else 1


def _checked_model(
    model: Path | None, program: Program, manifest: dict[str, Any]
) -> tuple[Path, str]:
    """Return the folder of the base model that a program was measured with.

    The second value names the libraries that the search had in another version, as words.
    """
    if model is None:
        raise InputError(f"--model: give the folder of the base model ({manifest.get('model')})")
    if not (model / "config.json").is_file():
        raise InputError(f"--model: {model} holds no model: config.json is missing")
    from kilobit.evaluators.model.generate import library_parts
    from kilobit.evaluators.proof.export import load_frozen

    expected, parts = manifest.get("base_digest"), manifest.get("parts")
    # None is known of a program of an earlier version.
    known = [parts] if isinstance(parts, dict) else []
    with wrong_input():
        found = load_frozen(model, program)
    if not found.was_recorded_as(expected):
        raise InputError(
            f"--model: {model} is another base model: it has the digest {found.machine}, the "
            f"program was measured with {expected}{differing(found.parts, known)}"
        )
    here = library_parts(quantised=program.recipe.quantization is not None)
    return model, "".join(differing_parts(here, one) for one in known)


def _task(sweep: Sweep, folder: Path) -> Task:
    """Return the task of a sweep, whose relative paths start at `folder`."""
    with wrong_input():
        return load_task(sweep.task, folder)


def _surroundings(seconds: int) -> str:
    """Return a sentence that says what the program can reach while it runs."""
    found = enforced()
    network = "without" if "network" in found else "WITH"
    files = (
        "it sees no files but its own, the model and the libraries"
        if "files" in found
        else "it can READ AND WRITE every file that you can, because this system makes no mount "
        "namespace for you"
    )
    return f"running it {network} network, for at most {seconds} s; {files}"


def _says_as_recorded(
    program: Program,
    outputs: Sequence[str],
    examples: Sequence[Mapping[str, str]],
    console: Console,
) -> bool:
    equal = sum(a == b["output"] for a, b in zip(outputs, examples, strict=True))
    console.print(f"{equal} of {len(examples)} predictions equal the recorded ones")
    if equal < len(examples) and not exact(program):
        console.print(
            f"predictions may differ on {program.recipe.device} in {program.recipe.dtype}"
        )
    return equal == len(examples)


def _scores_as_said(
    task: Task, outputs: Sequence[str], steps: Sequence[str], said: float, console: Console
) -> bool:
    """Return whether a program's score on this data can be the one that its folder gives."""
    cut = [task.cut(output, steps) for output in outputs]
    found = task.metric.corpus(cut, task.splits.search)
    interval = "" if found.upper is None else f" ({found.lower:.3f} to {found.upper:.3f})"
    console.print(
        f"score {found.score:.3f}{interval} on {len(outputs)} examples of your data; the folder "
        f"says {said:.3f}"
    )
    return said <= (found.score if found.upper is None else found.upper)


def export(request: ExportRequest) -> int:
    """Write a program's adapter in PEFT's file format."""
    from kilobit.evaluators.proof.program_files import read_folder

    with wrong_input(OSError):
        read_folder(request.program)
        from kilobit.evaluators.proof.export import export_peft

        export_peft(request.program, request.peft, request.model)
    print(f"{request.peft} holds the adapter; the prompt is in its README.md")
    return 0
