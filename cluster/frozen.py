"""A base model in this process: loaded once, never changed, and checked by a fingerprint.

It is the whole model, or this rank's part of one that `cluster.shards` spread over processes.

Weights are read from safetensors only, and no code that comes with a model is ever executed.
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

from cluster.shards.fingerprint import fingerprint
from cluster.shards.shard import ALONE, Shard
from search.base_model import BaseModelConfig


@dataclass(frozen=True)
class Frozen:
    """A resident base model.

    Attributes:
        model: in evaluation mode, no parameter requires a gradient.
        tokenizer: its tokenizer; `pad_token_id` is set.
        digest: SHA-256 over names, types and bytes of all weights (16 hex digits).
        load_s: seconds that loading took.
        context: longest sequence in tokens that the model accepts, or None if unknown.
        special_tokens: whether the tokenizer adds its own tokens to a text; not if it closes every
            text with an end token, because a model can't continue after that.
        pad_with_end: whether the tokenizer pads with its end token, for lack of a padding token.
        fingerprint: of the weights that this process keeps, see `unchanged`.
        shard: rank of this process among those that the model is spread over.
    """

    model: Any
    tokenizer: Any
    digest: str
    load_s: float
    context: int | None
    special_tokens: bool
    pad_with_end: bool
    fingerprint: int = 0
    shard: Shard = ALONE


def source(config: BaseModelConfig, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained`: a path or hub name, and the keywords."""
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
        # Padding is masked, so any token will do; GPT-2-type tokenizers have no token for it.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has neither a padding nor an end token")
    return tokenizer, pad_with_end


def load(config: BaseModelConfig, folder: Path) -> Frozen:
    """Load a base model; its relative path starts at `folder`.

    Raises:
        OSError, ValueError: from transformers, if the model can't be loaded as asked.
    """
    quiet()
    began = time.monotonic()
    place, options = source(config, folder)
    if config.weights == "random":
        model = random_model(config, folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=getattr(torch, config.dtype), use_safetensors=True, **options
        )
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).eval().requires_grad_(False)
    return describe(model, config, folder, weights_digest(model), began)


def quiet() -> None:
    """Keep transformers and the libraries that it imports from printing."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if not torch.cuda.is_available():
        # DeepSpeed, which transformers imports, would warn that it finds no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def random_model(config: BaseModelConfig, folder: Path) -> Any:
    """Return a model with weights drawn from the config's seed, on the CPU."""
    place, options = source(config, folder)
    model_config = AutoConfig.from_pretrained(place, **options)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return AutoModelForCausalLM.from_config(model_config, dtype=getattr(torch, config.dtype))


def describe(
    model: Any,
    config: BaseModelConfig,
    folder: Path,
    digest: str,
    began: float,
    shard: Shard = ALONE,
) -> Frozen:
    """Return a loaded model with its tokenizer; `began` is when loading began (monotonic clock).

    Raises:
        OSError, ValueError: if there is no tokenizer, or it would need code of its own.
    """
    tokenizer, pad_with_end = load_tokenizer(config, folder)
    closes = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    return Frozen(
        model,
        tokenizer,
        digest,
        time.monotonic() - began,
        getattr(model.config, "max_position_embeddings", None),
        not closes,
        pad_with_end,
        fingerprint(model),
        shard,
    )


def unchanged(frozen: Frozen) -> bool:
    """Return whether the weights on all ranks are unchanged; every rank has to call this.

    It reads the weights once. It can miss a change that is crafted to keep the fingerprint; the
    digest can't, but takes longer and needs whole tensors.
    """
    differs = int(fingerprint(frozen.model) != frozen.fingerprint)
    device = frozen.model.device
    return not int(frozen.shard.sum(torch.tensor(differs, dtype=torch.int64, device=device)))


def num_parameters(frozen: Frozen) -> int:
    """Return the number of parameters of the whole model, over all ranks."""
    # ZeRO-3 leaves an empty tensor; its full size is in `ds_numel`.
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in frozen.model.parameters())


class Digest:
    """SHA-256 over names, types and bytes of tensors, in the order in which they are added."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Add a whole tensor, not a rank's part of one."""
        self._sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content = tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8)
        self._sha.update(content.numpy().data)

    def hex(self) -> str:
        """Return the first 16 hex digits."""
        return self._sha.hexdigest()[:16]


def weights_digest(model: torch.nn.Module) -> str:
    """Return the first 16 hex digits of SHA-256 over all parameters and saved buffers."""
    digest = Digest()
    for name, tensor in sorted(model.state_dict().items()):
        digest.add(name, tensor)
    return digest.hex()
