"""The command `certify`: bounds on the sealed split, for one run, over several seeds, for a search.

It runs the programs of the fronts once on the sealed split. A program's outputs are written as soon
as it has ended, so an interrupted certification resumes with the remaining programs. Bounds are
written after all have run, because they hold jointly. Bounds of the procedure, of what another
search like the given runs will find, are printed only.
"""

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime

from rich.console import Console

from kilobit.cluster.cli.proofs import VERIFY_TIMEOUT_S, verifier, verify_front
from kilobit.cluster.console import Terminal, followed
from kilobit.cluster.fleet.crew import Crew
from kilobit.cluster.requests import CertifyRequest, wrong_input
from kilobit.cluster.runs.folder import RunFolder, reopen_run
from kilobit.cluster.runs.fronts import (
    Front,
    RunFront,
    num_lost,
    num_running,
    print_front,
    print_left_out,
)
from kilobit.cluster.runs.report_parts import steps_of
from kilobit.cluster.runs.sealed_split import Chosen, choose, open_sealed
from kilobit.cluster.runs.searches import deployed, refuse_other_searches
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.proof.sandbox import ProgramFailedError
from kilobit.evaluators.proof.verify import Verifier
from kilobit.evaluators.statistics.procedure import (
    FEWEST_RUNS,
    procedure_bounds,
    quantile,
)
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.front.complexity import (
    best_lower,
    certified_complexity,
    log2_bits,
    log2_ratios,
    spread,
)
from kilobit.search.front.points import FrontPoint
from kilobit.search.records import CertificateRecord, OpeningRecord, PredictionRecord, RungRecord
from kilobit.search.settings import InputError, to_copy
from kilobit.search.task import LEVEL, Bounds, Task

SPLIT = "sealed"
DONE, FAILED, INTERRUPTED = 0, 1, 130


def certify(request: CertifyRequest) -> int:
    """Certify the fronts of one or more runs and print the bounds."""
    seen: set[Place] = set()
    for path in request.runs:
        if path.resolve() in seen:
            raise InputError(f"{path} is named twice: give each run once")
        seen.add(path.resolve())
    if request.procedure and len(seen) < FEWEST_RUNS:
        raise InputError(
            f"--procedure needs {FEWEST_RUNS} runs or more, each with its own seed (found "
            f"{len(seen)}): fewer say next to nothing about the next one"
        )
    with ExitStack() as locked:
        return _certify_locked(
            [locked.enter_context(reopen_run(path)) for path in request.runs], request
        )


def _certify_locked(runs: Sequence[RunFolder], request: CertifyRequest) -> int:
    console = Terminal()
    refuse_same_seeds(runs)
    if request.procedure:
        refuse_other_searches(runs)
    for run in runs:
        print_left_out(console, run)
        with wrong_input():
            left, lost = num_running(run), num_lost(run)
        if lost:
            # A sealed split is opened for one choice of programs, so the front must be complete.
            console.print(
                f"nothing is certified: {lost} rungs are damaged; first compute them again:\n"
                f"  {to_copy('resume', run.path)}"
            )
            return FAILED
        if left:
            console.print(
                f"{left} candidates of {run.path} have not ended: certifying programs that they "
                "may still add to the front needs --again"
            )
    fronts = [RunFront(run) for run in runs]
    try:
        failed = certify_runs(
            fronts, console, request.timeout_s, again=request.again, address=request.address
        )
    except KeyboardInterrupt:
        go_on = to_copy("certify", *request.runs, address=request.address)
        console.print(
            "\ninterrupted; the outputs of programs that have ended are kept. Go on with:\n"
            f"  {go_on}"
        )
        return INTERRUPTED
    targets = sorted({target for run in runs for target in run.sweep.targets})
    print_front(console, Front([point for front in fronts for point in front.points]), targets)
    if len(runs) > 1:
        print_seeds(console, fronts, targets)
    if request.procedure:
        print_procedure(console, fronts, targets)
    return FAILED if failed else DONE


def certify_runs(
    fronts: Sequence[RunFront],
    console: Console,
    timeout_s: int = VERIFY_TIMEOUT_S,
    *,
    again: bool = False,
    address: str | None = None,
    opened: tuple[Verifier, Crew] | None = None,
) -> list[str]:
    """Certify the fronts of runs; runs that share a sealed split are certified together.

    Args:
        fronts: the fronts of the runs, which have the results afterwards; programs that are not
            verified yet are verified first.
        console: the console that shows progress.
        timeout_s: wall-clock limit for one program, in seconds.
        again: certify even if the sealed split was opened before for other programs.
        address: of the cluster that runs the programs; this machine without one.
        opened: a verifier of the programs and its crew, if there are some; only of one run.

    Returns:
        A line for each program that failed.

    Raises:
        SealedError: if the sealed split was opened before for other programs, and not `again`.
        InputError: if there is nothing to certify, or something can't be read.
        OSError: if a ledger can't be written.
        PoolError: if the cluster can't run the programs.
    """
    for front in fronts:
        verify_front(front, console, timeout_s, address=address)
    # Choose all programs before the sealed split is opened, so that it can't guide the choice.
    chosen = [choose(front) for front in fronts]
    failed = []
    for opening, task, members in open_sealed(chosen, again=again):
        for one in members:
            failed += _run_programs(one, opening, task, console, timeout_s, address, opened)
        _write_certificates(members, opening, task)
    for front in fronts:
        front.refresh()
    return failed


