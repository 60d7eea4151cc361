"""Chats in packs, of models that think and with turns: a worker scores what program.py prints."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker import resident, run_rung
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.proof.program_files import read_program
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt, Rung
from tests.support.driver.candidates import lora
from tests.support.fresh_process import printed
from tests.support.recipes import adapter_spec
from tests.support.rows import rows_of
from tests.support.thinker import STOP, make_thinker, write_task

# The first two answer as the model has learned; the others' texts are new to it.
PACK: tuple[dict[str, Any], ...] = (
    {},
    {"postprocess": ("last_word",)},
    {"prompt": Prompt(instruction="Well, ")},
    {"adapter": lora(steps=1).adapter},
)
# Of each model: the budget of its thinking, and the score of a candidate as it has learned. The
# third one's thinking is cut off, and its answer has the whole limit all the same.
MODELS: tuple[tuple[dict[str, Any], int | None, float | None], ...] = (
    ({"thinking_tokens": 40}, 40, 1.0),
    ({"enable_thinking": False}, None, 0.0),
    ({"enable_thinking": True, "thinking_tokens": 2}, 2, None),
)


def test_packs_that_think_say_what_their_programs_print(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    thinker, task = make_thinker(tmp_path / "model"), write_task(tmp_path)
    programs, recorded = {}, {}
    for number, (settings, budget, score) in enumerate(MODELS):
        models = [{"regime": "thinker", "path": str(thinker), **settings}]
        sweep = load_sweep(write_sweep(task=task, base_models=models))
        run = tmp_path / str(number)
        about = (str(tmp_path), str(run), "thinker", "thinker-0", 1)
        evaluator = RungEvaluator(EvaluatorSetup(sweep.model_dump_json(), *about))
        base = {"task": "words", "model": "thinker", "chat": True}
        pack = [Candidate.model_validate(base | one) for one in PACK]
        rows = [r.record.row() for r in evaluator.run_rungs([(c, Rung(0, 4, 0)) for c in pack])]
        assert [row["error"] for row in rows] == [None] * 4
        assert len({row["pack"] for row in rows}) == 1
        assert score is None or [row["score"] for row in rows[:2]] == [score, score]
        ledger, examples = Ledger(run / "ledger"), load_task(sweep.task, tmp_path).splits.search
        place = {example.id: at for at, example in enumerate(examples)}
        for one in pack:
            own = [row for row in rows_of(ledger, "predictions") if row["candidate"] == one.id]
            own.sort(key=lambda row: place[row["example"]])
            name = f"{number} {one.id}"
            recorded[name] = [row["output"] for row in own]
            programs[name] = program = read_program(ledger, f"{one.id}-r0")
            thinking, recipe = program.recipe.thinking, program.recipe
            assert (None if thinking is None else thinking.tokens) == budget
            assert (recipe.max_new_tokens, recipe.stop) == (task["max_new_tokens"], STOP)
        if score is not None:
            answers = [recorded[f"{number} {one.id}"] for one in pack[:2]]
            assert [output.removesuffix("\n\n") for output in answers[0]] == answers[1]
            assert all(answer.isdecimal() for answer in answers[1])
    said = printed(programs, thinker, [example.input for example in examples])
    assert said == recorded


def test_packs_in_a_chat_say_what_their_programs_print(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, lessons = tmp_path / "model", list[Lesson]()

    def noted(*args: Any) -> Lesson:
        lessons.append(Lesson(*args))
        return lessons[-1]

    for module in (resident, run_rung):
        monkeypatch.setattr(module, "Lesson", noted)
    shutil.copytree(model_folders["llama"], model)
    # What an untrained model says depends on the last tokens.
    template = "{% for turn in messages %}{{ turn.content }}|{% endfor %}{{ messages | length }}"
    (model / "chat_template.jinja").write_text(template, "utf-8")
    sweep = load_sweep(write_sweep(base_models=[{"regime": "r", "path": str(model)}]))
    about = (str(tmp_path), str(tmp_path / "run"), "r", "r-0", 1)
    evaluator = RungEvaluator(EvaluatorSetup(sweep.model_dump_json(), *about))
    task = load_task(sweep.task, tmp_path)
    shown = tuple((e.input, e.target) for e in task.splits.train[:2])
    base = {"task": "numbers", "model": "r", "chat": True, "prompt": Prompt(demonstrations=shown)}
    pack = [
        Candidate.model_validate(base | one)
        for one in (
            {"turns": True},
            {"turns": False},
            {"turns": True, "adapter": lora(steps=1).adapter},
            {"turns": True, "adapter": adapter_spec("ia3")},
            {"turns": True, "adapter": adapter_spec("weights")},
        )
    ]
    rows = [r.record.row() for r in evaluator.run_rungs([(c, Rung(0, 4, 1)) for c in pack])]
    assert [row["error"] for row in rows] == [None] * len(pack)
    assert rows[0]["template_bits"] > rows[1]["template_bits"] > 0
    ledger, examples = Ledger(tmp_path / "run" / "ledger"), task.splits.search[:4]
    place = {example.id: at for at, example in enumerate(examples)}
    programs, recorded = {}, {}
    for one in pack:
        own = [row for row in rows_of(ledger, "predictions") if row["candidate"] == one.id]
        own.sort(key=lambda row: place[row["example"]])
        recorded[one.id] = [row["output"] for row in own]
        programs[one.id] = read_program(ledger, f"{one.id}-r0")
        assert programs[one.id].recipe.turns == ("\n\n" if one.turns else "")
    assert printed(programs, model, [example.input for example in examples]) == recorded
    assert recorded[pack[0].id] != recorded[pack[1].id]
    # They learned from questions after the same turns.
    assert len(lessons) == 3
    text = pack[0].before(task)
    assert {(one.prompt, one.chat, one.turns) for one in lessons} == {(text, True, "\n\n")}
