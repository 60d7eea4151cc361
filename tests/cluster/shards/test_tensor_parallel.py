from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.cluster.shards.tensor_parallel import splits_of
from tests.support.shards.architectures import on_meta


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
    # A style of weights is none of a module.
    model.tp_plan = {"model.layers.*.mlp.down_proj": "packed_colwise"}
    with pytest.raises(ValueError, match=r"unknown styles .'packed_colwise'.; use layout `zero3`"):
        splits_of(model, 2)


def test_experts_are_split_where_their_width_allows() -> None:
    model = on_meta("mixtral", intermediate_size=50)
    splits = splits_of(model, 2)
    assert splits["model.layers.1.self_attn.o_proj"] == "row"
    assert "model.layers.1.mlp.experts" not in splits
    model = on_meta("mixtral", intermediate_size=49)
    with pytest.raises(ValueError, match=r"size 49 of .*experts.* over 2 ranks"):
        splits_of(model, 2)
