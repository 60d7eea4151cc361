from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.cluster.shards.tensor_parallel import splits_of


def test_plan_of_a_style_that_is_not_known_is_refused(qwen3: Path) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(qwen3))
    splits = splits_of(model, 2)
    assert splits["model.layers.1.self_attn.q_norm"] == "heads"
    assert splits["model.layers.1.mlp.down_proj"] == "row"
    assert splits["model.layers.0.mlp.up_proj"] == "column"
    assert "lm_head" not in splits
    model.tp_plan = {"lm_head": "colwise_gather_output"}
    with pytest.raises(ValueError, match="splits no layer; use layout `zero3`"):
        splits_of(model, 2)
    model.tp_plan = {"model.layers.*.mlp.experts": "moe_tp_experts"}
    with pytest.raises(ValueError, match="moe_tp_experts"):
        splits_of(model, 2)
