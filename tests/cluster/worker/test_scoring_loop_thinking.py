"""Models that think, in packs: what the worker scores is what program.py prints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.proof.program_files import read_program
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.rungs import Rung
from tests.support.driver.candidates import lora
from tests.support.fresh_process import printed
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
