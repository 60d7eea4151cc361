"""What ranks need is known before anything is loaded."""

from pathlib import Path

import pytest
import torch
from transformers import Olmo3Config, Olmo3ForCausalLM

from kilobit.cluster.shards.plan import GIB, plan_ranks
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.launch import main
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import REPOSITORY


@pytest.fixture
def large(tmp_path: Path) -> BaseModelConfig:
    """Return a model of 32 billion numbers of which there is only the config."""
    Olmo3Config(
        vocab_size=100278,
        hidden_size=5120,
        intermediate_size=27648,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        architectures=["Olmo3ForCausalLM"],
    ).save_pretrained(tmp_path / "large")
    return BaseModelConfig(regime="r", path=tmp_path / "large", dtype="bfloat16", device="cuda")


def test_a_large_model_is_planned_from_its_config_alone(large: BaseModelConfig) -> None:
    with torch.device("meta"):
        assert large.path is not None
        model = Olmo3ForCausalLM(Olmo3Config.from_pretrained(large.path))
    whole = 2 * sum(p.numel() for p in model.parameters())
    for layout, kept in (("tensor", 1.01), ("zero3", 1.0)):
        shards = ShardsConfig.model_validate({"world_size": 8, "layout": layout})
        plan = plan_ranks(large, Path(), shards, 80 * GIB)
        assert plan.layout == layout
        assert whole / 8 <= plan.weights <= kept * whole / 8 + 1
        assert plan.pass_tokens is not None
        assert plan.pass_tokens > 2000
        assert (plan.gathered > 0) == (layout == "zero3")
        text = "\n".join(plan.lines("olmo", shards))
        assert f"olmo: 8 ranks ({layout}) keep 7.5" in text
        assert "tokens a pass" in text


def test_what_can_not_fit_is_refused_with_what_is_missing(large: BaseModelConfig) -> None:
    with pytest.raises(ValueError, match=r"60\.04 GiB for weights .* GiB are missing: use more"):
        plan_ranks(large, Path(), ShardsConfig(), 40 * GIB)
    offload = {"world_size": 2, "layout": "zero3", "offload": {"device": "cpu"}}
    plan = plan_ranks(large, Path(), ShardsConfig.model_validate(offload), 40 * GIB)
    assert plan.weights == 0


def test_fewer_bits_make_a_model_fit_on_one_rank_and_on_no_more(large: BaseModelConfig) -> None:
    for quantization, gib in (("nf4", 18.26), ("int8", 31.0)):
        few = large.model_copy(update={"quantization": quantization})
        plan = plan_ranks(few, Path(), ShardsConfig(), 40 * GIB)
        assert plan.weights / GIB == pytest.approx(gib, abs=0.03)
        # Training keeps numbers of the type that is computed with.
        assert plan.token == plan_ranks(large, Path(), ShardsConfig(), 80 * GIB).token
        for split in (
            {"world_size": 2},
            {"layout": "zero3"},
            {"offload": {"device": "cpu"}},
        ):
            shards = ShardsConfig.model_validate(split)
            with pytest.raises(ValueError, match=f"quantization {quantization} of r needs"):
                plan_ranks(few, Path(), shards, 40 * GIB)


def test_a_dry_run_prints_the_plan_and_refuses_what_does_not_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    quickstart = str(REPOSITORY / "examples" / "quickstart.yaml")
    assert main(["run", quickstart, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "pretrained: a worker keeps 0.01 GiB of weights, loaded in about 1 s" in shown
    tight = "workers.shards.memory_gib=0.01"
    assert main(["run", quickstart, "--dry-run", tight]) == 2
    assert "workers.shards: random does not fit" in capsys.readouterr().err
