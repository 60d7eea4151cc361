"""Thinking in a chat template: its opening, its end, and stop strings inside of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.oracles import run_program
from kilobit.evaluators.model import generate
from kilobit.evaluators.model.adapted import with_program
from kilobit.evaluators.model.base_model import FrozenModel, load, load_tokenizer
from kilobit.evaluators.model.generate import ChatTemplate, chat_template_of
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.training_batches import Lesson, _example_tokens
from kilobit.evaluators.proof.sandbox import Limits
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.program import Program
from tests.support.fresh_process import run_files

TINY = Path(__file__).parents[3] / "examples/tiny/pretrained"
TASK = load_miniature("numbers", 0)
INPUTS = [example.input for example in TASK.splits.search[:4]]
QUESTIONS = [TASK.ask(text) for text in INPUTS]
CLOSED = "<think>\n\n</think>\n\n"
TURNS = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
# Templates of the kinds that models have, without their special tokens.
PLAIN = TURNS
SWITCHED = TURNS + (
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
OPENING = TURNS + "{{ '<think>\\n' }}"
SWITCHED_OPENING = TURNS + (
    "{% if thinking %}{{ '<think>\\n' }}{% else %}{{ '</think>' }}{% endif %}"
)
BRACKETS = TURNS + (
    "{% if enable_thinking is not defined or enable_thinking %}{{ '[THINK]' }}{% endif %}"
)
# Removes the thinking of earlier turns and never asks for any.
HISTORY = TURNS + "{% if false %}{{ '</think>' + '<think>' }}{% endif %}"
CLOSE = ("</think>", "</think>\n\n")


def config_of(folder: Path, **changes: Any) -> BaseModelConfig:
    return BaseModelConfig.model_validate({"regime": "pretrained", "path": folder, **changes})


@pytest.mark.parametrize(
    ("template", "settings", "expected"),
    [
        (PLAIN, {}, ChatTemplate()),
        (HISTORY, {}, ChatTemplate()),
        (SWITCHED, {}, ChatTemplate((), "<think>\n", *CLOSE)),
        (
            SWITCHED,
            {"enable_thinking": True, "thinking_tokens": 9},
            ChatTemplate((("enable_thinking", True),), "<think>\n", *CLOSE, 9),
        ),
        (SWITCHED, {"enable_thinking": False}, ChatTemplate((("enable_thinking", False),))),
        (OPENING, {}, ChatTemplate((), "", *CLOSE)),
        (OPENING, {"enable_thinking": False}, ChatTemplate((), CLOSE[1])),
        (SWITCHED_OPENING, {}, ChatTemplate()),
        (
            SWITCHED_OPENING,
            {"enable_thinking": True},
            ChatTemplate((("thinking", True),), "", *CLOSE),
        ),
        (SWITCHED_OPENING, {"enable_thinking": False}, ChatTemplate((("thinking", False),))),
        (BRACKETS, {}, ChatTemplate((), "", "[/THINK]", "[/THINK]")),
        (BRACKETS, {"enable_thinking": False}, ChatTemplate((("enable_thinking", False),))),
        (HISTORY, {"thinking_tokens": 5}, ChatTemplate((), "<think>\n", *CLOSE, 5)),
        (
            PLAIN,
            {"thinking_marks": ("First, ", "So\n")},
            ChatTemplate((), "First, ", "So", "So\n"),
        ),
    ],
)
def test_the_template_and_the_settings_say_whether_a_model_thinks(
    template: str, settings: dict[str, Any], expected: ChatTemplate
) -> None:
    config = config_of(TINY, **settings)
    tokenizer, _ = load_tokenizer(config, Path())
    tokenizer.chat_template = template
    assert chat_template_of(tokenizer, config) == expected


@pytest.mark.parametrize(
    ("template", "settings", "message"),
    [
        (PLAIN, {"enable_thinking": False}, "enable_thinking: the chat template has no switch"),
        (PLAIN, {"enable_thinking": True}, "thinking_marks: give them"),
        (TURNS + CLOSED, {"thinking_tokens": 5}, "ends the thinking by itself"),
    ],
)
def test_settings_that_do_not_fit_the_template(
    template: str, settings: dict[str, Any], message: str
) -> None:
    config = config_of(TINY, **settings)
    tokenizer, _ = load_tokenizer(config, Path())
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        chat_template_of(tokenizer, config)


def test_a_template_that_does_not_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "_RENDER_CPU_S", 0.5)
    tokenizer, _ = load_tokenizer(config_of(TINY), Path())
    # A few seconds: enough for the test, and over when its process ends.
    loops = "{% for i in range(99999) %}{% for i in range(2000) %}"
    tokenizer.chat_template = loops + "{% endfor %}{% endfor %}" + TURNS
    with pytest.raises(ValueError, match=r"does not end within 0\.5 processor seconds for a word"):
        chat_template_of(tokenizer, None)


@pytest.mark.parametrize(
    "settings",
    [
        {"enable_thinking": False, "thinking_tokens": 5},
        {"enable_thinking": False, "thinking_marks": ("a", "b")},
        {"thinking_marks": ("a", " ")},
        {"thinking_tokens": 0},
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="thinking"):
        config_of(TINY, **settings)


def loaded(folder: Path, template: str, **settings: Any) -> FrozenModel:
    shutil.copytree(TINY, folder)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return load(config_of(folder, **settings), Path())


def built(frozen: FrozenModel, steps: tuple[str, ...] = ()) -> tuple[Candidate, Program]:
    assert frozen.config is not None
    builder = Builder(frozen, frozen.config, TASK, 4, "program")
    candidate = Candidate(
        task="numbers", model="pretrained", prompt=Prompt(), chat=True, postprocess=steps
    )
    return candidate, builder.build(candidate, {}, None, [])


@pytest.mark.parametrize(("marks", "steps"), [(None, ()), (("Let us see:", "Q:"), ("last_word",))])
def test_a_stop_string_in_the_thinking_ends_nothing_anywhere(
    tmp_path: Path, marks: tuple[str, str] | None, steps: tuple[str, ...]
) -> None:
    folder = tmp_path / "model"
    frozen = loaded(folder, SWITCHED, thinking_tokens=24, thinking_marks=marks)
    candidate, program = built(frozen, steps)
    thinking = program.recipe.thinking
    assert thinking is not None
    assert (thinking.tokens, program.recipe.max_new_tokens) == (24, TASK.max_new_tokens)
    alone = run_program(program, "", frozen, frozen.model, INPUTS)
    limits = Limits(seconds=300)
    assert run_files(program.script, program.payload, folder, INPUTS, limits) == alone
    with with_program(frozen, candidate, program, TASK, steps=True) as subject:
        asked = [subject.text(question) for question in QUESTIONS]
        thought = subject.thought(asked)
        answers = subject.answer(QUESTIONS, TASK.max_new_tokens, TASK.stop)
    assert answers == [TASK.cut(output, steps) for output in alone]
    # The thinking has line ends, which are the task's stop, and what is scored has none of it.
    between = [long[len(short) :] for long, short in zip(thought, asked, strict=True)]
    assert all(text.endswith(thinking.close) for text in between)
    assert any("\n" in text.removesuffix(thinking.close).strip() for text in between)
    assert not any(thinking.mark in answer or "\n" in answer for answer in answers)


def test_thinking_that_is_off_costs_its_argument_alone(tmp_path: Path) -> None:
    frozen = loaded(tmp_path / "model", SWITCHED, enable_thinking=False)
    _, program = built(frozen)
    assert program.recipe.thinking is None
    assert b"enable_thinking" in program.script or b"brotli" in program.script
    thinking = loaded(tmp_path / "on", SWITCHED)
    assert built(thinking)[1].program_bits > program.program_bits
    # A model learns to answer after the end of the thinking.
    for model in (frozen, thinking):
        lesson = Lesson(TASK, "", TASK.splits.train, chat=True)
        ids, _ = _example_tokens(model, lesson, TASK.splits.train[0])
        assert model.tokenizer.decode(ids).endswith("</think>\n\n")
