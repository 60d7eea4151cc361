import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kilobit import launch
from kilobit.evaluators.gguf import GgufError, make_folder

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def turned(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return a query or key projection with the order of rows that the format has."""
    rows = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(folder: Path, file: Path, *, coarse: bool = False, broken: bool = False) -> None:
    """Write a model's folder as a GGUF file, with blocks of 8 bits if `coarse`."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    told = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(told["vocab"], key=told["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in told["merges"]])
    writer.add_eos_token_id(told["vocab"]["<eos>"])
    writer.add_bos_token_id(told["vocab"]["<bos>"])
    writer.add_chat_template(TEMPLATE)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        values = weight.numpy().copy()
        if broken:
            values[...] = np.nan
        if name in WHOLE:
            writer.add_tensor(WHOLE[name], values)
            continue
        _, _, layer, part = name.removesuffix(".weight").split(".", 3)
        if part.rpartition(".")[2] in heads:
            values = turned(values, heads[part.rpartition(".")[2]])
        kind = gguf.GGMLQuantizationType.Q8_0
        # Blocks have 32 numbers, and a row of them begins a block.
        packed = coarse and values.ndim == 2 and values.shape[1] % 32 == 0
        stored = gguf.quants.quantize(values, kind) if packed else values
        told_name = f"blk.{layer}.{NAMES[part]}.weight"
        writer.add_tensor(told_name, stored, raw_dtype=kind if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("coarse", [False, True])
def test_a_folder_has_the_weights_the_tokenizer_and_the_template_of_the_file(
    model_folders: dict[str, Path], tmp_path: Path, coarse: bool
) -> None:
    write_gguf(model_folders["llama"], tmp_path / "m.gguf", coarse=coarse)
    said = make_folder(tmp_path / "m.gguf", tmp_path / "m", "float32")
    before = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    old = AutoTokenizer.from_pretrained(model_folders["llama"])
    ids = tokenizer("How much is 3 plus 4?", return_tensors="pt", add_special_tokens=False)
    assert (
        ids.input_ids.tolist()[0]
        == old("How much is 3 plus 4?", add_special_tokens=False)["input_ids"]
    )
    assert tokenizer.chat_template == TEMPLATE
    found = [model(ids.input_ids).logits for model in (before, after)]
    same = dict(before.state_dict())
    assert coarse != all(torch.equal(w, same[name]) for name, w in after.state_dict().items())
    torch.testing.assert_close(*found, rtol=0, atol=0.05 if coarse else 0)
    assert "quantization_config" not in json.loads((tmp_path / "m" / "config.json").read_text())
    text = after.generate(
        **tokenizer(said[0][0], return_tensors="pt"), do_sample=False, max_new_tokens=12
    )
    assert tokenizer.decode(text[0], skip_special_tokens=True).endswith(said[0][1])


def test_what_is_no_model_leaves_no_folder(model_folders: dict[str, Path], tmp_path: Path) -> None:
    write_gguf(model_folders["llama"], tmp_path / "nan.gguf", broken=True)
    whole = (tmp_path / "nan.gguf").read_bytes()
    for name, content, message in (
        ("text.gguf", b"hello", "is not a GGUF file"),
        ("short.gguf", whole[:500], "can't be read"),
        ("nan.gguf", whole, "not finite"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GgufError, match=message):
            make_folder(tmp_path / name, tmp_path / "m", "float32")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nan.gguf", "short.gguf", "text.gguf"]


def test_the_command_makes_a_folder_that_a_sweep_can_name(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "m.gguf", tmp_path / "models" / "m"
    write_gguf(model_folders["llama"], file)
    assert launch.main(["model", str(file), str(folder), "--dtype", "float16"]) == 0
    assert f"{folder} holds the model" in capsys.readouterr().out
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert launch.main(["model", str(file), str(folder)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert launch.main(["model", str(tmp_path / "none"), str(folder)]) == 2
    assert "there is no such file" in capsys.readouterr().err
