"""The harness on a resident model gives what it gives on its own `hf` model."""

import contextlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import ray
import torch
import yaml

from kilobit.evaluators.model.adapted import AdaptedModel, bare, with_program
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from tests.conftest import REPOSITORY, random_numbers
from tests.support.tasks.harness_files import GENERATE, write_task

pytest.importorskip("lm_eval")
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from kilobit.cluster.fleet.session import ray_kept
from kilobit.evaluators.battery.harness import (
    HarnessEvaluator,
    HarnessModel,
    run_harness,
    undisturbed,
)

_LENGTHS = (3, 40, 90)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a multiple-choice, a perplexity and a generation task."""
    folder = tmp_path_factory.mktemp("harness")
    examples = load_miniature("numbers", 0).splits.search[:6]
    choices = [
        {"question": e.input, "choices": [e.target, f"{e.target}0", "none of them"], "gold": 0}
        for e in examples
    ]
    texts = [{"text": " ".join([e.input] * n)} for e, n in zip(examples, _LENGTHS, strict=False)]
    tasks: dict[str, dict[str, Any]] = {
        "ours_choice": {
            "output_type": "multiple_choice",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_target": "{{gold}}",
            "doc_to_choice": "{{choices}}",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
            "num_fewshot": 2,
            "fewshot_split": "test",
            "data": choices,
        },
        "ours_text": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
            "data": texts,
        },
        "ours_words": {
            "output_type": "generate_until",
            "doc_to_text": "Q: {{question}}\nA:",
            "doc_to_target": "{{choices[0]}}",
            "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 10, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
            "data": choices,
        },
    }
    group = {"group": "ours_group", "task": ["ours_choice", "ours_text"]}
    (folder / "ours_group.yaml").write_text(yaml.safe_dump(group))
    for name, task in tasks.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in task.pop("data")), "utf-8")
        files = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        about = {"task": name, "dataset_path": "json", "dataset_kwargs": files, **task}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**about, "test_split": "test"}))
    return folder


@pytest.fixture(scope="module")
def manager(tasks: Path) -> TaskManager:
    return TaskManager(include_path=str(tasks), include_defaults=False)


def frozen_of(folder: Path) -> FrozenModel:
    return load(BaseModelConfig(regime="small", path=folder), folder)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_bare_model_gives_what_the_harness_gives_alone(
    architecture: str, model_folders: dict[str, Path], manager: TaskManager
) -> None:
    folder = model_folders[architecture]
    names = ["ours_choice", "ours_text", "ours_words"]
    loaded = manager.load(names)
    # Once before: what a model is asked does not depend on who was asked before it.
    run_harness(bare(frozen_of(model_folders["qwen2"])), loaded, 2)
    with undisturbed():
        theirs = lm_eval.simple_evaluate(
            HFLM(pretrained=str(folder), device="cpu", batch_size=2, dtype="float32"),
            tasks=names,
            bootstrap_iters=0,
            task_manager=manager,
        )
    ours = run_harness(bare(frozen_of(folder)), loaded)
    assert any(  # Texts of several windows are among them.
        len(sample["doc"]["text"]) > 2000 for sample in ours["samples"]["ours_text"]
    )
    for name in names:
        for one, other in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            assert one["doc_hash"] == other["doc_hash"]
            assert one["prompt_hash"] == other["prompt_hash"]
            if name == "ours_words":
                assert one["resps"] == other["resps"]
                continue
            for a, b in zip(numbers(one["resps"]), numbers(other["resps"]), strict=True):
                assert a == pytest.approx(b, abs=1e-4)
    assert ours["results"]["ours_choice"]["acc,none"] == pytest.approx(
        theirs["results"]["ours_choice"]["acc,none"]
    )


def numbers(value: Any) -> list[float]:
    if isinstance(value, list | tuple):
        return [number for one in value for number in numbers(one)]
    return [float(value)]


class Asked:
    """What the harness calls an instance."""

    def __init__(self, *args: Any) -> None:
        self.args = args


def test_a_prompt_stands_before_every_context(model_folders: dict[str, Path]) -> None:
    frozen = frozen_of(model_folders["llama"])
    plain, prompted = (
        HarnessModel(bare(frozen)),
        HarnessModel(AdaptedModel(frozen, prompt="Zahl:\n")),
    )
    with_prompt = prompted.loglikelihood([Asked("Q: two\nA:", " 2"), Asked("", "two")])
    by_hand = plain.loglikelihood([Asked("Zahl:\nQ: two\nA:", " 2"), Asked("Zahl:\n", "two")])
    assert numbers(with_prompt) == pytest.approx(numbers(by_hand), abs=1e-5)
    assert with_prompt != plain.loglikelihood([Asked("Q: two\nA:", " 2"), Asked("", "two")])
    (rolling,) = prompted.loglikelihood_rolling([Asked("two and two")])
    ids = frozen.tokenizer("Zahl:\n", add_special_tokens=False)["input_ids"]
    # The tokenizer begins a text itself, and the harness puts the same token before that.
    text = frozen.tokenizer("two and two")["input_ids"]
    whole = torch.tensor([[text[0], *ids, *text]])
    told = frozen.model(whole).logits[0].log_softmax(-1)
    told = told[len(ids) : -1].gather(1, whole[0, len(ids) + 1 :, None])
    assert rolling == pytest.approx(float(told.sum()), abs=1e-4)


def test_an_adapter_is_on_the_model_for_the_harness(
    model_folders: dict[str, Path], manager: TaskManager
) -> None:
    from kilobit.evaluators.model.packing.deltas import detached
    from kilobit.evaluators.model.program_builder import Builder

    folder = model_folders["llama"]
    frozen, task = frozen_of(folder), load_miniature("numbers", 0)
    spec = AdapterSpec(
        method="lora",
        rank=1,
        target_modules=("q_proj",),
        learning_rate=1.0,
        steps=1,
        batch_size=1,
        seed=0,
    )
    candidate = Candidate(task="numbers", model="small", adapter=spec)
    adapter = detached(frozen, spec)[0]
    config = BaseModelConfig(regime="small", path=folder)
    builder = Builder(frozen, config, task, 8, "program")
    program = builder.build(candidate, {}, adapter, random_numbers(adapter))
    before = run_harness(bare(frozen), manager.load(["ours_choice"]))
    with with_program(frozen, candidate, program, task) as subject:
        adapted = run_harness(subject, manager.load(["ours_choice"]))
        # What a plain forward pass through the adapted model says is what the harness was told.
        arguments = adapted["samples"]["ours_choice"][0]["arguments"][0]
        first = frozen.tokenizer(arguments[0])["input_ids"]
        whole = torch.tensor([frozen.tokenizer("".join(arguments))["input_ids"]])
        told = frozen.model(whole).logits[0].log_softmax(-1)[len(first) - 1 : -1]
        expected = float(told.gather(1, whole[0, len(first) :, None]).sum().detach())
    assert adapted["samples"]["ours_choice"][0]["resps"][0][0][0] == pytest.approx(
        expected, abs=1e-4
    )
    after = run_harness(bare(frozen), manager.load(["ours_choice"]))
    resps = [
        [s["resps"] for s in run["samples"]["ours_choice"]] for run in (before, adapted, after)
    ]
    assert resps[0] != resps[1]
    assert resps[0] == resps[2]


def test_what_the_engine_does_not_do_is_refused(model_folders: dict[str, Path]) -> None:
    frozen = frozen_of(model_folders["llama"])
    model = HarnessModel(bare(frozen))
    for options in ({"do_sample": True}, {"temperature": 1.0}, {"num_beams": 4}):
        with pytest.raises(ValueError, match="only greedy"):
            model.generate_until([Asked("Q", {"until": [], **options})])
    prompted = HarnessModel(AdaptedModel(frozen, prompt="Zahl:\n" * 300))
    with pytest.raises(ValueError, match="tokens more than the model reads"):
        prompted.loglikelihood([Asked("Q", "A")])


def test_documents_become_rows_and_what_is_not_there_is_named(
    model_folders: dict[str, Path], tasks: Path
) -> None:
    subject = bare(frozen_of(model_folders["llama"]))
    rows = HarnessEvaluator("ours_choice", "acc_norm", 4, tasks).evaluate(subject)
    assert [row.example for row in rows] == [f"ours_choice-{i}" for i in range(4)]
    assert {row.value for row in rows} <= {0.0, 1.0}
    with pytest.raises(ValueError, match="ours_text has no metric acc for each document"):
        HarnessEvaluator("ours_group", "acc", 2, tasks).evaluate(subject)
    with pytest.raises(ValueError, match="no metric f1"):
        HarnessEvaluator("ours_choice", "f1", 4, tasks).evaluate(subject)
    with pytest.raises(ValueError, match="no_such_task is not a task of the harness in"):
        HarnessEvaluator("no_such_task", "acc", 4, tasks)


def test_code_of_custom_task_files_runs_only_if_it_is_trusted(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    write_task(tmp_path, "coded", GENERATE)
    with (tmp_path / "coded.yaml").open("a", encoding="utf-8") as file:
        file.write("process_docs: !function own.fewer\n")
    (tmp_path / "own.py").write_text("def fewer(documents):\n    return documents.select([0])\n")
    with pytest.raises(ValueError, match=r"!function own.fewer: .*trust_task_code"):
        HarnessEvaluator("coded", "exact_match", 4, tmp_path)
    with contextlib.chdir(tmp_path):
        evaluator = HarnessEvaluator("coded", "exact_match", 4, tmp_path, trusted=True)
    assert len(evaluator.evaluate(bare(frozen_of(model_folders["llama"])))) == 1


def test_missing_data_are_named_with_what_puts_them_here(tmp_path: Path) -> None:
    about = {"dataset_path": "nobody/nothing-at-all", "dataset_kwargs": None}
    write_task(tmp_path, "absent", {**GENERATE, **about})
    with pytest.raises(ValueError, match=r"absent is not on this machine.*--tasks absent .*HF_"):
        HarnessEvaluator("absent", "exact_match", 4, tmp_path)


_IN_A_DRIVER = """
import random, sys
from pathlib import Path
import numpy as np, ray, torch
from lm_eval.tasks import TaskManager
from kilobit.evaluators.model.base_model import load
from kilobit.cluster.fleet.session import ray_kept
from kilobit.evaluators.battery.harness import run_harness
from kilobit.evaluators.model.adapted import bare
from kilobit.search.base_model import BaseModelConfig
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR")
folder, tasks = Path(sys.argv[1]), sys.argv[2]
manager = TaskManager(include_path=tasks, include_defaults=False)
subject = bare(load(BaseModelConfig(regime="small", path=folder), folder))
loaded = manager.load(["ours_choice"])
random.seed(1), np.random.seed(1), torch.manual_seed(1)
expected = random.random(), np.random.random(), float(torch.rand(()))
random.seed(1), np.random.seed(1), torch.manual_seed(1)
run_harness(subject, loaded)
assert (random.random(), np.random.random(), float(torch.rand(()))) == expected
with ray_kept():
    ray.shutdown()
