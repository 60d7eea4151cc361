"""Settings that fit neither the base model nor the task are refused before a run begins."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.driver.check import bound_bits, check_sweep
from kilobit.cluster.driver.check_models import check_models
from kilobit.cluster.shards import load as load_module
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.recorded import recorded_sweep
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.model import adapter_check
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.settings import InputError
from tests.support.cli.failing import fails
from tests.support.driver.ledgers import LORA
from tests.support.peft_folders import save_adapter
from tests.support.recipes import adapter_spec

Write = Callable[..., Path]


def lora(**changes: Any) -> dict[str, Any]:
    space = {"candidates": 2, "rank": [1], "target_modules": [["q_proj"]], **changes}
    return {"families": {"lora": space}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lora(rank=[64]),
            "families.lora.rank: 64 is too large for q_proj of .* whose smaller side is 32",
        ),
        (lora(target_modules=[["c_attn"]]), "has no module 'c_attn'; it has .*down_proj.*q_proj"),
        (lora(layers=[[2]]), "there is no layer 2; .* has layers 0 to 1"),
        (
            {"families": {"weights": {"candidates": 2, "target_modules": [["nosuch"]]}}},
            "families.weights.target_modules: no weight of .* is called 'nosuch'",
        ),
        (
            {"families": {"ln_tuning": {"candidates": 2, "target_modules": [["q_proj"]]}}},
            "has no module 'q_proj'; it has input_layernorm, norm, post_attention_layernorm",
        ),
        (
            {"families": {"trainable_tokens": {"candidates": 2, "tokens": [[1, 400]]}}},
            "families.trainable_tokens.tokens: there is no token 400; .* has 400",
        ),
        (lora(chat=[True]), "families.lora.chat: the tokenizer of .* has no chat template"),
        (lora(max_new_tokens=[13]), "13 is more than the task numbers allows"),
        (lora(demonstrations=[600]), "600 are more than the train split has"),
        (
            {"rungs": {"examples": 100, "eta": 3, "count": 3}},
            "the last rung scores 900 examples .* the search split of numbers has 512",
        ),
    ],
)
def test_what_does_not_fit_model_or_task_is_refused(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, changes: dict[str, Any], message: str
) -> None:
    found = fails(capsys, "run", str(write_sweep(**changes)), "--dry-run")

    assert re.search(message, found), found


def test_a_model_that_is_missing_or_incomplete_is_named(
    capsys: pytest.CaptureFixture[str],
    write_sweep: Write,
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    def message(folder: Path, **changes: Any) -> str:
        models = [{"regime": "r", "path": str(folder), **changes}]
        return fails(capsys, "run", str(write_sweep(base_models=models)), "--dry-run")

    assert "base_models.0.path: there is no folder" in message(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(model_folders["llama"], broken)
    for file in broken.glob("tokenizer*"):
        file.unlink()
    assert "base_models.0: no usable tokenizer in" in message(broken)
    (broken / "model.safetensors").unlink()
    assert "holds no weights (*.safetensors)" in message(broken)
    (broken / "config.json").unlink()
    assert "holds no model: config.json is missing" in message(broken)
    assert "this machine has no GPU" in message(model_folders["llama"], device="cuda:7")


def test_files_beside_the_weights_are_named_or_refused(
    capsys: pytest.CaptureFixture[str],
    write_sweep: Write,
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folders["llama"], folder)
    values = json.loads((folder / "config.json").read_text())
    values["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    (folder / "config.json").write_text(json.dumps(values))
    changes = {"base_models": [{"regime": "r", "path": str(folder)}]}
    assert launch.main(["run", str(write_sweep(**changes)), "--dry-run"]) == 0
    found = " ".join(capsys.readouterr().out.split())
    assert "r: the code that config.json names in auto_map is ignored; transformers' own" in found
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, "</s>"]}')
    assert "eos_token_id [0, '</s>'] is no" in fails(capsys, "run", str(write_sweep(**changes)))


def test_bad_data_is_named_with_file_and_line(
    capsys: pytest.CaptureFixture[str], write_sweep: Write, tmp_path: Path
) -> None:
    task = {"kind": "jsonl", "name": "mine", "data": "d.jsonl", "metric": "exact_match"}
    data = tmp_path / "d.jsonl"
    path = str(write_sweep(task=task))
    assert f"{data}: No such file" in fails(capsys, "run", path)
    data.write_text("")
    assert f"{data}: the file holds no examples" in fails(capsys, "run", path)
    lines = [json.dumps({"input": str(i), "target": "x"}) for i in range(30)]
    lines[16] = '{"input": "x", '
    data.write_text("\n".join(lines))
    assert f"{data}, line 17: not JSON" in fails(capsys, "run", path)
    files = dict.fromkeys(("train", "search", "sealed"), "d.jsonl")
    data.write_text("\n".join(lines[:16]))
    del task["data"]
    path = str(write_sweep(task={**task, "files": files}))
    assert "is in both the train and the search split" in fails(capsys, "run", path)


def test_a_model_on_the_nodes_alone_is_left_to_them(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    models = [{"regime": "r", "path": str(tmp_path / "on_nodes"), "device": "cuda"}]
    sweep = load_sweep(write_sweep(base_models=models, families=lora(chat=[False])["families"]))
    with pytest.raises(InputError, match=r"base_models\.0\.path: there is no folder"):
        check_sweep(sweep, tmp_path, dry=True)
    plan = check_sweep(sweep, tmp_path, local=False)
    assert plan.unchecked == (
        f"{tmp_path / 'on_nodes'} is not on this machine: its modules and ranks are unknown",
    )
    assert dict(plan.shapes) == {}


def test_models_of_one_configuration_are_built_with_adapters_once(
    write_sweep: Write, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    refusal = adapter_check.refusal

    def counted(*args: Any, **options: Any) -> str | None:
        built.append(args)
        return refusal(*args, **options)

    monkeypatch.setattr(adapter_check, "refusal", counted)
    models = [{"regime": regime, "path": str(model_folders["llama"])} for regime in ("a", "b")]
    gpt2 = {"regime": "c", "path": str(model_folders["gpt2"])}
    shapes, _ = check_models(load_sweep(write_sweep(base_models=models, **lora())), Path())
    assert (len(built), shapes["a"]) == (1, shapes["b"])
    # Another architecture is checked for itself.
    with pytest.raises(InputError, match="has no module 'q_proj'"):
        check_models(load_sweep(write_sweep(base_models=[*models, gpt2], **lora())), Path())


def test_a_prompt_is_bounded_by_its_best_codec_and_numbers_by_16_bits_each() -> None:
    task = load_miniature("numbers", 0)
    bare = Candidate(task=task.name, model="m")
    assert bound_bits(bare, task, None) == 0
    prompt = bare.model_copy(update={"prompt": Prompt(instruction="Number:")})
    assert bound_bits(prompt, task, None) == 8 * len("Number:\n")
    both = prompt.model_copy(update={"adapter": adapter_spec("tinylora")})
    assert bound_bits(both, task, {}) == 8 * len("Number:\n") + 16 * 13
    assert bound_bits(both, task, None) is None


def test_a_type_that_the_processor_computes_slowly_in_is_warned_of(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(load_module, "missing_instructions", {"bfloat16": ("bf16",)}.__getitem__)
    model = {"path": str(model_folders["llama"]), "dtype": "bfloat16"}
    path = write_sweep(base_models=[{**model, "regime": "r"}])
    sweep = load_sweep(path)
    (warning,) = check_sweep(sweep, path.parent).warnings
    assert warning.startswith("r: this processor has no instructions for bfloat16 (bf16), so")
    # Of a cluster's nodes it is known only there: a worker says it when it loads the model.
    assert check_sweep(sweep, path.parent, local=False).warnings == ()
    load_module.load_sharded(sweep.base_models[0], Path(), ShardsConfig(), RankAddress())
    assert [record.getMessage() for record in caplog.records] == [warning]
    for device in ("cuda", "cuda:1"):
        on_gpu = sweep.base_models[0].model_copy(update={"device": device})
        assert load_module.slowness(on_gpu) is None


@pytest.mark.parametrize(("changes", "total"), [({}, 5), ({"candidates": 2}, 2)])
def test_a_plan_counts_what_needs_no_model_for_each_model(
    write_sweep: Write, tmp_path: Path, changes: dict[str, int], total: int
) -> None:
    two = [{"regime": name, "path": str(tmp_path / name)} for name in ("a", "b")]
    free = {"constants": 1, "copy_input": True}
    path = write_sweep(base_models=two, model_free=free, budget=changes)
    plan = check_sweep(load_sweep(path), tmp_path, local=False, dry=True)
    families = [(one.model, one.family) for one in plan.first]
    assert families == [(model, what) for model in "ab" for what in ("constant", "copy")]
    searched = total if changes else 2 * total
    assert (len(plan.candidates), plan.num_candidates) == (searched, searched + 4)
    bits = [plan.bound_bits(one) for one in plan.first]
    assert bits[1] == 0
    assert bits[0] == 8 * len(plan.first[0].constant or "")
    endless = write_sweep(
        base_models=two, model_free=free, proposer={"kind": "evolution"}, budget={"candidates": 9}
    )
    plan = check_sweep(load_sweep(endless), tmp_path, local=False, dry=True)
    assert plan.num_candidates == 13


def test_given_prompts_come_first_with_the_text_of_their_files(
    write_sweep: Write, tmp_path: Path
) -> None:
    (tmp_path / "by_hand.txt").write_text("Add.\nSay the sum.\n\n")
    given = {"prompts": [{"text": "Sum."}, {"file": "by_hand.txt", "postprocess": ["last_number"]}]}
    path = write_sweep(families={"prompt": {"candidates": 2}, "given": given})
    sweep = load_sweep(path)
    plan = check_sweep(sweep, tmp_path, dry=True)
    found = [one for one in plan.first if not one.is_model_free]
    assert [(one.prompt.instruction, one.postprocess, one.chat) for one in found] == [
        ("Sum.", (), False),
        ("Add.\nSay the sum.", ("last_number",), False),
    ]
    assert plan.num_candidates == len(plan.candidates) + len(plan.first)
    assert recorded_sweep(sweep.model_dump(mode="json")).families.given == sweep.families.given


def test_given_adapters_come_alone_and_after_each_given_prompt(
    write_sweep: Write, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    save_adapter(model_folders["llama"], tmp_path / "theirs", "layers")
    given = {"prompts": [{"text": "Sum."}], "adapters": ["theirs"]}
    path = write_sweep(families={"prompt": {"candidates": 1}, "given": given})
    plan = check_sweep(load_sweep(path), tmp_path, dry=True)
    found = [(one.prompt.instruction, one.family) for one in plan.first]
    assert found == [("Sum.", "prompt"), ("", "lora"), ("Sum.", "lora")]
    spec = plan.first[1].adapter
    assert spec is not None
    assert (spec.layers, spec.target_modules, spec.rank) == ((1,), ("q_proj",), 8)
    assert plan.bound_bits(plan.first[1]) == 16 * 8 * (32 + 32)
    assert set(plan.sources) == {one.id for one in plan.first}


def test_a_given_adapter_needs_its_base_model_here(
    write_sweep: Write, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    save_adapter(model_folders["llama"], tmp_path / "theirs")
    families = {"prompt": {"candidates": 1, "chat": [False]}, "given": {"adapters": ["theirs"]}}
    families["given"] = {"adapters": [{"folder": "theirs", "chat": False}]}
    elsewhere = [{"regime": "r", "path": "elsewhere"}]
    sweep = load_sweep(write_sweep(families=families, base_models=elsewhere))
    plan = check_sweep(sweep, tmp_path, local=False, dry=True)
    assert not plan.first
    assert "the adapters of families.given on r, which is not here" in plan.unchecked
    with pytest.raises(InputError, match=r"families\.given\.adapters\.0: r is not on this machine"):
        check_sweep(sweep, tmp_path, local=False)


@pytest.mark.parametrize(("steps", "told"), [([4], False), ([2, 5], True)])
def test_training_that_the_last_rung_does_not_finish_is_warned_of(
    write_sweep: Write, steps: list[int], told: bool
) -> None:
    # The last rung ends after 4 steps.
    path = write_sweep(families={"prompt": {"candidates": 1}, "lora": {**LORA, "steps": steps}})
    warnings = check_sweep(load_sweep(path), path.parent, local=False).warnings
    expected = "families.lora.steps: 5 steps are planned, and the last rung ends after 4 "
    assert [expected in one for one in warnings] == [True] * told
