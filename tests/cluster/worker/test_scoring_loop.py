"""Races and the cache change what is generated, never what a program is said to do."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.messages import EvaluatorSetup, Notice
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.cluster.worker import scoring_loop
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.worker.resident import Resident
from kilobit.cluster.worker.scoring import Scorer, comparable
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.evaluators.model.packing.probe import Probe
from kilobit.evaluators.proof.program_files import read_program
from kilobit.evaluators.tasks.harness_task import HarnessTask
from kilobit.evaluators.tasks.jsonl import JsonlTask
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt, Rung
from kilobit.search.records import rung_part
from kilobit.search.schedulers.racing import Incumbent
from tests.conftest import REPOSITORY
from tests.support.driver.candidates import lora
from tests.support.fresh_process import printed
from tests.support.recipes import adapter_spec
from tests.support.rows import part_rows, rows_of
from tests.support.tasks.harness_files import CHOOSE, write_task
from tests.support.tasks.records import write_jsonl

FIRST, SECOND = Rung(0, 4, 2), Rung(1, 8, 4)


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Sweep:
    return load_sweep(write_sweep(rungs={"examples": 4, "train_steps": 2, "eta": 2, "count": 2}))


@pytest.fixture
def make(sweep: Sweep, tmp_path: Path) -> Callable[..., RungEvaluator]:
    def make(run: str = "run", attempt: int = 1, **changes: Any) -> RungEvaluator:
        changed = sweep.model_copy(update=changes)
        about = (str(tmp_path), str(tmp_path / run), "llama", "llama-0", attempt)
        return RungEvaluator(EvaluatorSetup(changed.model_dump_json(), *about))

    return make


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answer every question by what the prompt says: `right` or anything else; note the rows.

    A wave holds one batch of each candidate.
    """
    calls: list[int] = []

    def answer(self: Resident, slots: Any, rows: Sequence[Asked]) -> list[list[int]]:
        if rows:
            calls.append(len(rows))
        frozen = self.frozen
        texts = [frozen.tokenizer.decode(row.ids) for row in rows]
        said = [
            next(target for text, target in TARGETS.items() if text in asked)
            if "right" in asked
            else "?"
            for asked in texts
        ]
        return [frozen.tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]

    monkeypatch.setattr(Resident, "answer", answer)
    monkeypatch.setattr(scoring_loop, "_ROWS", 1)
    return calls


TARGETS: dict[str, str] = {}


def prompt(text: str, **changes: Any) -> Candidate:
    about = {"task": "numbers", "model": "llama", "prompt": Prompt(instruction=text)} | changes
    return Candidate.model_validate(about)


@pytest.fixture(autouse=True)
def targets(make: Callable[..., RungEvaluator]) -> None:
    from kilobit.evaluators.tasks.miniature.catalogue import load_miniature

    TARGETS.update({e.input: e.target for e in load_miniature("numbers", 0).splits.search})


def test_an_example_goes_once_through_the_same_program(
    make: Callable[..., RungEvaluator], asked: list[int]
) -> None:
    one = prompt("right")
    evaluator = make()
    first = evaluator.run_rung(one.canonical(), FIRST).record.row()
    second = evaluator.run_rung(one.canonical(), SECOND).record.row()
    assert (first["num_generated"], second["num_generated"]) == (4, 4)
    assert (first["score"], second["score"], second["num_examples"]) == (1.0, 1.0, 8)
    # Other post-processing is another program whose raw outputs are the same.
    other = evaluator.run_rung(
        prompt("right", postprocess=("lower",)).canonical(), SECOND
    ).record.row()
    assert (other["num_generated"], other["num_examples"]) == (0, 8)
    assert asked == [4, 4]
    longer = evaluator.run_rung(prompt("right", max_new_tokens=3).canonical(), FIRST).record.row()
    assert longer["num_generated"] == 4


def test_runs_that_share_a_cache_share_outputs(
    make: Callable[..., RungEvaluator], asked: list[int], tmp_path: Path
) -> None:
    one = prompt("right").canonical()
    rows = [
        make(run, cache=tmp_path / "shared").run_rung(one, FIRST).record.row() for run in ("a", "b")
    ]
    assert [row["num_generated"] for row in rows] == [4, 0]
    assert make("c").run_rung(one, FIRST).record.row()["num_generated"] == 4
    outputs = [
        [row["output"] for row in rows_of(Ledger(tmp_path / run / "ledger"), "predictions")]
        for run in "abc"
    ]
    assert outputs[0] == outputs[1] == outputs[2]
    assert len(asked) == 2


