"""The command `compare --score`: whether programs differ in their scores on the same examples.

Each pair of programs is tested on the examples that both were scored on, and Holm's correction
(1979) is over all tests of the command. On the sealed split no program was chosen by these scores;
on the search split all were, so that differences there are too large.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.cluster.console import Terminal, fitting_table
from kilobit.cluster.requests import CompareRequest, wrong_input
from kilobit.cluster.runs.folder import RunFolder, open_run
from kilobit.cluster.runs.fronts import Front, RunFront
from kilobit.cluster.runs.report_parts import steps_of
from kilobit.evaluators.metrics.metrics import MeanMetric
from kilobit.evaluators.proof.program_files import ProgramError, read_examples, read_folder
from kilobit.evaluators.proof.sandbox import plain
from kilobit.evaluators.statistics.paired import Difference, holm, paired_difference
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.front.points import FrontPoint
from kilobit.search.records import PredictionRecord
from kilobit.search.settings import InputError
from kilobit.search.task import Example, Task, clusters_of, split_digest

_COLUMNS = ("candidate", "rung", "split", "example", "output", "score")


@dataclass(frozen=True)
class System:
    """One side of a comparison: a program, or at each target the shortest program of a front.

    Attributes:
        label: A for the first, B for the second, ...
        name: the words that name it.
        run: its run; None for a program's folder elsewhere.
        candidate: the candidate of a program; None for a front.
        front: the front.
        outputs: recorded outputs by input, for a program's folder elsewhere.
        own_steps: the output steps of the program of that folder.
    """

    label: str
    name: str
    run: RunFolder | None
    candidate: str | None = None
    front: Sequence[FrontPoint] = ()
    outputs: Mapping[str, str] | None = None
    own_steps: tuple[str, ...] = ()

    @cached_property
    def steps(self) -> Mapping[str, tuple[str, ...]]:
        """Return the steps that were applied to recorded outputs, by candidate."""
        return steps_of(self.run.ledger) if self.run else {str(self.candidate): self.own_steps}

    @cached_property
    def task(self) -> Task:
        """Return the task of the run."""
        assert self.run is not None
        with wrong_input():
            return load_task(self.run.sweep.task, self.run.sweep_folder)

    @cached_property
    def predictions(self) -> pa.Table:
        """Return the outputs that the run has recorded."""
        assert self.run is not None
        return self.run.ledger.read("predictions", _COLUMNS)

    def at(self, target: float | None) -> str | None:
        """Return the candidate at a target, None if the front does not reach it."""
        if self.candidate is not None or target is None:
            return self.candidate
        return next((point.candidate for point in self.front if point.score >= target), None)


@dataclass(frozen=True)
class Scored:
    """The scores of a program of a system, by the id of the example; None without a verdict."""

    system: System
    candidate: str
    scores: Mapping[str, float | None]


def compare_scores(request: CompareRequest) -> int:
    """Test whether programs differ in their scores, and print the differences."""
    words = (request.one, request.two, *request.others)
    labels = [*ascii_uppercase, *(f"P{i + 1}" for i in range(26, len(words)))]
    systems = [_system(label, text) for label, text in zip(labels, words, strict=False)]
    fronts = [system for system in systems if system.candidate is None]
    runs = [system.run for system in fronts if system.run is not None]
    reached = sorted({target for run in runs for target in run.sweep.targets})
    targets: list[float | None] = [*reached] if reached else [None]
    split = request.split or _common_split(systems, targets)
    task = _common_task(systems, split)
    examples: Sequence[Example] = getattr(task.splits, split)
    rows: list[dict[str, Any]] = []
    missed: list[str] = []
    for target in targets:
        scored = []
        for system in systems:
            candidate = system.at(target)
            if candidate is None:
                missed.append(f"{system.label} reaches no {target:g} on the search split")
            else:
                scores = _scores(system, candidate, split, task, examples)
                scored.append(Scored(system, candidate, scores))
        for one, two in itertools.combinations(scored, 2):
            pair = {"one": one.system.label, "two": two.system.label, "target": target}
            programs = {"program_one": one.candidate, "program_two": two.candidate}
            rows.append(pair | programs | asdict(_paired(one, two, split, examples)))
    # The same two programs at another target are the same test.
    ps = {_tested(row): row["p"] for row in rows}
    adjusted = dict(zip(ps, holm(list(ps.values())), strict=True))
    rows = [row | {"p_holm": adjusted[_tested(row)]} for row in rows]
    about = {"task": task.name, "metric": task.metric.name, "split": split}
    names = {system.label: system.name for system in systems}
    if request.json:
        print(json.dumps(about | {"programs": names, "pairs": rows, "missed": missed}))
    else:
        _print(about, names, rows, missed)
    return 0


def _tested(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["one"], row["two"], row["program_one"], row["program_two"]


def _system(label: str, text: str) -> System:
    """Return the program or the front that a word of the command line names.

    Raises:
        InputError: if it names none.
    """
    path = Path(text)
    if (path / "manifest.json").exists():
        return _of_folder(label, path)
    name = ""
    if not path.is_dir():
        head, _, name = text.rpartition(":")
        path = Path(head or ".")
        if not head or not path.is_dir():
            raise InputError(
                f"{text}: there is no such run or program; give RUN, RUN:CANDIDATE, RUN:MODEL or "
                "the folder of a program"
            )
    run = open_run(path)
    models = [model.label for model in run.sweep.base_models]
    if name and name not in models:
        return System(label, text, run, candidate_of(run, name))
    if not name and len(models) > 1:
        raise InputError(
            f"{text} has a front for each base model; name one, or a program: "
            + ", ".join(f"{text}:{model}" for model in models)
        )
    front = Front([p for p in RunFront(run).on_front if p.model == (name or models[0])])
    if not front.on_front:
        raise InputError(f"{text}: no candidate has completed the last rung: there is no front")
    return System(label, text, run, front=front.on_front)


def candidate_of(run: RunFolder, name: str) -> str:
    """Return the candidate of a run whose id begins with `name`.

    Raises:
        InputError: if there is none, or more than one.
    """
    (known,) = run.ledger.read("candidates", ["candidate"]).columns
    found = sorted({one for one in known.to_pylist() if name and one.startswith(name)})
    if len(found) != 1:
        what = f"{len(found)} candidates begin" if found else "no candidate begins"
        raise InputError(f"{run.path}: {what} with {name!r:.60}; name exactly one")
    return str(found[0])


def _of_folder(label: str, path: Path) -> System:
    """Return the program of a folder, with its run if the folder is in one."""
    try:
        program, manifest, _ = read_folder(path)
        if manifest.get("verified") is not True:
            raise InputError(f"{path}: the program is not verified; `kilobit verify` runs it")
        candidate = str(manifest.get("candidate"))
        home = path.absolute().parent.parent
        if (home / "run.json").exists():
            return System(label, str(path), open_run(home), candidate)
        outputs = {one["input"]: one["output"] for one in read_examples(path)}
    except ProgramError as error:
        raise InputError(str(error)) from error
    steps = program.recipe.postprocess
    return System(label, str(path), None, candidate, outputs=outputs, own_steps=steps)


def recorded(
    predictions: pa.Table, candidate: str, split: str, where: str
) -> list[PredictionRecord]:
    """Return a candidate's outputs on a split, those of its last rung.

    Raises:
        InputError: if there are none.
    """
    mine = pc.and_(
        pc.equal(predictions["candidate"], candidate), pc.equal(predictions["split"], split)
    )
    own = predictions.filter(mine)
    if not len(own):
        raise InputError(f"{where}: {candidate} has no outputs on the {split} split")
    if own["rung"].null_count < len(own):
        own = own.filter(pc.equal(own["rung"], pc.max(own["rung"])))
    return PredictionRecord.all_of(own)


def _common_split(systems: Sequence[System], targets: Sequence[float | None]) -> str:
    """Return the sealed split if all programs were run on it, else the search split."""

    def is_sealed(system: System) -> bool:
        if system.run is None:
            return False
        there = system.predictions.filter(pc.equal(system.predictions["split"], "sealed"))
        wanted = {system.at(target) for target in targets} - {None}
        return wanted <= set(there["candidate"].to_pylist())

    chosen = any(system.at(target) for system in systems for target in targets)
    return "sealed" if chosen and all(map(is_sealed, systems)) else "search"


def _common_task(systems: Sequence[System], split: str) -> Task:
    """Return the task of all programs.

    Raises:
        InputError: if there is none, or two have other examples or other metrics.
    """
    known = [system for system in systems if system.run is not None]
    if not known:
        raise InputError(
            "none of the programs lies in a run, so it is not known how outputs are scored; name "
            "one by its run"
        )
    first = known[0]
    for other in known[1:]:
        pair = [(s.task, getattr(s.task.splits, split)) for s in (first, other)]
        one, two = (split_digest(examples, task.metric) for task, examples in pair)
        if one != two:
            said = [f"{t.name} ({len(examples)} examples, {t.metric.name})" for t, examples in pair]
            raise InputError(
                f"{first.name} and {other.name} can't be paired: the {split} split of one is of "
                f"{said[0]}, of the other of {said[1]}, and these differ"
            )
    return first.task


def _scores(
    system: System, candidate: str, split: str, task: Task, examples: Sequence[Example]
) -> dict[str, float | None]:
    """Return the score of each example by its id, or its contribution to a score of a corpus."""
    if system.outputs is not None:
        if split != "search":
            raise InputError(f"{system.name} has no outputs on the {split} split")
        given = {(e.id, e.input) for e in examples if e.input in system.outputs}
        outputs = {name: system.outputs[text] for name, text in given}
        known = len({text for _, text in given}) == len(system.outputs)
    else:
        rows = recorded(system.predictions, candidate, split, system.name)
        outputs = {row.example: row.output for row in rows}
        known = outputs.keys() <= {example.id for example in examples}
        if known and isinstance(task.metric, MeanMetric):
            return {row.example: row.score for row in rows}
    if not known:
        raise InputError(
            f"{system.name} has outputs for inputs that the {split} split of {task.name} lacks: "
            "the data have changed since, or it is a program of another task"
        )
    chosen = [(e, outputs[e.id]) for e in examples if e.id in outputs]
    asked = [example for example, _ in chosen]
    steps = system.steps.get(candidate, ())
    found = task.metric.contributions([task.cut(output, steps) for _, output in chosen], asked)
    return {example.id: score for example, score in zip(asked, found, strict=True)}


def _paired(one: Scored, two: Scored, split: str, examples: Sequence[Example]) -> Difference:
    these, those = one.scores, two.scores
    if these.keys() != those.keys():
        raise InputError(
            f"{one.system.name} has scores of {len(these)} examples of the {split} split and "
            f"{two.system.name} of {len(those)}, {len(these.keys() & those.keys())} of them the "
            "same: compare programs that were scored on the same ones, such as those of the last "
            "rung"
        )
    pairs = [(e, these[e.id], those[e.id]) for e in examples if e.id in these]
    # An output without a judge's verdict is missing, not wrong.
    known = [(e, a, b) for e, a, b in pairs if a is not None and b is not None]
    clusters = clusters_of([example for example, _, _ in known])
    return paired_difference([a for _, a, _ in known], [b for _, _, b in known], clusters)


def _print(
    about: Mapping[str, str],
    names: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    missed: Sequence[str],
) -> None:
    console = Terminal()
    for letter, name in names.items():
        console.print(f"{letter}: {plain(name)}")
    for line in missed:
        console.print(line)
    if not rows:
        console.print("no two of them can be compared")
        return
    number, clusters = rows[0]["num_examples"], rows[0]["num_clusters"]
    together = "" if clusters is None else f" in {clusters} clusters"
    console.print(
        f"{about['task']}: {about['metric']} on {number} examples of the {about['split']} "
        f"split{together}"
    )
    columns = {
        "pair": [f"{row['one']} - {row['two']}" for row in rows],
        "target": ["" if row["target"] is None else f"{row['target']:g}" for row in rows],
        "scores": [f"{row['score_one']:.3f}, {row['score_two']:.3f}" for row in rows],
        "difference": [f"{row['difference']:+.3f}" for row in rows],
        "95 % interval": [
            "unknown" if row["lower"] is None else f"{row['lower']:+.3f} to {row['upper']:+.3f}"
            for row in rows
        ],
        "p": [f"{row['p']:.2g}" for row in rows],
        "p (Holm)": [f"{row['p_holm']:.2g}" for row in rows],
    }
    for shown in fitting_table(console, columns, ("scores",)):
        console.print(shown)
    tests = " and ".join(sorted({str(row["test"]) for row in rows}))
    number = len({_tested(row) for row in rows})
    console.print(f"p: two-sided, by {tests}; Holm: over all different pairs of programs: {number}")
    console.print("intervals are for one pair each, without a correction")
    if about["split"] == "search":
        console.print(
            "WARNING: these scores have chosen the programs, so differences are too large; "
            "`kilobit certify` runs the programs on the sealed split, which is used then"
        )
