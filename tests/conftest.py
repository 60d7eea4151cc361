"""Small models of three architectures, built from configs, and sweeps that use them."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kilobit.evaluators.ledger import stored_path
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.evaluators.model.adapters import Adapter
from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.search.programs.numbers import Tensor
from tests.support.object_store import BUCKET, Proxy, environment, serving

# The same examples every time, and no deadline: a shared machine may be slow for a moment.
settings.register_profile("kilobit", deadline=None, derandomize=True)
settings.load_profile("kilobit")
# The models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parent.parent


@cache
def uses_ray(file: str) -> bool:
    """Return whether a test file needs the Ray session."""
    return "pytest.mark.ray" in (REPOSITORY / file).read_text("utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that use Ray, which take longest."""
    items.sort(key=lambda item: not uses_ray(item.nodeid.partition("::")[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the scheduler of `pytest -n`: all files that use Ray in one process, then by files.

    The Ray session is started once, and takes both cores of a small machine only half of the time.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if uses_ray(file) else file

    return Scheduling(config, log)


ARCHITECTURES = ("llama", "gpt2", "qwen2")


def random_numbers(adapter: Adapter, seed: int = 0) -> list[Tensor]:
    """Return numbers large enough for an adapter to change what its model says."""
    rng = np.random.default_rng(seed)
    size = {"fourierft": 30.0, "soft_prompt": 1.0, "weights": 0.5}.get(adapter.spec.method, 2.0)
    return [(size * rng.normal(size=t.shape)).astype(np.float32) for t in adapter.tensors()]


def _tokenizer(*, bos: bool, pad: bool) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [
        task.ask(e.input) + task.show(e.target)
        for task in (load_miniature(name, 0) for name in MINIATURE_TASKS)
        for e in task.splits.train[:100]
    ]
    special = ["<eos>", *(["<bos>"] if bos else []), *(["<pad>"] if pad else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = {"eos_token": "<eos>"}
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
        names["bos_token"] = "<bos>"
    if pad:
        names["pad_token"] = "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _model(architecture: str, vocabulary: int) -> Any:
    torch.manual_seed(0)
    common = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 0}
    small = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**common, **small, tie_word_embeddings=False))
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**common, **small, tie_word_embeddings=True))
    return GPT2LMHeadModel(GPT2Config(**common, n_embd=32, n_layer=2, n_head=4, n_positions=256))


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder each; they differ in module names, biases, ties, BOS and padding."""
    folders = {}
    for architecture in ARCHITECTURES:
        tokenizer = _tokenizer(bos=architecture == "llama", pad=architecture != "gpt2")
        folder = tmp_path_factory.mktemp(architecture)
        _model(architecture, len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture
def write_sweep(tmp_path: Path, model_folders: dict[str, Path]) -> Callable[..., Path]:
    """Return a function that writes a small sweep file with changes and returns its path."""

    def write(**changes: Any) -> Path:
        sweep = {
            "name": "small",
            "task": {"kind": "miniature", "name": "numbers"},
            "base_models": [{"regime": "llama", "path": str(model_folders["llama"])}],
            "families": {
                "prompt": {"candidates": 3, "demonstrations": [0, 1]},
                "lora": {
                    "candidates": 2,
                    "rank": [1],
                    "target_modules": [["q_proj"]],
                    "steps": [4],
                    "batch_size": 2,
                },
            },
            "rungs": {"examples": 4, "train_steps": 2, "eta": 2, "count": 2},
            **changes,
        }
        # The last, so that lines in messages stay. Tests of them name them.
        sweep.setdefault("model_free", {"constants": 0, "copy_input": False})
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(sweep)), sort_keys=False), "utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def _served() -> Iterator[Proxy]:
    with serving() as proxy:
        yield proxy


@pytest.fixture
def store(_served: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Yield the proxy of an object store, without faults, that this process reaches."""
    _served.calm()
    for name, value in environment(_served).items():
        monkeypatch.setenv(name, value)
    stored_path._store.cache_clear()
    yield _served
    _served.calm()
    stored_path._store.cache_clear()


@pytest.fixture
def folder(store: Proxy) -> StoredPath:
    """Return a folder of its own in the bucket of the store."""
    return StoredPath("s3:", BUCKET, uuid.uuid4().hex)


@pytest.fixture(scope="session")
def published() -> Path:
    """Return the folder of published data sets that KILOBIT_DATA names."""
    folder = os.environ.get("KILOBIT_DATA")
    if not folder:
        pytest.skip("KILOBIT_DATA names no folder with gsm8k, ifeval and wmt-sample")
    return Path(folder)
