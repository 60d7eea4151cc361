"""A base model over several ranks does what it does in one process."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.shards.zero3 import check_offload
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.model.base_model import load
from tests.support.models import config
from tests.support.shards.forks import Forks
from tests.support.shards.residents import ModelRank

pytestmark = pytest.mark.timeout(600)
PROMPTS = ["Q: Anna has 3 apples.\nA:", "In: the dog\nOut:", "Task: x"]
TARGETS = ("q_proj", "k_proj", "o_proj", "up_proj", "down_proj", "q_norm", "input_layernorm")
STEPS = 4


def shards(world_size: int, layout: str) -> ShardsConfig:
    return ShardsConfig.model_validate(
        {"world_size": world_size, "layout": layout, "cpus_per_rank": 0.1, "timeout_s": 60.0}
    )


def same_as_alone(
    folder: Path, world_size: int, layout: str, splits_rows: bool, **changes: Any
) -> None:
    targets = ("c_attn", "c_proj") if "gpt2" in folder.name else TARGETS
    base = config(folder, **changes)
    alone = ModelRank(RankAddress(), base, ShardsConfig(), targets)
    expected = alone.train(STEPS)
    assert expected[0][0] != expected[0][-1]
    spread = shards(world_size, layout)
    with Forks(spread, ModelRank, base, spread, targets) as ranks:
        assert ranks.call("digest") == alone.digest() == load(base, Path()).digest
        assert ranks.call("splits_rows") is splits_rows
        tolerance = 1e-5 if base.dtype == "float32" else 0.2
        np.testing.assert_allclose(ranks.call("logits"), alone.logits(), atol=tolerance)
        assert ranks.call("texts", PROMPTS) == alone.texts(PROMPTS)
        losses, gradients, after, sums = ranks.call("train", STEPS)
        for found, wanted in zip(gradients, expected[1], strict=True):
            np.testing.assert_allclose(found, wanted, atol=tolerance)
        np.testing.assert_allclose(losses, expected[0], atol=tolerance)
        np.testing.assert_allclose(after, expected[2], atol=10 * tolerance)
        # Every rank took the same steps to the bit, or later ones would drift apart.
        assert all(of_rank == sums[0] for of_rank in sums)
        assert ranks.call("unchanged")
        assert ranks.call("texts", PROMPTS) == alone.texts(PROMPTS)
        # Small tensors may be whole on every rank, large ones are not.
        assert ranks.call("kept") <= alone.kept() * (1 / world_size + 0.2)
        ranks.call("spoil", world_size - 1)
        assert not ranks.call("unchanged")


def test_tensor_parallel_model_trains_and_generates_as_alone(qwen3: Path) -> None:
    same_as_alone(qwen3, 2, "tensor", False)


def test_zero3_model_trains_and_generates_as_alone(model_folders: dict[str, Path]) -> None:
    same_as_alone(model_folders["llama"], 2, "zero3", True)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tensor", "zero3"])
def test_four_ranks_are_as_alone(qwen3: Path, layout: str) -> None:
    same_as_alone(qwen3, 4, layout, layout == "zero3")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_layout_chosen_for_an_architecture_is_as_alone(
    model_folders: dict[str, Path], architecture: str
) -> None:
    splits_rows = architecture == "gpt2"
    same_as_alone(model_folders[architecture], 2, "auto", splits_rows)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tensor", "zero3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_types_have_the_same_digest(qwen3: Path, layout: str, dtype: str) -> None:
    base, spread = config(qwen3, dtype=dtype), shards(2, layout)
    alone = ModelRank(RankAddress(), base, ShardsConfig(), TARGETS)
    with Forks(spread, ModelRank, base, spread, TARGETS) as ranks:
        assert ranks.call("digest") == alone.digest()
        np.testing.assert_allclose(ranks.call("logits"), alone.logits(), atol=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tensor", "zero3"])
def test_random_weights_are_those_of_one_process(qwen3: Path, layout: str) -> None:
    same_as_alone(qwen3, 2, layout, layout == "zero3", weights="random", seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "nvme"])
@pytest.mark.parametrize("weights", ["trained", "random"])
def test_zero3_on_main_memory_or_a_drive_is_as_alone(
    qwen3: Path, tmp_path: Path, device: str, weights: str
) -> None:
    offload = {"device": device, "nvme_path": str(tmp_path) if device == "nvme" else None}
    spread = ShardsConfig.model_validate(
        {"world_size": 2, "offload": offload, "cpus_per_rank": 0.1, "timeout_s": 60.0}
    )
    try:
        check_offload(spread.offload)
    except ValueError as error:
        pytest.skip(str(error))
    base = config(qwen3, weights=weights)
    alone = ModelRank(RankAddress(), base, ShardsConfig(), TARGETS)
    with Forks(spread, ModelRank, base, spread, TARGETS) as ranks:
        assert ranks.call("digest") == alone.digest()
        np.testing.assert_allclose(ranks.call("train", STEPS)[0], alone.train(STEPS)[0], atol=1e-5)
        assert ranks.call("unchanged")


def test_module_of_the_contract_loads_no_torch_distributed_code() -> None:
    text = (
        "import sys, torch; before = set(sys.modules); import kilobit.evaluators.model.base_model;"
        "print(sorted(m for m in set(sys.modules) - before if 'd' + 'istributed' in m"
        " or 'deepspeed' in m))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
