"""A program's adapter in PEFT's own format is the adapter of the program."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import kilobit
from kilobit import launch
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.proof.export import export_peft, spec_of
from kilobit.evaluators.proof.program_files import write_folder
from kilobit.evaluators.proof.verify import train_file
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.programs.numbers import NumbersCode
from tests.conftest import random_numbers
from tests.support.recipes import NUMBER_METHODS, RECIPES, adapter_spec

TASK = load_miniature("numbers", 0)
PROMPT = Prompt(instruction="Häufig: `n`.", demonstrations=(("1 + 1?", "2"),))
IDS = torch.arange(20, 60)[None]

# Methods whose programs have nothing that PEFT could load.
NOT_OF_PEFT = ("weights", "coordinates", "seeds")


def write(
    folder: Path, model: Path, candidate: Candidate, *, from_start: bool = False
) -> torch.Tensor | None:
    """Write the folder of a program and return the logits of its adapter."""
    config = BaseModelConfig(regime="m", path=model)
    frozen = load(config, Path())
    builder = Builder(frozen, config, TASK, 4, "payload")
    texts = builder.code_text(candidate, by_model=False)
    if candidate.adapter is None:
        write_folder(folder, builder.build(candidate, texts, None, ()), {})
        return None
    with installed(frozen, candidate.adapter) as adapter, torch.no_grad():
        numbers = random_numbers(adapter)
        if from_start:
            numbers = [
                start + 0.5 * t * (not start.any())
                for start, t in zip(adapter.starts(), numbers, strict=True)
            ]
        program = builder.build(candidate, texts, adapter, numbers)
        decoded = builder.decode(program)
        assert decoded.delta or not from_start
        adapter.assign(decoded.tensors, decoded.delta)
        logits: torch.Tensor = adapter.model(input_ids=IDS).logits
    about = {"task": "numbers", "model": "m", "score": 0.5, "base_digest": frozen.machine}
    write_folder(folder, program, about)
    return logits


@pytest.mark.parametrize(
    ("method", "from_start"),
    [("lora", True), *((name, False) for name in NUMBER_METHODS if name not in NOT_OF_PEFT)],
)
def test_peft_loads_what_the_program_has(
    model_folders: dict[str, Path], tmp_path: Path, method: str, from_start: bool
) -> None:
    model = model_folders["llama"]
    candidate = Candidate(
        task="numbers", model="m", prompt=PROMPT, adapter=adapter_spec(method),
        postprocess=("last_number",),
    )  # fmt: skip
    expected = write(tmp_path / "program", model, candidate, from_start=from_start)
    assert expected is not None
    export_peft(tmp_path / "program", tmp_path / "peft", model)
    base = AutoModelForCausalLM.from_pretrained(model).float()
    with torch.no_grad():
        bare = base(input_ids=IDS).logits
        found = PeftModel.from_pretrained(base, tmp_path / "peft")(input_ids=IDS).logits
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[:, -40:], bare, atol=1e-3)
    card = (tmp_path / "peft" / "README.md").read_text("utf-8")
    assert PROMPT.render(TASK) in card
    assert "last_number" in card
    assert repr(TASK.question) in card


def test_another_base_model_is_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    candidate = Candidate(task="numbers", model="m", adapter=adapter_spec("lora"))
    write(tmp_path / "program", model_folders["llama"], candidate)
    with pytest.raises(ValueError, match="has the digest"):
        export_peft(tmp_path / "program", tmp_path / "peft", model_folders["qwen2"])


@pytest.mark.parametrize("method", NUMBER_METHODS)
def test_a_recipe_names_its_adapter_fully(method: str) -> None:
    part = RECIPES[method].adapter
    assert part is not None
    if method in NOT_OF_PEFT:
        return
    spec, own = spec_of(part), adapter_spec(method)
    shape = ("method", "rank", "size", "target_modules", "layers", "tokens")
    assert [getattr(spec, f) for f in shape] == [getattr(own, f) for f in shape]
    strange = part.model_copy(update={"arguments": {**part.arguments, "extra": 1}})
    with pytest.raises(ValueError, match="is not one that this version writes"):
        spec_of(strange)


def test_what_has_nothing_for_peft_is_refused(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_folders["llama"]
    write(tmp_path / "prompt", model, Candidate(task="numbers", model="m", prompt=PROMPT))
    weights = Candidate(task="numbers", model="m", adapter=adapter_spec("weights"))
    write(tmp_path / "weights", model, weights)
    lora = Candidate(task="numbers", model="m", adapter=adapter_spec("lora"))
    write(tmp_path / "lora", model, lora)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for program, target, message in (
        ("prompt", "out", "the program has no adapter"),
        ("weights", "out", "the program has weights"),
        ("lora", "full", "is not empty"),
        ("nowhere", "out", "holds no program"),
    ):
        argv = ["export", str(tmp_path / program), "--peft", str(tmp_path / target)]
        assert launch.main([*argv, "--model", str(model)]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"arguments": {}},
        {"arguments": {"r": [1]}},
        {"arguments": {"r": 10**12, "target_modules": ["q_proj"]}},
        {"arguments": {"r": 1, "target_modules": 3}},
        {"arguments": {"r": 1, "target_modules": ["q_proj"], "layers_to_transform": 1}},
        {"method": "tinylora"},
        {"method": "soft_prompt"},
        {"method": "tinylora", "arguments": {"u": 10**12, "target_modules": ["q_proj"]}},
        {"shapes": [[1 << 40, 1 << 40]]},
        {"shapes": [[1 << 31, 1]]},
        {"shapes": [[-1, 5]]},
        {"shapes": []},
    ],
)
def test_a_hostile_recipe_ends_in_one_message(
    model_folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
) -> None:
    model, folder = model_folders["llama"], tmp_path / "program"
    write(folder, model, Candidate(task="numbers", model="m", adapter=adapter_spec("lora")))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["recipe"]["adapter"] |= change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    argv = ["export", str(folder), "--peft", str(tmp_path / "out"), "--model", str(model)]
    assert launch.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kilobit: ")
    assert not (tmp_path / "out").exists()


def test_a_model_is_a_folder(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = Candidate(task="numbers", model="m", adapter=adapter_spec("lora"))
    write(tmp_path / "program", model_folders["llama"], lora)
    argv = ["export", str(tmp_path / "program"), "--peft", str(tmp_path / "out")]
    assert launch.main([*argv, "--model", "gpt2"]) == 2
    assert "--model: there is no folder gpt2" in capsys.readouterr().err


def test_the_part_of_a_recipe_is_the_same_for_a_spec_and_for_its_recipe(
    model_folders: dict[str, Path],
) -> None:
    frozen = load(BaseModelConfig(regime="m", path=model_folders["llama"]), Path())
    for method in ("tinylora", "lora_xs"):
        with installed(frozen, adapter_spec(method)) as adapter:
            part = adapter.part(NumbersCode(coder="packed"))
        with installed(frozen, spec_of(part)) as adapter:
            assert adapter.part(NumbersCode(coder="packed")) == part


def test_the_card_says_where_turns_of_a_chat_end(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model, shown = tmp_path / "model", PROMPT.model_copy(update={"demonstrations": (("a", "b"),)})
    shutil.copytree(model_folders["llama"], model)
    template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    (model / "chat_template.jinja").write_text(template, "utf-8")
    one = Candidate(
        task="numbers", model="m", prompt=shown, adapter=adapter_spec("lora"), chat=True, turns=True
    )
    write(tmp_path / "program", model, one)
    export_peft(tmp_path / "program", tmp_path / "peft", model)
    card = (tmp_path / "peft" / "README.md").read_text("utf-8")
    assert one.before(TASK) in card
    assert "in the chat template; '\\n\\n' is between the turns of the text before it" in card


@pytest.mark.parametrize("method", [None, "lora", "ln_tuning", "soft_prompt"])
def test_a_loaded_program_is_a_model_and_a_prompt(
    model_folders: dict[str, Path], tmp_path: Path, method: str | None
) -> None:
    model = model_folders["llama"]
    adapter = adapter_spec(method) if method else None
    candidate = Candidate(task="numbers", model="m", prompt=PROMPT, adapter=adapter)
    expected = write(tmp_path / "program", model, candidate)
    if expected is None:
        base = AutoModelForCausalLM.from_pretrained(model).float()
        expected = base(input_ids=IDS).logits
        manifest = tmp_path / "program" / "manifest.json"
        digest = load(BaseModelConfig(regime="m", path=model), Path()).machine
        about = json.loads(manifest.read_text()) | {"base_digest": digest}
        manifest.write_text(json.dumps(about))
    found = kilobit.load_program(tmp_path / "program", model)
    assert isinstance(found.model, PeftModel) == (method is not None)
    with torch.no_grad():
        logits = found.model(input_ids=IDS).logits
    assert torch.allclose(logits, expected, atol=1e-5, rtol=1e-5)
    assert found.prompt == PROMPT.render(TASK)
    assert found.ask("3 + 4?") == PROMPT.render(TASK) + TASK.ask("3 + 4?")
    assert found.recipe.stop == TASK.stop
    assert found.tokenizer(found.ask("1"))["input_ids"]


def test_a_loaded_program_reads_named_examples_from_beside_it(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model, folder = model_folders["llama"], tmp_path / "program"
    frozen = load(BaseModelConfig(regime="m", path=model), Path())
    shown = tuple((one.input, one.target) for one in TASK.splits.train[5:9])
    candidate = Candidate(
        task="numbers", model="m", prompt=Prompt(demonstrations=shown), adapter=adapter_spec("lora")
    )
    config = BaseModelConfig(regime="m", path=model)
    builder = Builder(frozen, config, TASK, 4, "payload", by_index=True)
    texts = {"index": builder.code_text(candidate, by_model=False)["index"]}
    with installed(frozen, candidate.adapter) as adapter:
        program = builder.build(candidate, texts, adapter, random_numbers(adapter))
    write_folder(folder, program, {"base_digest": frozen.machine})
    with pytest.raises(kilobit.InputError, match="lacks the train split"):
        kilobit.load_program(folder, model)
    (folder / "train.jsonl").write_bytes(train_file(TASK))
    assert kilobit.load_program(folder, model).prompt == candidate.before(TASK)
    export_peft(folder, tmp_path / "peft", model)
    assert candidate.before(TASK) in (tmp_path / "peft" / "README.md").read_text("utf-8")
    (folder / "train.jsonl").write_text('["a", "b"]\n["c"]\n')
    with pytest.raises(kilobit.InputError, match=r"train\.jsonl, line 2: not a list of input and"):
        kilobit.load_program(folder, model)


def test_a_program_without_an_adapter_of_pefts_is_not_loaded(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = model_folders["llama"]
    weights = Candidate(task="numbers", model="m", adapter=adapter_spec("weights"))
    write(tmp_path / "weights", model, weights)
    with pytest.raises(kilobit.InputError, match="has trained weights instead of an adapter"):
        kilobit.load_program(tmp_path / "weights", model)
    lora = Candidate(task="numbers", model="m", adapter=adapter_spec("lora"))
    write(tmp_path / "lora", model, lora)
    with pytest.raises(kilobit.InputError, match=r"model: .* has the digest"):
        kilobit.load_program(tmp_path / "lora", model_folders["qwen2"])
    with pytest.raises(kilobit.InputError, match="model: there is no folder"):
        kilobit.load_program(tmp_path / "lora", tmp_path / "nowhere")