def test_an_interrupted_rung_generates_only_what_is_missing(
    make: Callable[..., RungEvaluator], monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    one, evaluator, answer = prompt("right").canonical(), make(), Resident.answer

    def stopped(*args: Any) -> Any:
        if asked:
            raise KeyboardInterrupt
        return answer(*args)

    monkeypatch.setattr(Resident, "answer", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluator.run_rung(one, SECOND).record.row()
    monkeypatch.setattr(Resident, "answer", answer)
    row = evaluator.run_rung(one, SECOND).record.row()
    assert (row["num_generated"], row["num_examples"], row["score"]) == (4, 8, 1.0)


def test_a_race_stops_who_can_not_win_and_says_so(
    make: Callable[..., RungEvaluator], asked: list[int], tmp_path: Path
) -> None:
    evaluator, good, bad = make(), prompt("right"), prompt("wrong, and longer")
    row = evaluator.run_rung(good.canonical(), SECOND).record.row()
    assert row["against"] is None
    front = (Incumbent(good.id, row["program_bits"], 1.0),)
    evaluator.hear(Notice(incumbents={(1, 0): front}, expected={bad.id: 1}, more=False))
    lost = evaluator.run_rung(bad.canonical(), SECOND).record.row()
    # Four wrong of eight leave nothing to hope for.
    assert (lost["verdict"], lost["against"], lost["gap"]) == ("loses", good.id, -1.0)
    assert (lost["num_examples"], lost["num_generated"], lost["score"]) == (4, 4, 0.0)
    part = f"{bad.id}-r1"
    assert len(part_rows(Ledger(tmp_path / "run" / "ledger"), "predictions", part) or []) == 4
    as_good = prompt("right as well")
    evaluator.hear(Notice(incumbents={(1, 0): front}, expected={as_good.id: 1}, more=False))
    equal = evaluator.run_rung(as_good.canonical(), SECOND).record.row()
    assert (equal["verdict"], equal["gap"], equal["num_examples"]) == (None, 0.0, 8)


def test_nobody_races_with_a_longer_one_or_where_races_are_off(
    make: Callable[..., RungEvaluator], asked: list[int], sweep: Sweep
) -> None:
    evaluator, good = make(), prompt("right, and this is a long one")
    row = evaluator.run_rung(good.canonical(), FIRST).record.row()
    incumbents = {(0, 0): (Incumbent(good.id, row["program_bits"], 1.0),)}
    short = prompt("wrong")
    evaluator.hear(Notice(1, {short.id: 0}, more=False, incumbents=incumbents))
    its = evaluator.run_rung(short.canonical(), FIRST).record.row()
    assert (its["against"], its["gap"], its["num_examples"]) == (None, None, 4)
    racing = sweep.scheduler.racing.model_copy(update={"enabled": False})
    scheduler = sweep.scheduler.model_copy(update={"racing": racing})
    calm, long = make(scheduler=scheduler), prompt("wrong, and it is longer than the other")
    calm.hear(Notice(1, {long.id: 0}, more=False, incumbents=incumbents))
    its = calm.run_rung(long.canonical(), FIRST).record.row()
    assert (its["verdict"], its["gap"], its["num_examples"]) == (None, -1.0, 4)


def test_a_rung_in_clusters_that_is_not_wholly_known_has_no_race(
    make: Callable[..., RungEvaluator],
    asked: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [
        {"input": text, "target": target, "page": n // 20}
        for n, (text, target) in enumerate(TARGETS.items())
    ]
    write_jsonl(tmp_path / "all.jsonl", records)
    about = {"kind": "jsonl", "name": "numbers", "data": "all.jsonl", "metric": "exact_match"}
    ends = []
    for clusters, known in ((None, 6), ("page", 6), ("page", 8)):
        task = JsonlTask.model_validate(about | {"cluster_field": clusters})
        evaluator = make(f"{clusters}-{known}", task=task)
        theirs = [1.0] * known
        monkeypatch.setattr(Scorer, "_scores_of", lambda *_, theirs=theirs: theirs)
        wrong = prompt("wrong")
        front = {(1, 0): (Incumbent("another", 0, 1.0),)}
        evaluator.hear(Notice(1, {wrong.id: 1}, more=False, incumbents=front))
        row = evaluator.run_rung(wrong.canonical(), SECOND).record.row()
        ends.append((row["verdict"], row["gap"], row["num_examples"]))
    assert ends == [("loses", -1.0, 8), (None, -1.0, 8), ("loses", -1.0, 4)]


def test_one_in_training_is_compared_with_its_like_and_not_raced(
    make: Callable[..., RungEvaluator], asked: list[int]
) -> None:
    evaluator, good = make(), prompt("right")
    bits = evaluator.run_rung(good.canonical(), FIRST).record.row()["program_bits"]
    front, one, two = (Incumbent(good.id, bits, 1.0),), lora(steps=4), lora(steps=4, seed=2)
    evaluator.hear(Notice(1, {one.id: 0}, more=False, incumbents={(0, 0): front}))
    row = evaluator.run_rung(one.canonical(), FIRST).record.row()
    assert (row["left"], row["against"]) == (1, None)
    evaluator.hear(Notice(2, {two.id: 0}, more=False, incumbents={(0, 0): front, (0, 1): front}))
    other = evaluator.run_rung(two.canonical(), FIRST).record.row()
    assert (other["against"], other["verdict"], other["num_examples"]) == (good.id, None, 4)
    assert other["gap"] == -1.0


def test_an_example_without_a_verdict_is_no_evidence_in_a_race() -> None:
    mine, theirs = [1.0, None, 0.0, None, 0.0], [0.5, 1.0, None, None, 0.0]
    assert comparable(mine, theirs) == ([1.0, 1.0, 0.5, 0.5, 0.0], [0.5, 1.0, 0.5, 0.5, 0.0])


@pytest.mark.parametrize("packs", [True, False])
def test_what_needs_no_model_is_scored_without_a_pass(
    make: Callable[..., RungEvaluator],
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    packs: bool,
) -> None:
    evaluator = make()
    if not packs:
        monkeypatch.setattr(evaluator._group.resident, "packs", Probe("by a test"))
    first = next(iter(TARGETS.values()))
    free = [prompt("", constant=first), prompt("", copies_input=True)]
    constant = evaluator.run_rung(free[0].canonical(), FIRST).record
    # No race stops it either.
    beaten = {(0, 0): (Incumbent(free[0].id, 8, 1.0),)}
    evaluator.hear(Notice(1, {free[1].id: 0}, more=False, incumbents=beaten))
    copied = evaluator.run_rung(free[1].canonical(), FIRST).record
    assert asked == []
    assert (constant.error, copied.error) == (None, None)
    assert (constant.num_examples, constant.score, copied.score) == (4, 0.25, 0.0)
    assert (constant.num_distinct, copied.num_distinct) == (1, 4)
    assert (copied.against, constant.input_tokens, constant.output_tokens) == (None, 0, 0)
    assert constant.program_bits == 8 * len(f"for A in open(0):print('\"{first.strip()}\"')")
    outputs = {
        (row["candidate"], row["output"])
        for row in rows_of(Ledger(tmp_path / "run" / "ledger"), "predictions")
    }
    inputs = list(TARGETS)[:4]
    assert outputs == {(free[0].id, first), *((free[1].id, text) for text in inputs)}


def test_choices_in_shared_passes_are_what_programs_print(
    make: Callable[..., RungEvaluator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    sweep: Sweep,
) -> None:
    pytest.importorskip("lm_eval")
    tiny = REPOSITORY / "examples" / "tiny" / "pretrained"
    models = (sweep.base_models[0].model_copy(update={"path": tiny}),)
    write_task(tmp_path / "tasks", "choice", CHOOSE, 10)
    task = HarnessTask(kind="harness", name="choice", include_path=tmp_path / "tasks")
    loaded = load_task(task, tmp_path)
    shown = tuple((e.input, e.target) for e in loaded.splits.train[:1])
    learner = lora(learning_rate=1.0).adapter
    assert learner is not None
    candidates = [
        Candidate(task="choice", model="llama"),
        Candidate(task="choice", model="llama", prompt=Prompt(demonstrations=shown)),
        Candidate(task="choice", model="llama", adapter=learner),
        Candidate(task="choice", model="llama", adapter=adapter_spec("soft_prompt")),
    ]
    judged: list[int] = []
    judge = Resident.judge

    def counted(self: Resident, slots: Any, rows: Any, answers: Any) -> Any:
        judged.append(len(rows))
        return judge(self, slots, rows, answers)

    monkeypatch.setattr(Resident, "judge", counted)
    ends = make(task=task, base_models=models).run_rungs([(one, SECOND) for one in candidates])
    rows = [end.record.row() for end in ends]
    assert [row["error"] for row in rows] == [None] * len(rows)
    # Three answers to each of eight questions, for all programs in one call. Other codings of the
    # adapters' numbers come after it.
    assert judged[0] == 3 * 8 * 4
    assert {row["output_tokens"] for row in rows} == {0}
    ledger = Ledger(tmp_path / "run" / "ledger")
    inputs = [example.input for example in loaded.splits.search[:8]]
    programs = {one.id: read_program(ledger, rung_part(one.id, 1)) for one in candidates}
    said = printed(programs, tiny, inputs)
    for one in candidates:
        own = [row for row in rows_of(ledger, "predictions") if row["candidate"] == one.id]
        assert [row["output"] for row in own] == said[one.id]
    assert len({tuple(outputs) for outputs in said.values()}) > 1
