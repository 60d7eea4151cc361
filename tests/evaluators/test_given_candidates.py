import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.evaluators.given_candidates import given_on, given_state, read_given, read_peft_folder
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Given
from tests.support.peft_folders import SUPPORTED, change_config, change_tensors, save_adapter

TASK = load_miniature("numbers", 0)


@pytest.fixture
def llama(model_folders: dict[str, Path]) -> Path:
    return model_folders["llama"]


@pytest.fixture
def meta(llama: Path) -> Any:
    """Return the base model without its numbers, as a sweep is checked on it."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(llama))


def names(frozen: FrozenModel) -> list[str]:
    return [name for name, _ in frozen.model.named_parameters()]


@pytest.mark.parametrize("kind", SUPPORTED)
def test_an_adapter_says_here_what_it_says_in_plain_peft(
    llama: Path, meta: Any, tmp_path: Path, kind: str
) -> None:
    folder = save_adapter(llama, tmp_path / kind, kind)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), folder)
    ids = torch.arange(12).reshape(2, 6) + 5
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
    found = read_peft_folder(folder)
    found.check_on(meta, "llama")
    frozen = load(BaseModelConfig(regime="r", path=llama), Path())
    spec = found.spec(names(frozen))
    assert (spec.steps, spec.given) == (0, found.digest)
    with installed(frozen, spec) as adapter, torch.no_grad():
        adapter.restore(found.state())
        adapter.finish(0)
        got = adapter.model(input_ids=ids).logits
        # The way through the numbers that a program holds.
        adapter.assign(adapter.tensors())
        again = adapter.model(input_ids=ids).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        bare = frozen.model(input_ids=ids).logits
    assert not torch.allclose(bare, expected[:, -6:], atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("lora", {"rank": 2, "target_modules": ("q_proj", "v_proj")}),
        ("ranks", {"rank": 3, "target_modules": ("o_proj", "q_proj")}),
        ("layers", {"rank": 8, "target_modules": ("q_proj",), "layers": (1,)}),
        ("pattern", {"target_modules": ("down_proj", "q_proj"), "layers": (0,)}),
        ("excluded", {"target_modules": ("q_proj",), "layers": (1,)}),
        ("ia3", {"method": "ia3", "target_modules": ("down_proj", "v_proj")}),
        ("prompt_tuning", {"method": "soft_prompt", "size": 3, "target_modules": None}),
    ],
)
def test_the_shape_is_named_in_the_shortest_words(
    llama: Path, tmp_path: Path, kind: str, shape: dict[str, Any]
) -> None:
    frozen = load(BaseModelConfig(regime="r", path=llama), Path())
    spec = read_peft_folder(save_adapter(llama, tmp_path / kind, kind)).spec(names(frozen))
    assert {name: getattr(spec, name) for name in shape} == shape


def test_modules_that_no_layers_describe_are_named_in_full(llama: Path, tmp_path: Path) -> None:
    folder = save_adapter(llama, tmp_path / "a")
    layer = "model.layers.1.self_attn.v_proj"
    for name in ("lora_A", "lora_B"):
        change_tensors(folder, **{f"{layer}.{name}": None})
    frozen = load(BaseModelConfig(regime="r", path=llama), Path())
    spec = read_peft_folder(folder).spec(names(frozen))
    assert spec.target_modules == tuple(
        f"model.layers.{at}.self_attn.{name}_proj" for at, name in ((0, "q"), (0, "v"), (1, "q"))
    )


CONFIG = "adapter_config.json: "
REFUSED = [
    ({"peft_type": "ADALORA"}, "peft_type: LORA, IA3, LN_TUNING, PROMPT_TUNING are allowed (found"),
    ({"peft_type": ["LORA"]}, "peft_type: LORA, IA3, LN_TUNING, PROMPT_TUNING are allowed (found"),
    ({"use_dora": True}, "use_dora: only False is allowed for LORA (found True)"),
    ({"bias": "all"}, "bias: only 'none' is allowed for LORA (found 'all')"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save: only None is allowed for LORA"),
    ({"layer_replication": [[0, 1]]}, "layer_replication: only None is allowed for LORA"),
    ({"of_tomorrow": 0.5}, "of_tomorrow: only None is allowed for LORA (found 0.5)"),
    ({"init_lora_weights": "pissa"}, "init_lora_weights: a start that changes the base model"),
    ({"init_lora_weights": 1}, "init_lora_weights: a start that changes the base model"),
    ({"r": True}, "r: a whole number above 0 is allowed (found True)"),
    ({"r": 0}, "r: a whole number above 0 is allowed (found 0)"),
    ({"r": 1 << 40}, "r: a whole number above 0 is allowed"),
    ({"lora_alpha": "16"}, "lora_alpha: a number is allowed (found '16')"),
    ({"use_rslora": "yes"}, "use_rslora: true or false is allowed (found 'yes')"),
    ({"rank_pattern": {"(a+)+": 2}}, "rank_pattern: a whole number for each name is allowed"),
    ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern: a number for each name is allowed"),
    ({"target_modules": []}, "target_modules: a list of names of modules or a pattern is allowed"),
    ({"target_modules": ["q_proj", "../x"]}, "target_modules: a list of names of modules or a pat"),
    ({"exclude_modules": "(a+)+"}, "exclude_modules: a list of names of modules is allowed"),
    ({"layers_to_transform": "1"}, "layers_to_transform: a number or a list of numbers is allowed"),
    ({"layers_pattern": "(a+)+"}, "layers_pattern: a list of names of modules is allowed"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda one: str(one)[:40])
def test_an_option_that_is_not_understood_is_refused_by_name(
    llama: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = change_config(save_adapter(llama, tmp_path / "a"), **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{folder / CONFIG}{message}')}"):
        read_peft_folder(folder)


def test_options_of_other_methods_are_refused_too(llama: Path, tmp_path: Path) -> None:
    folder = change_config(save_adapter(llama, tmp_path / "a", "ia3"), feedforward_modules=["x"])
    with pytest.raises(ValueError, match="feedforward_modules: an empty list is allowed"):
        read_peft_folder(folder)
    soft = save_adapter(llama, tmp_path / "b", "prompt_tuning")
    with pytest.raises(ValueError, match="task_type: CAUSAL_LM is allowed"):
        read_peft_folder(change_config(soft, task_type="SEQ_CLS"))


def test_paths_in_the_configuration_are_not_opened(llama: Path, tmp_path: Path) -> None:
    folder = save_adapter(llama, tmp_path / "a")
    expected = read_peft_folder(folder)
    outside = str(tmp_path / "nowhere" / ".." / "secret")
    told = {"parent_library": "os", "base_model_class": "system"}
    change_config(folder, base_model_name_or_path=outside, auto_mapping=told, revision=outside)
    found = read_peft_folder(folder)
    assert found.options == expected.options
    assert found.digest != expected.digest


LYING = [
    (b"", "not a file of safetensors"),
    (b"\xff" * 64, "not a file of safetensors"),
    ((1 << 40).to_bytes(8, "little") + b"{}", "not a file of safetensors"),
    (b"\x02\0\0\0\0\0\0\0{}", "the file holds no tensor"),
]


@pytest.mark.parametrize(("content", "message"), LYING)
def test_a_damaged_file_is_refused(
    llama: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    folder = save_adapter(llama, tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=f"adapter_model.safetensors: {message}"):
        read_peft_folder(folder)


def test_a_header_that_says_more_than_there_is_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = save_adapter(llama, tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    first = next(name for name in header if name != "__metadata__")
    header[first]["shape"] = [1 << 20, 1 << 20]
    said = json.dumps(header).encode()
    file.write_bytes(len(said).to_bytes(8, "little") + said + content[8 + size :])
    with pytest.raises(ValueError, match="not a file of safetensors"):
        read_peft_folder(folder)


def test_numbers_that_are_none_and_types_that_are_not_read_are_refused(
    llama: Path, tmp_path: Path
) -> None:
    folder = save_adapter(llama, tmp_path / "a")
    change_tensors(folder, lora_A=torch.full((2, 32), float("nan")))
    with pytest.raises(ValueError, match=r"q_proj\.lora_A\.weight holds numbers that are not fin"):
        read_peft_folder(folder)
    change_tensors(folder, lora_A=torch.ones(2, 32, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"float32, float16, bfloat16 are allowed \(found int32"):
        read_peft_folder(folder)
    half = change_tensors(save_adapter(llama, tmp_path / "b"), lora_A=None)
    with pytest.raises(ValueError, match="is no factor lora_A with a lora_B beside it"):
        read_peft_folder(half)


def test_a_pickle_is_never_read(llama: Path, tmp_path: Path) -> None:
    folder = save_adapter(llama, tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin is a pickle, which is never read"):
        read_peft_folder(folder)
    with pytest.raises(ValueError, match=r"none/adapter_config\.json: No such file"):
        read_peft_folder(tmp_path / "none")


def test_half_precision_is_read(llama: Path, tmp_path: Path) -> None:
    folder = save_adapter(llama, tmp_path / "a")
    halved = {"lora_A": torch.ones(2, 32, dtype=torch.bfloat16)}
    found = read_peft_folder(change_tensors(folder, **halved))
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}


def test_tensors_have_to_be_those_of_the_base_model(llama: Path, meta: Any, tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
            read_peft_folder(folder).check_on(meta, "llama")
        # The model is as it was.
        assert not [name for name, _ in meta.named_parameters() if "lora" in name]
        return str(caught.value).removeprefix(f"{folder}/")

    layer = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    wide = change_tensors(save_adapter(llama, tmp_path / "wide"), lora_A=torch.ones(2, 64))
    assert refusal(wide) == (
        f"adapter_model.safetensors: {layer} has the shape (2, 64); llama needs (2, 32)"
    )
    less = save_adapter(llama, tmp_path / "less")
    for name in ("lora_A", "lora_B"):
        change_tensors(less, **{name: None})
    assert "q_proj.lora_A.weight is missing, which adapter_config.json needs on" in refusal(less)
    more = change_config(save_adapter(llama, tmp_path / "more"), target_modules=["q_proj"])
    assert "v_proj.lora_A.weight belongs to no module of llama that adapter_c" in refusal(more)
    other = change_config(save_adapter(llama, tmp_path / "other"), target_modules=["c_attn"])
    assert refusal(other).startswith("adapter_config.json: llama can't have this adapter: ")
    none = change_config(save_adapter(llama, tmp_path / "none"), target_modules="c_attn")
    assert refusal(none) == "adapter_config.json: target_modules: 'c_attn' matches no module"
    slow = change_config(save_adapter(llama, tmp_path / "slow"), target_modules=r"(a+)\1")
    assert refusal(slow).startswith(
        "adapter_config.json: target_modules: a pattern that RE2 can match, or a list of names"
    )
    # What would take a backtracking matcher a lifetime.
    fast = change_config(save_adapter(llama, tmp_path / "fast"), target_modules=r"(\w+\.?)+!")
    assert refusal(fast).endswith("matches no module")


def test_a_prompt_stands_before_each_adapter_and_the_digest_finds_its_numbers(
    llama: Path, tmp_path: Path
) -> None:
    save_adapter(llama, tmp_path / "a")
    (tmp_path / "p.jsonl").write_text('"One."\n\n{"system_prompt": "Two.\\n"}\n', "utf-8")
    given = Given(prompts=({"lines": "p.jsonl"},), adapters=("a",))
    files = read_given(given, tmp_path)
    frozen = load(BaseModelConfig(regime="r", path=llama), Path())
    found = given_on(files, TASK, "m", names(frozen), template=False)
    assert found is not None
    assert [(one.prompt.instruction, one.family) for one, _ in found] == [
        ("One.", "prompt"),
        ("Two.", "prompt"),
        ("", "lora"),
        ("One.", "lora"),
        ("Two.", "lora"),
    ]
    assert {source for _, source in found} == {
        "families.given.prompts.0",
        f"families.given.adapters.0 ({tmp_path / 'a'})",
    }
    assert given_on(files, TASK, "m", None, template=False) is None
    digest = files.adapters[0][2].digest
    assert given_state(given, tmp_path, digest) == files.adapters[0][2].state()
    change_config(tmp_path / "a", lora_alpha=17)
    with pytest.raises(ValueError, match="has changed since the search began"):
        given_state(given, tmp_path, digest)


@pytest.mark.parametrize(
    ("line", "entry", "message"),
    [
        ("3", None, "line 1: a text is needed, or an object of one (found 3)"),
        ('""', None, "line 1: a text is needed, or an object of one (found '')"),
        ('{"a": "x", "b": "y"}', None, "to say which (found a, b)"),
        ("{}", None, "to say which (found none)"),
        ('{"a": "x"}', "c", "line 1: there is no text 'c'"),
        ("", None, "holds no text"),
        ("{", None, "line 1: not JSON"),
    ],
)
def test_a_file_of_prompts_says_where_it_can_not_be_read(
    tmp_path: Path, line: str, entry: str | None, message: str
) -> None:
    (tmp_path / "p.jsonl").write_text(line, "utf-8")
    given = Given(prompts=({"lines": "p.jsonl", "field": entry},))
    file = re.escape(str(tmp_path / "p.jsonl"))
    expected = rf"^families\.given\.prompts\.0\.lines: {file}.*{re.escape(message)}"
    with pytest.raises(ValueError, match=expected):
        read_given(given, tmp_path)


def test_the_entry_that_is_named_is_taken(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"a": "x", "b": "y"}', "utf-8")
    files = read_given(Given(prompts=({"lines": "p.jsonl", "field": "b"},)), tmp_path)
    assert [prompt.text for _, prompt in files.prompts] == ["y"]
