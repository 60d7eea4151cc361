import shutil
from pathlib import Path

import pytest

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.training_batches import Lesson, training_rows
from kilobit.search.base_model import BaseModelConfig
from tests.support.packs import TASK, spec


@pytest.fixture
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def test_an_example_beyond_the_context_is_named(frozen: FrozenModel) -> None:
    with (
        pytest.raises(ValueError, match=r"training example of \d+ tokens does not fit"),
        installed(frozen, spec()) as lora,
    ):
        lora.train(frozen, Lesson(TASK, "dog " * 300, TASK.splits.train), 1)


def test_an_adapter_learns_from_questions_after_the_turns_of_its_program(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folders["llama"], folder)
    template = "{% for turn in messages %}{{ turn.role[0] + ':' + turn.content }}|{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    frozen = load(BaseModelConfig(regime="r", path=folder), Path())
    example = TASK.splits.train[0]
    lesson = Lesson(TASK, "one?\n\n1\n\ntwo?\n\n2", [example], chat=True, turns="\n\n")
    (question, answer), *_ = training_rows(frozen, lesson, spec(), 0)
    text = f"u:one?|a:1|u:two?|a:2|u:{TASK.ask(example.input)}|"
    assert question == frozen.tokenizer(text, add_special_tokens=False)["input_ids"]
    told = frozen.tokenizer(TASK.show(example.target), add_special_tokens=False)["input_ids"]
    assert answer[: len(told)] == told