assert ray.is_initialized() and ray.get(ray.remote(lambda: 7).remote()) == 7
ray.shutdown()
assert not ray.is_initialized()
print("still there")
"""


@pytest.mark.slow
def test_a_ray_driver_goes_on_after_the_harness(
    model_folders: dict[str, Path], tasks: Path
) -> None:
    words = [sys.executable, "-c", _IN_A_DRIVER, str(model_folders["llama"]), str(tasks)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.endswith("still there\n")


def test_only_models_that_are_never_used_here_end_ray() -> None:
    folder = Path(lm_eval.__file__).parent
    found = {
        path.name
        for path in folder.rglob("*.py")
        if "ray.shutdown" in path.read_text("utf-8", errors="replace")
    }
    assert found <= {"vllm_causallms.py", "vllm_vlms.py"}


def test_nothing_stays_changed(
    model_folders: dict[str, Path], manager: TaskManager, capfd: pytest.CaptureFixture[str]
) -> None:
    def state() -> list[Any]:
        drawn = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        variables = [os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")]
        return [ray.shutdown, datasets.config.HF_HUB_OFFLINE, variables, drawn]

    subject, loaded = bare(frozen_of(model_folders["llama"])), manager.load(["ours_choice"])
    before = state()
    capfd.readouterr()
    run_harness(subject, loaded, 2)
    assert not capfd.readouterr().err
    assert state() == before
    with undisturbed(), ray_kept():
        assert datasets.config.HF_HUB_OFFLINE
        assert ray.shutdown is not before[0]
        random.random(), np.random.random(), torch.rand(())  # noqa: NPY002
    assert state() == before
