import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.oracles import run_program
from kilobit.evaluators.model import adapted
from kilobit.evaluators.model.adapted import AdaptedModel, bare, with_program
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load, unchanged
from kilobit.evaluators.model.machine import weights_digest
from kilobit.evaluators.model.packing.probe import Probe
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.model.text_codec import learn
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.postprocess import cut
from tests.conftest import _tokenizer, random_numbers
from tests.support.models import build_model

NUMBERS = load_miniature("numbers", 0)


TRANSLATION = load_miniature("translation", 0)


@pytest.fixture(scope="module")
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="small", path=model_folders["llama"]), Path())


_SPECS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 1, "target_modules": ("q_proj",)},
    "soft_prompt": {"size": 3},
    "fourierft": {"size": 3, "target_modules": ("q_proj",)},
    "weights": {"target_modules": ("norm",)},
}


@pytest.mark.parametrize("method", [None, *_SPECS])
def test_a_program_is_on_the_model_for_other_tasks_and_off_afterwards(
    method: str | None, frozen: FrozenModel, model_folders: dict[str, Path]
) -> None:
    spec = None
    if method is not None:
        spec = AdapterSpec(
            method=method, learning_rate=1.0, steps=1, batch_size=1, seed=0, **_SPECS[method]
        )
    candidate = Candidate(
        task="numbers",
        model="small",
        prompt=Prompt(instruction="Zahl:"),
        adapter=spec,
        postprocess=("first_word",) if method is None else (),
    )
    config = BaseModelConfig(regime="small", path=model_folders["llama"])
    builder = Builder(frozen, config, NUMBERS, 1, "program")
    texts = builder.code_text(candidate, by_model=False)
    asked = [example.input for example in TRANSLATION.splits.search[:3]]
    questions = [TRANSLATION.ask(text) for text in asked]
    before, digest = bare(frozen).answer(questions, 8, ("\n",)), weights_digest(frozen.model)
    elsewhere = {"question": TRANSLATION.question, "max_new_tokens": 8, "stop": ("\n",)}
    if spec is None:
        program = builder.build(candidate, texts, None, [])
        model = frozen.model
        changed = replace(program, recipe=program.recipe.model_copy(update=elsewhere))
        expected = run_program(changed, "Zahl:\n", frozen, model, asked)
    else:
        with installed(frozen, spec) as adapter:
            program = builder.build(candidate, texts, adapter, random_numbers(adapter))
        with installed(frozen, spec) as adapter:
            decoded = builder.decode(program)
            adapter.assign(decoded.tensors, decoded.delta)
            changed = replace(program, recipe=program.recipe.model_copy(update=elsewhere))
            expected = run_program(changed, "Zahl:\n", frozen, adapter.model, asked)
    with with_program(frozen, candidate, program, NUMBERS, steps=True) as subject:
        found = subject.answer(questions, 8, ("\n",))
    with with_program(frozen, candidate, program, NUMBERS) as subject:
        assert subject.steps == ()
    assert found == expected
    assert found != before
    assert bare(frozen).answer(questions, 8, ("\n",)) == before
    assert weights_digest(frozen.model) == digest


def test_a_program_of_examples_learns_them_again(frozen: FrozenModel) -> None:
    spec = AdapterSpec(
        method="data",
        rank=1,
        target_modules=("q_proj",),
        size=2,
        learning_rate=1.0,
        steps=2,
        batch_size=1,
        seed=0,
    )
    candidate = Candidate(task="numbers", model="small", adapter=spec)
    builder = Builder(frozen, BaseModelConfig(regime="small", path=Path()), NUMBERS, 1, "program")
    questions = [
        TRANSLATION.ask(e.input) + TRANSLATION.show(e.target) for e in TRANSLATION.splits.search[:3]
    ]
    with installed(frozen, spec) as adapter:
        learned = learn(frozen, adapter, NUMBERS, 2, exact=True)
        program = builder.build(candidate, {}, adapter, learned)
        expected = bare(frozen).bits(questions)
    with with_program(frozen, candidate, program, NUMBERS) as subject:
        assert subject.bits(questions) == pytest.approx(expected, abs=1e-4)
    assert bare(frozen).bits(questions) != pytest.approx(expected, abs=1e-3)


