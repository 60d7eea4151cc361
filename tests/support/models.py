"""Small base models: their settings, and random models of many architectures made from configs.

Windows and chunks are 8 tokens long, so that texts of 40 tokens show them.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kilobit.search.base_model import BaseModelConfig

_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_HEADS = _BASE | {"head_dim": 8}
_SLIDING = {"sliding_window": 8}
_OWN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_SHARED_EXPERT = {"shared_expert_intermediate_size": 24, "decoder_sparse_step": 1}


@dataclass(frozen=True)
class Architecture:
    """A model to make.

    Attributes:
        kind: its `model_type`.
        values: of its config.
        attention: a module of its attention, for LoRA.
        mlp: a module of its MLP.
        norm: a norm.
        kinds: what is special about it.
    """

    kind: str
    values: dict[str, Any]
    attention: str
    mlp: str
    norm: str
    kinds: str


def _llama_like(kind: str, kinds: str, values: dict[str, Any] | None = None) -> Architecture:
    return Architecture(kind, values or _BASE, "q_proj", "down_proj", "input_layernorm", kinds)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _llama_like("llama", "full attention"),
    "mistral": _llama_like("mistral", "sliding windows", _BASE | _SLIDING),
    "qwen3": Architecture(
        "qwen3",
        _HEADS | _SLIDING | _MIXED | {"use_sliding_window": True},
        "q_proj",
        "down_proj",
        "q_norm",
        "mixed windows, norms within heads",
    ),
    "gemma2": _llama_like(
        "gemma2", "mixed windows, soft caps", _HEADS | _SLIDING | {"query_pre_attn_scalar": 8}
    ),
    "gemma3": _llama_like(
        "gemma3_text",
        "mixed windows, two rotary bases",
        _HEADS | _SLIDING | {"query_pre_attn_scalar": 8, "num_hidden_layers": 6},
    ),
    "olmo3": Architecture(
        "olmo3",
        _BASE | _SLIDING | _MIXED,
        "q_proj",
        "down_proj",
        "post_attention_layernorm",
        "mixed windows, norms after",
    ),
    "cohere2": _llama_like("cohere2", "mixed windows, parallel", _HEADS | _SLIDING | _MIXED),
    "gpt_oss": Architecture(
        "gpt_oss",
        _HEADS | _SLIDING | _EXPERTS,
        "q_proj",
        "o_proj",
        "input_layernorm",
        "mixed windows, sinks, experts",
    ),
    "llama4": Architecture(
        "llama4_text",
        _HEADS | {"intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 8},
        "q_proj",
        "o_proj",
        "input_layernorm",
        "chunks, experts",
    ),
    "mpt": Architecture(
        "mpt",
        {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 256},
        "Wqkv",
        "down_proj",
        "norm_1",
        "ALiBi in slots, fused qkv",
    ),
    "bloom": Architecture(
        "bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "query_key_value",
        "dense_4h_to_h",
        "input_layernorm",
        "ALiBi, fused qkv",
    ),
    "gpt2": Architecture("gpt2", _GPT2, "c_attn", "c_fc", "ln_1", "learned positions, fused qkv"),
    "gptj": Architecture(
        "gptj", _GPT2 | {"rotary_dim": 4}, "q_proj", "fc_in", "ln_1", "parallel, partly rotary"
    ),
    "gpt_neox": Architecture(
        "gpt_neox",
        {k: v for k, v in _BASE.items() if k != "num_key_value_heads"},
        "query_key_value",
        "dense_h_to_4h",
        "input_layernorm",
        "fused qkv, untied",
    ),
    "opt": Architecture(
        "opt",
        _OWN | {"ffn_dim": 48, "max_position_embeddings": 256, "word_embed_proj_dim": 32},
        "q_proj",
        "fc1",
        "self_attn_layer_norm",
        "learned positions, rows mixed in its MLP",
    ),
    "falcon": Architecture(
        "falcon",
        _OWN
        | {
            "multi_query": True,
            "alibi": False,
            "new_decoder_architecture": False,
            "parallel_attn": True,
        },
        "query_key_value",
        "dense_h_to_4h",
        "input_layernorm",
        "multi-query, fused qkv",
    ),
    "falcon_alibi": Architecture(
        "falcon",
        _OWN
        | {
            "multi_query": False,
            "alibi": True,
            "new_decoder_architecture": False,
            "parallel_attn": False,
        },
        "query_key_value",
        "dense_h_to_4h",
        "input_layernorm",
        "ALiBi, fused qkv",
    ),
    "phi3": Architecture(
        "phi3",
        _BASE | _SLIDING | {"tie_word_embeddings": False},
        "qkv_proj",
        "down_proj",
        "input_layernorm",
        "sliding windows, fused qkv and gate",
    ),
    "starcoder2": Architecture(
        "starcoder2", _BASE | _SLIDING, "q_proj", "c_fc", "input_layernorm", "sliding windows"
    ),
    "cohere": _llama_like("cohere", "parallel, tied"),
    "qwen2_tied": _llama_like("qwen2", "biases, tied", _BASE | {"tie_word_embeddings": True}),
    "llama_padded": _llama_like("llama", "padded vocabulary", _BASE | {"padded": 200}),
    "llama_yarn": _llama_like(
        "llama",
        "YaRN",
        _BASE
        | {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "rope_theta": 10000.0,
            }
        },
    ),
    "mixtral": Architecture(
        "mixtral", _BASE | _EXPERTS, "q_proj", "o_proj", "input_layernorm", "experts"
    ),
    "qwen2_moe": Architecture(
        "qwen2_moe",
        _BASE | _ROUTED | _SHARED_EXPERT,
        "q_proj",
        "down_proj",
        "input_layernorm",
        "shared and routed experts",
    ),
    "olmoe": Architecture(
        "olmoe",
        _BASE | {"num_experts": 4, "num_experts_per_tok": 2},
        "q_proj",
        "o_proj",
        "input_layernorm",
        "experts, norms of queries",
    ),
    "lfm2": Architecture(
        "lfm2",
        _BASE | {"layer_types": ["conv", "full_attention"]},
        "q_proj",
        "w1",
        "operator_norm",
        "convolutions and attention",
    ),
    "falcon_h1": Architecture(
        "falcon_h1",
        _BASE
        | {
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_d_state": 8,
            "mamba_n_groups": 1,
            "mamba_chunk_size": 8,
        },
        "q_proj",
        "down_proj",
        "input_layernorm",
        "state space beside attention",
    ),
    "qwen3_next": Architecture(
        "qwen3_next",
        _HEADS
        | _ROUTED
        | _SHARED_EXPERT
        | {
            "linear_num_value_heads": 2,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
        "q_proj",
        "down_proj",
        "input_layernorm",
        "linear attention, experts",
    ),
    "mamba": Architecture(
        "mamba",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "in_proj",
        "x_proj",
        "norm",
        "state space",
    ),
    "rwkv": Architecture(
        "rwkv",
        {"hidden_size": 32, "num_hidden_layers": 2, "context_length": 256},
        "output",
        "key",
        "ln1",
        "linear attention, state in place",
    ),
    "deepseek_v3": Architecture(
        "deepseek_v3",
        _BASE
        | {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 8,
            "kv_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "n_shared_experts": 1,
        },
        "o_proj",
        "down_proj",
        "input_layernorm",
        "latent attention, shared and routed experts",
    ),
}


def build_model(name: str, tokenizer: Any, folder: Path) -> Path:
    """Save a random model of an architecture with a tokenizer, and return its folder."""
    about = ARCHITECTURES[name]
    values = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None} | about.values
    size = len(tokenizer) + values.pop("padded", 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(about.kind, vocab_size=size, **values)
        model = AutoModelForCausalLM.from_config(config).float()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.copy_(torch.randn_like(weight) * 0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config(folder: Path, **changes: object) -> BaseModelConfig:
    return BaseModelConfig.model_validate({"regime": "r", "path": str(folder)} | changes)


def cached_from_hub(model: Path, home: Path) -> str:
    """Put a model into the cache of the hub at `home` (HF_HOME) and return its name there."""
    folder = home / "hub" / "models--kilobit--small"
    shutil.copytree(model, folder / "snapshots" / ("0" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)
    return "kilobit/small"
