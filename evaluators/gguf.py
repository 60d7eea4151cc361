"""Folders of safetensors made from GGUF files, the single-file format of llama.cpp.

A GGUF file holds blocks of few bits for each weight, the tokenizer and the chat template. Blocks
are unpacked to plain numbers, as llama.cpp multiplies with them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from kilobit.evaluators.merge.atomic_folder import publish, scratch_beside
from kilobit.evaluators.model.base_model import quiet
from kilobit.search.settings import reason_of

_MAGIC = b"GGUF"
PROMPTS = ("The capital of France is", "1, 2, 3, 4,", "Once upon a time")
_NEW_TOKENS = 12


class GgufError(ValueError):
    """A file can't be turned into a model's folder."""


def is_gguf(file: Path) -> bool:
    """Return whether a path is a regular file that begins as GGUF files do."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def make_folder(
    file: Path, folder: Path, dtype: Literal["float32", "float16", "bfloat16"]
) -> list[tuple[str, str]]:
    """Write the model of a GGUF file as a folder of safetensors with tokenizer and template.

    Args:
        file: the GGUF file.
        folder: where to write; it must not exist yet.
        dtype: type of the weights that are written; `float32` loses nothing.

    Returns:
        Prompts, each with the model's greedy continuation.

    Raises:
        GgufError: naming the file, if it is none, of an architecture that transformers can't read,
            or holds a model whose numbers are not finite.
        OSError: if the folder can't be written.
    """
    if not is_gguf(file):
        raise GgufError(f"{file} is not a GGUF file: it does not begin with {_MAGIC.decode()}")
    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, dtype),
        ).eval()
    except Exception as error:  # transformers raises many types here
        raise GgufError(f"{file} can't be read: {reason_of(error)}") from error
    said = continuations(model, tokenizer, PROMPTS)
    with scratch_beside(folder) as scratch:
        model.save_pretrained(scratch / "made")
        tokenizer.save_pretrained(scratch / "made")
        publish(scratch / "made", folder, ())
    return said


@torch.no_grad()
def continuations(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Return prompts, each with its greedy continuation.

    Raises:
        GgufError: if a logit is not finite.
    """
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        if not torch.isfinite(model(ids).logits).all():
            raise GgufError(f"the model's logits for {prompt!r} are not finite")
        after = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=_NEW_TOKENS
        )
        found.append((prompt, tokenizer.decode(after[0, ids.shape[1] :], skip_special_tokens=True)))
    return found
