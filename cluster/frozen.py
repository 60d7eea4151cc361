"""A frozen base model in this process: loaded once, never changed, and able to prove it.

Weights are read from safetensors only and no code of a model is ever executed.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from search.base_model import BaseModelConfig


@dataclass(frozen=True)
class Frozen:
    """A resident base model.

    Attributes:
        model: in evaluation mode, no parameter requires a gradient.
        tokenizer: its tokenizer; `pad_token_id` is set.
        digest: SHA-256 over names, types and bytes of all weights (16 hex digits).
        load_s: seconds that loading took.
        context: longest sequence in tokens that the model accepts, or None if it does not say.
        special_tokens: the tokenizer's own tokens belong around a text; not where it closes every
            text with an end token, for there is nothing to continue after it.
        pad_with_end: the tokenizer has no padding token of its own and pads with its end token.
    """

    model: Any
    tokenizer: Any
    digest: str
    load_s: float
    context: int | None
    special_tokens: bool
    pad_with_end: bool


def source(config: BaseModelConfig, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return what `from_pretrained` is given: a place and its keyword arguments."""
    if config.hub is not None:
        place, revision = config.hub, {"revision": config.revision or "main"}
    else:
        assert config.path is not None
        place, revision = str(folder / config.path), {}
    return place, {"trust_remote_code": False, **revision}


def load_tokenizer(config: BaseModelConfig, folder: Path) -> tuple[Any, bool]:
    """Return the tokenizer of a base model, and whether its padding token had to be its end token.

    Raises:
        OSError, ValueError: if there is none, or it would need code of its own.
    """
    place, options = source(config, folder)
    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", **options)
    pad_with_end = tokenizer.pad_token_id is None
    if pad_with_end:
        # Padding is masked, so any token will do; GPT-2-type tokenizers have no token of their own.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has neither a padding nor an end token")
    return tokenizer, pad_with_end


def load(config: BaseModelConfig, folder: Path) -> Frozen:
    """Load a base model; `folder` is where its relative path starts.

    Raises:
        OSError, ValueError: from transformers, if the model can't be loaded as asked.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if not torch.cuda.is_available():
        # DeepSpeed, which transformers imports, would warn that it finds no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    began = time.monotonic()
    place, options = source(config, folder)
    dtype = getattr(torch, config.dtype)
    tokenizer, pad_with_end = load_tokenizer(config, folder)
    if config.weights == "random":
        model_config = AutoConfig.from_pretrained(place, **options)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=dtype, use_safetensors=True, **options
        )
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval().requires_grad_(False)
    context = getattr(model.config, "max_position_embeddings", None)
    digest = weights_digest(model)
    closes = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    return Frozen(
        model, tokenizer, digest, time.monotonic() - began, context, not closes, pad_with_end
    )


def weights_digest(model: torch.nn.Module) -> str:
    """Return the first 16 hex digits of SHA-256 over all parameters and saved buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        digest.update(memoryview(content.numpy()))
    return digest.hexdigest()[:16]