def _part(opening: OpeningRecord, point: FrontPoint) -> str:
    return f"{opening.opening}-{point.candidate}"


def _run_programs(
    one: Chosen,
    opening: OpeningRecord,
    task: Task,
    console: Console,
    timeout_s: int,
    address: str | None,
    opened: tuple[Verifier, Crew] | None,
) -> list[str]:
    """Run the programs that were not run yet, and write their outputs or errors to the ledger."""
    ledger, examples = one.run.ledger, task.splits.sealed
    missing = [
        point
        for point in one.points
        if ledger.read_part(PredictionRecord, _part(opening, point)) is None
    ]
    if not missing:
        return []
    rungs = dict(zip(one.points, one.rungs, strict=True))

    def certify(point: FrontPoint) -> str | None:
        part = _part(opening, point)
        try:
            program = found.program_of(point)
            outputs = found.outputs(point, program, [example.input for example in examples])
            cut = [task.cut(output, program.recipe.postprocess) for output in outputs]
            scores = task.metric.scores(cut, examples)
        except InputError:
            # It says nothing about the program.
            raise
        except (ProgramFailedError, ValueError) as error:
            record = replace(_record(point, opening, rungs[point]), error=str(error))
            ledger.write(CertificateRecord, part, [record])
            return str(error)
        records = [
            PredictionRecord(
                candidate=point.candidate,
                split=SPLIT,
                example=example.id,
                output=output,
                score=score,
                columns=task.columns(scored, example),
            )
            for output, scored, example, score in zip(outputs, cut, examples, scores, strict=True)
        ]
        ledger.write(PredictionRecord, part, records)
        return None

    failed = []
    with ExitStack() as stack:
        found, crew = opened or stack.enter_context(
            verifier(one.run, len(missing), timeout_s, address=address)
        )
        doing = f"certifying {len(missing)} programs on {len(examples)} sealed examples"
        results = crew.each(certify, missing)
        for point, error in followed(results, doing, len(missing), console):
            if error is not None:
                failed.append(f"{point.candidate}: {error}")
                console.print(f"not certified, it failed: {point.candidate}: {error}")
    return failed


def _record(point: FrontPoint, opening: OpeningRecord, rung: RungRecord) -> CertificateRecord:
    """Return the certificate of a program without its score and bounds."""
    return CertificateRecord(
        program=point.program,
        candidate=point.candidate,
        split=SPLIT,
        num_examples=opening.num_examples,
        level=opening.level,
        num_programs=opening.num_programs,
        opening=opening.opening,
        repeated=opening.repeated,
        base_digest=rung.base_digest,
        machine=rung.machine,
        data=rung.data,
        finished_at=datetime.now(UTC),
    )


def _write_certificates(members: Sequence[Chosen], opening: OpeningRecord, task: Task) -> None:
    """Write the bounds of every program that has outputs; existing bounds are kept."""
    examples = task.splits.sealed
    order = [example.id for example in examples]
    found: list[tuple[RunFolder, CertificateRecord, str, list[str]]] = []
    for one in members:
        steps = steps_of(one.run.ledger)
        for point, rung in zip(one.points, one.rungs, strict=True):
            part = _part(opening, point)
            predictions = one.run.ledger.read_part(PredictionRecord, part)
            if predictions is None:
                continue
            outputs = {each.example: each.output for each in predictions}
            record = _record(point, opening, rung)
            cut = [task.cut(outputs[name], steps.get(point.candidate, ())) for name in order]
            found.append((one.run, record, part, cut))
    if not found:
        return
    outputs_of = [outputs for *_, outputs in found]
    bounds: list[Bounds] = task.metric.bounds(
        outputs_of, examples, opening.num_programs, opening.level
    )
    for (run, record, part, _), found_bounds in zip(found, bounds, strict=True):
        known = run.ledger.read_part(CertificateRecord, part)
        if known is None or known[0].lower is None:
            whole = replace(record, **vars(found_bounds), finished_at=datetime.now(UTC))
            run.ledger.write(CertificateRecord, part, [whole])


Group = tuple[str, str]


def refuse_same_seeds(runs: Sequence[RunFolder]) -> None:
    """Refuse two runs of the same task, base model and seed.

    Raises:
        InputError: naming both.
    """
    seen: dict[tuple[str, str, int], RunFolder] = {}
    for run in runs:
        for model in run.sweep.base_models:
            key = (run.sweep.task.name, model.label, run.sweep.seed)
            other = seen.setdefault(key, run)
            if other is not run:
                raise InputError(
                    f"{other.path} and {run.path} both have seed {key[2]} for {key[1]} on "
                    f"{key[0]}: give runs of different seeds, or only one of them"
                )


