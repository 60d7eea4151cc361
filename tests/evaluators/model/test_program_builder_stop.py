"""A stop string longer than a token, with steps: whole words of it are in the generated text."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.oracles import run_program
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.proof.sandbox import Limits
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.postprocess import RULE
from kilobit.search.programs.program import build
from kilobit.search.programs.recipe import Recipe
from tests.support.fresh_process import run_files

TASK = load_miniature("numbers", 0)
EXAMPLES = TASK.splits.search[:6]
SHOWN = "".join(TASK.ask(e.input) + TASK.show(e.target) for e in TASK.splits.train[:3])
MODEL = Path(__file__).parents[3] / "examples/tiny/pretrained"


@pytest.mark.parametrize("stop", [("\nQ:",), ("\nQ: ",), ("\n\n", "\nQ:")])
def test_steps_see_no_stop_string(stop: tuple[str, ...]) -> None:
    frozen = load(BaseModelConfig(regime="pretrained", path=MODEL), Path())
    task = replace(TASK, stop=stop, question=SHOWN + TASK.question)
    inputs = [example.input for example in EXAMPLES]
    found = {}
    for steps in ((), ("last_word",), ("last_number",)):
        recipe = Recipe(
            question=task.question,
            batch_size=6,
            max_new_tokens=40,
            stop=stop,
            postprocess=steps,
            steps_rule=RULE,
        )
        program = build(recipe, b"")
        outputs = run_program(program, "", frozen, None, inputs)
        cut = [task.cut(output, steps) for output in outputs]
        found[steps] = [text.strip() for text in cut]
        if steps == ("last_word",):
            limits = Limits(seconds=100)
            assert run_files(program.script, b"", MODEL, inputs, limits) == outputs
    assert found["last_word",] == found["last_number",] == found[()]
    assert task.metric.corpus(found[()], EXAMPLES).score > 0
