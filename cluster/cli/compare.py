"""The command `compare`: judges two sets of answers to the same prompts, pair by pair.

`--score` compares scores instead: `kilobit.cluster.cli.significance`.

Answers are a JSON Lines file, or `RUN:CANDIDATE`: the outputs of a candidate of a run on the search
split at its last rung, from the ledger. Prompts that were not judged enter no statistic; they are
counted and reported, and the exit status is 1.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kilobit.cluster.console import Bar, Terminal, stderr_console
from kilobit.cluster.requests import CompareRequest, wrong_input
from kilobit.evaluators.judges.answers import (
    Answer,
    pair_answers,
    read_answers,
    read_prompts,
    read_verdicts,
)
from kilobit.evaluators.judges.endpoint import Endpoint
from kilobit.evaluators.judges.judges import (
    AnyJudge,
    EndpointJudge,
    FileJudge,
    ModelJudge,
    load_judge,
)
from kilobit.evaluators.judges.preference import (
    Judge,
    Judged,
    Summary,
    judge_pairs,
    num_questions,
    summarise,
)
from kilobit.evaluators.ledger.storage import write_whole
from kilobit.evaluators.proof.sandbox import plain
from kilobit.evaluators.statistics.ties import Strength, strengths
from kilobit.search.settings import InputError

_DONE, _FAILED = 0, 1
_REASONS_SHOWN = 5
_MEANING = {
    "half_points": "wins and half of the ties",
    "drop_ties": "wins among the decided prompts",
    "thurstone": "A preferred if there were no ties (normal)",
    "rao_kupper": "A preferred if there were no ties (logistic)",
    "davidson": "A preferred given that there is no tie",
}


def compare(request: CompareRequest) -> int:
    """Compare the scores of programs, or judge two sets of answers.

    Raises:
        InputError: if options do not fit each other, or something can't be read.
    """
    if request.score:
        for option in ("judge", "prompts", "rows"):
            if getattr(request, option) is not None:
                raise InputError(f"--{option} belongs to a judge: leave it out with --score")
        from kilobit.cluster.cli.significance import compare_scores

        return compare_scores(request)
    if request.judge is None:
        raise InputError("give --judge FILE.yaml to compare answers, or --score to compare scores")
    if request.others or request.split is not None:
        raise InputError("more than two programs and --split need --score: a judge compares two")
    return _judged(request, request.judge)


def _judged(request: CompareRequest, file: Path) -> int:
    """Judge two sets of answers and print the strength of the first against the second."""
    console = Terminal()
    with wrong_input():
        settings = load_judge(file)
        prompts = None if request.prompts is None else read_prompts(request.prompts)
        pairs = pair_answers(_answers(request.one), _answers(request.two), prompts)
        folder = file.absolute().parent
        judge: Judge | None = None
        if isinstance(settings, FileJudge):
            rows = read_verdicts(folder / settings.path, pairs)
        else:
            judge = _judge(settings, folder)
    if judge is not None:
        try:
            # Progress goes to stderr, because a program may read stdout.
            doing = f"judging {len(pairs)} pairs of answers"
            with Bar(stderr_console(), doing, num_questions(pairs)) as bar:
                rows = judge_pairs(pairs, judge, bar.advance)
        except OSError as error:
            print(f"kilobit: {plain(str(error))}", file=sys.stderr)
            _print_spent(stderr_console(), judge, settings)
            return _FAILED
    if request.rows is not None:
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
        write_whole(request.rows, "".join(lines).encode())
    summary = summarise(rows)
    most = 2 * summary.failed > len(rows)
    if most:
        first = next(row.reason for row in rows if row.outcome is None)
        text = f"no verdict on {summary.failed} of {len(rows)} prompts, the first: {first}"
        print(f"kilobit: {plain(text)}", file=sys.stderr)
    known = bool(summary.judged) and not most
    found = strengths(summary.wins, summary.ties, summary.losses) if known else []
    if request.json:
        print(json.dumps(_as_json(request, summary, found, rows, _spent(judge, settings))))
    else:
        _print(console, request, summary, found, rows)
        _print_spent(console, judge, settings)
    return _FAILED if summary.failed else _DONE


def _answers(text: str) -> dict[str, Answer]:
    """Return the answers of a file, or of `RUN:CANDIDATE`.

    Raises:
        ValueError: if there are none.
    """
    run, colon, candidate = text.rpartition(":")
    if colon and not Path(text).exists() and Path(run).is_dir():
        return _recorded(Path(run), candidate)
    return read_answers(Path(text))


def _recorded(path: Path, name: str) -> dict[str, Answer]:
    """Return a candidate's outputs on the search split, cut at the task's stop strings."""
    from kilobit.cluster.cli.significance import candidate_of, recorded
    from kilobit.cluster.runs.folder import open_run
    from kilobit.cluster.runs.report_parts import steps_of
    from kilobit.evaluators.tasks.registry import load_task

    run = open_run(path)
    candidate = candidate_of(run, name)
    found = recorded(run.ledger.read("predictions"), candidate, "search", str(path))
    task = load_task(run.sweep.task, run.sweep_folder)
    inputs = {example.id: example.input for example in task.splits.search}
    where, steps = f"{path}:{candidate}", steps_of(run.ledger).get(candidate, ())
    return {
        one.example: Answer(inputs.get(one.example), task.cut(one.output, steps), where)
        for one in found
    }


def _judge(settings: AnyJudge, folder: Path) -> Judge:
    """Return the judge of the settings: an endpoint or a local model."""
    if isinstance(settings, EndpointJudge):
        return Endpoint(settings, folder)
    assert isinstance(settings, ModelJudge)
    # Torch takes seconds to import, and the other judges need none of it.
    from kilobit.evaluators.judges.model_judges import LocalJudge

    return LocalJudge(settings, folder)


def _spent(judge: Judge | None, settings: AnyJudge) -> dict[str, Any] | None:
    if not isinstance(judge, Endpoint) or not isinstance(settings, EndpointJudge):
        return None
    return asdict(judge.spent) | {"dollars": judge.spent.dollars(settings)}


def _print_spent(console: Console, judge: Judge | None, settings: AnyJudge) -> None:
    spent = _spent(judge, settings)
    if spent is None:
        return
    cost = spent["dollars"]
    price = "cost unknown" if cost is None else f"{cost:.4f} dollars"
    console.print(
        f"asked: {spent['requests']} requests, {spent['replies']} replies; {spent['cached']} were "
        f"cached; {spent['input_tokens']} tokens in, {spent['output_tokens']} out, {price}"
    )
    if spent["uncounted"]:
        console.print(f"  {spent['uncounted']} replies did not report their number of tokens")


def _as_json(
    request: CompareRequest,
    summary: Summary,
    found: Sequence[Strength],
    rows: Sequence[Judged],
    spent: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "one": request.one,
        "two": request.two,
        "judge": str(request.judge),
        "prompts": len(rows),
        **asdict(summary),
        "flipped": summary.flipped,
        "warning": summary.warning,
        "strengths": [asdict(strength) for strength in found],
        "failures": [{"id": r.id, "reason": r.reason} for r in rows if r.outcome is None],
        "spent": spent,
    }


def _print(
    console: Console,
    request: CompareRequest,
    summary: Summary,
    found: Sequence[Strength],
    rows: Sequence[Judged],
) -> None:
    console.print(f"A: {plain(request.one)}\nB: {plain(request.two)}")
    console.print(
        f"{summary.judged} of {len(rows)} prompts were judged: A wins {summary.wins}, "
        f"{summary.ties} ties, A loses {summary.losses}"
    )
    if summary.flipped is not None:
        console.print(
            f"{100 * summary.flipped:.0f} % of the prompts that were judged in both orders got "
            "another winner when the order changed"
        )
    if summary.warning is not None:
        console.print(f"WARNING: {summary.warning}")
    if found:
        console.print(_table(found))
    reasons = Counter(row.reason for row in rows if row.outcome is None)
    for reason, number in reasons.most_common(_REASONS_SHOWN):
        console.print(f"not judged: {number} prompts: {plain(reason or 'no reason')}")
    if len(reasons) > _REASONS_SHOWN:
        console.print(f"not judged: {len(reasons) - _REASONS_SHOWN} more reasons; see --rows")


def _table(found: Sequence[Strength]) -> Table:
    table = Table("ties", "A against B", "95 % interval", "tie parameter", "meaning")
    for one in found:
        bounds = (
            "unknown"
            if one.lower is None or one.upper is None
            else f"{100 * one.lower:.1f} to {100 * one.upper:.1f}"
        )
        table.add_row(
            one.model,
            "unknown" if one.strength is None else f"{100 * one.strength:.1f} %",
            bounds,
            "" if one.tie is None else f"{one.tie:.3f}",
            _MEANING[one.model],
        )
    return table