def print_procedure(console: Console, fronts: Sequence[RunFront], targets: Sequence[float]) -> None:
    """Print bounds of the score that another search like these runs gives on new data.

    Args:
        console: where to print.
        fronts: the certified fronts of runs of one search.
        targets: scores that a program is chosen for.
    """
    count = len(fronts)
    tasks = [load_task(front.run.sweep.task, front.run.sweep_folder) for front in fronts]
    models = list(dict.fromkeys(model for front in fronts for model in front.by_model))
    level = 1 - (1 - LEVEL) / len(models)
    seeds = ", ".join(str(front.run.sweep.seed) for front in fronts)
    console.print(f"\nthe procedure: {count} searches, seeds {seeds}; mean score on new data")
    for model in models:
        runs = [deployed(f, task, model, targets) for f, task in zip(fronts, tasks, strict=True)]
        console.print(f"  {model[0]}, {model[1]}")
        bounds = procedure_bounds([run.held_out for run in runs], level)
        for i, (target, found) in enumerate(zip(targets, bounds, strict=True)):
            each = ", ".join(f"{run.held_out.scores[:, i].mean():.3f}" for run in runs)
            bits = [run.bits[i] for run in runs if run.bits]
            reached = sum(run.num_reached[i] for run in runs)
            console.print(
                f"    for score ≥ {target:g}: {found.score:.3f}, between {found.lower:.3f} and "
                f"{found.upper:.3f} (runs: {each}; {min(bits)} to {max(bits)} bits; {reached} of "
                f"{count} reach it on the search split)"
            )
    wider = quantile(count, len(targets), level) / quantile(10**6, len(targets), level)
    console.print(
        f"  these {len(models) * len(targets)} bounds hold at once with probability {LEVEL:g}; "
        f"from {count} runs, the part that varies between runs is {wider:.1f} times as wide as "
        "from many"
    )
    learnt = [{e.id for e in (*task.splits.train, *task.splits.search)} for task in tasks]
    if any(one & other for one, other in itertools.combinations(learnt, 2)):
        console.print(
            "  the runs learn from examples that they share, so what other data would change is "
            "seen only in part"
        )


def print_seeds(console: Console, fronts: Sequence[RunFront], targets: Sequence[float]) -> None:
    """Print certified complexity per seed with its mean, and the ratios between base models.

    Args:
        console: where to print.
        fronts: the fronts of runs of different seeds.
        targets: scores to reach.
    """
    groups: dict[Group, dict[int, list[FrontPoint]]] = {}
    for front in fronts:
        for point in front.points:
            by_seed = groups.setdefault((point.task, point.model), {})
            by_seed.setdefault(front.run.sweep.seed, []).append(point)
    for target in targets:
        console.print(f"\ncertified bits at score ≥ {target:g}, seed by seed")
        found: dict[Group, dict[int, int | None]] = {}
        for (task, model), by_seed in groups.items():
            found[task, model] = {
                seed: certified_complexity(points, target)
                for seed, points in sorted(by_seed.items())
            }
            console.print(f"  {task}, {model}: {_each_seed(found[task, model], by_seed)}")
            values = list(log2_bits(found[task, model]).values())
            out_of = f"{len(values)} of {len(by_seed)} seeds"
            if values:
                console.print(f"    log2 bits, {out_of}: {_spread_text(values)}")
        for one, other in itertools.combinations(found, 2):
            if one[0] == other[0]:
                ratios = log2_ratios(found[one], found[other])
                _print_difference(console, (one[1], other[1]), ratios)


def _each_seed(bits: Mapping[int, int | None], points: Mapping[int, list[FrontPoint]]) -> str:
    words = []
    for seed, found in bits.items():
        if found is None:
            best = best_lower(points[seed])
            why = "no certificate" if best is None else f"best lower bound {best:.3f}"
            words.append(f"seed {seed} not certified ({why})")
        else:
            words.append(f"seed {seed} {found}")
    return ", ".join(words)


def _spread_text(values: Sequence[float]) -> str:
    found = spread(values)
    kind = "95 % t-interval" if found.method == "t-interval" else found.method
    return f"mean {found.mean:.2f}, {kind} {found.low:.2f} - {found.high:.2f}"


def _print_difference(
    console: Console, models: tuple[str, str], ratios: Mapping[int, float]
) -> None:
    if not ratios:
        return
    one, other = models
    values = list(ratios.values())
    each = ", ".join(f"seed {seed} {ratio:+.2f}" for seed, ratio in ratios.items())
    mean = spread(values).mean
    assert mean is not None
    console.print(
        f"  {one} over {other}, log2 of the ratio of bits: {each}\n"
        f"    {len(values)} paired seeds: {_spread_text(values)}; {one} needs {2**mean:.2f} times "
        f"the bits of {other}"
    )