def test_bits_of_a_text_are_those_of_the_model(frozen: FrozenModel) -> None:
    long = "one and two and three. " * 60
    texts = ["Three apples", long]
    found = bare(frozen).bits(texts)
    begin = frozen.tokenizer("")["input_ids"]
    for text, bits in zip(texts, found, strict=True):
        ids = frozen.tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = 0.0
        for first in range(0, len(ids), 128):
            whole = torch.tensor([[*begin, *ids[first : first + 128]]])
            told = frozen.model(whole).logits[0, :-1].log_softmax(-1)
            expected -= float(told.gather(1, whole[0, 1:, None]).sum().detach()) / math.log(2)
        assert bits == pytest.approx(expected, rel=1e-5)
    assert len(frozen.tokenizer(long)["input_ids"]) > 256
    with pytest.raises(ValueError, match="do not fit"):
        AdaptedModel(frozen, prompt="much too long " * 40).bits([long])


@pytest.mark.parametrize("method", [None, "lora", "soft_prompt"])
@pytest.mark.parametrize("name", ["lfm2", "llama"])
def test_a_model_without_packs_reads_rows_one_by_one(
    name: str, method: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_model(name, _tokenizer(bos=False, pad=False), tmp_path / "model")
    # Ignored here, as it is in packs.
    (folder / "generation_config.json").write_text('{"eos_token_id": 0, "repetition_penalty": 9.0}')
    config = BaseModelConfig(regime="small", path=folder)
    model = load(config, Path())
    if name == "llama":
        monkeypatch.setattr(adapted, "probe", lambda _: Probe("tried"))
    spec = None
    if method is not None:
        spec = AdapterSpec(
            method=method, learning_rate=1.0, steps=1, batch_size=1, seed=0, **_SPECS[method]
        )
    candidate = Candidate(
        task="numbers", model="small", prompt=Prompt(instruction="Zahl:"), adapter=spec
    )
    builder = Builder(model, config, NUMBERS, 1, "program")
    texts = builder.code_text(candidate, by_model=False)
    if spec is None:
        program = builder.build(candidate, texts, None, [])
    else:
        with installed(model, spec) as adapter:
            program = builder.build(candidate, texts, adapter, random_numbers(adapter))
    questions = [NUMBERS.ask(example.input) for example in NUMBERS.splits.search[:3]]
    with with_program(model, candidate, program, NUMBERS) as subject:
        assert not subject.packs
        answers, bits = subject.answer(questions, 6, ("\n",)), subject.bits(questions)
        whole = [_greedy(subject.frozen, subject.text(question)) for question in questions]
        expected = [cut(text, ("\n",)) for text in whole]
    assert answers == expected
    # A few tokens far before an answer need not change it.
    assert method is None or bare(model).answer(questions, 6, ("\n",)) != answers
    assert bare(model).bits(questions) != pytest.approx(bits, rel=1e-3)
    assert unchanged(model)
    if name == "llama":
        monkeypatch.undo()
        with with_program(model, candidate, program, NUMBERS) as subject:
            assert subject.packs
            assert subject.answer(questions, 6, ("\n",)) == answers
            assert subject.bits(questions) == pytest.approx(bits, rel=1e-4)


def _greedy(frozen: FrozenModel, text: str) -> str:
    """Return an answer token by token, each from a pass of its own over all tokens before."""
    first = frozen.tokenizer(text)["input_ids"]
    ids = list(first)
    while len(ids) < len(first) + 6 and "\n" not in frozen.tokenizer.decode(ids[len(first) :]):
        logits = frozen.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == frozen.tokenizer.eos_token_id:
            break
    return str(frozen.tokenizer.decode(ids[len(first) :], skip_special_tokens=True))


def test_a_question_of_another_task_comes_after_the_turns_of_a_program(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(model_folders["llama"], tmp_path / "model")
    template = "{% for turn in messages %}{{ turn.role[0] + ':' + turn.content }}|{% endfor %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(template, "utf-8")
    config = BaseModelConfig(regime="small", path=tmp_path / "model")
    frozen = load(config, Path())
    prompt = Prompt(instruction="Zahl:", demonstrations=(("1 + 1?", "2"),))
    one = Candidate(task="numbers", model="small", prompt=prompt, chat=True, turns=True)
    builder = Builder(frozen, config, NUMBERS, 1, "program")
    program = builder.build(one, builder.code_text(one, by_model=False), None, [])
    with with_program(frozen, one, program, NUMBERS) as subject:
        assert subject.text("ein {input}\n\nWort") == (
            "u:Zahl:\nQ: 1 + 1?\nA:|a:2|u:ein {input}\n\nWort|"
        )
