"""Machine that lengths of programs are relative to: the files of a base model that decide outputs.

The weights alone do not pin it: with another tokenizer, chat template, config or generation config
the same weights say other things, and what is hidden in one of them would cost a program no bits.
What a run's outputs depend on besides, such as device and libraries, is recorded by its workers.

Quantised weights: bitsandbytes keeps the weights of linear modules in 4 or 8 bits and dequantises
each when it is used. On a CPU it would choose by the processor to round what goes into a module
too; it does not in a module in training mode, and the modules that it quantises have no other use
for that mode.

A cheap check that a rank's part of the base weights did not change.

A fingerprint is a sum of integers modulo 2^64: every element, read as an integer, times an odd
number that depends on its position. Any change of one element changes it, as does a swap of two
neighbours that differ. It guards against accidents, not against deliberate tampering, and is
comparable only on the same rank of the same layout.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import BitsAndBytesConfig, GenerationConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from kilobit.evaluators.merge.atomic_folder import temporary_folder
from kilobit.search.base_model import Quantization, digest_of
from kilobit.search.programs.recipe import GenerationPart

_CHUNK = 1 << 22
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# An odd multiplier (Steele and Vigna 2021, table 6) spreads positions over all 64 bits.
_SPREAD = 0xD1342543DE82EF95
_WORD = 1 << 64

# Left by the library that saved or loaded the files last; they decide nothing.
_VOLATILE = frozenset(
    (
        "_from_model_config",
        "_name_or_path",
        "architectures",
        "backend",
        "chat_template",
        "dtype",
        "is_local",
        "local_files_only",
        "name_or_path",
        "padding",
        "padding_side",
        "tokenizer_file",
        "torch_dtype",
        "transformers_version",
        "truncation",
        "truncation_side",
    )
)

# Options that greedy generation does not read or that program.py gives, and those that change
# nothing at this value.
_IDLE = frozenset(
    (
        "bos_token_id",
        "do_sample",
        "eos_token_id",
        "epsilon_cutoff",
        "eta_cutoff",
        "max_length",
        "max_new_tokens",
        "min_p",
        "pad_token_id",
        "temperature",
        "top_h",
        "top_k",
        "top_p",
        "transformers_version",
        "typical_p",
    )
)
_NEUTRAL = {
    "_from_model_config": True,
    "cache_implementation": "hybrid",
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "guidance_scale": 1.0,
    "length_penalty": 1.0,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "use_cache": True,
}


def fresh_generation(
    own: GenerationConfig, tokenizer: Any, vocabulary: int
) -> tuple[GenerationConfig, GenerationPart | None]:
    """Return options of greedy generation: a model's end tokens and the tokenizer's padding token.

    The second value is what a program has to say to have them: None where the model's own options
    mean the same. They do not where one is not known to be idle, where rows without an end token
    would go on after a stop string, or where the padding would be printed.

    Args:
        own: the model's own generation config.
        tokenizer: its tokenizer; `pad_token_id` is set.
        vocabulary: number of tokens that the model has embeddings of.

    Raises:
        ValueError: if the end tokens are no numbers of tokens, or padding would be printed.
    """
    ends = [] if own.eos_token_id is None else own.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if not all(type(end) is int for end in ends):
        raise ValueError(f"generation config: eos_token_id {ends} is no token's number, or a list")
    pad = tokenizer.pad_token_id
    if tokenizer.decode([pad], skip_special_tokens=True):
        raise ValueError(f"the tokenizer's padding token {tokenizer.pad_token!r} is no special one")
    options = {name: value for name, value in own.to_dict().items() if value is not None}
    # Except for `use_cache`, False is what holds if an option is not given.
    options = {k: v for k, v in options.items() if v is not False or k == "use_cache"}
    odd = any(k not in _IDLE and _NEUTRAL.get(k) != value for k, value in options.items())
    after = options.get("pad_token_id", ends[0] if ends else -1)
    printed = type(after) is not int or not 0 <= after < vocabulary
    printed = printed or bool(tokenizer.decode([after], skip_special_tokens=True))
    part = GenerationPart(end_tokens=tuple(ends), pad_token=pad)
    fresh = GenerationConfig(eos_token_id=ends, pad_token_id=pad)
    return fresh, part if odd or printed or not ends else None


def machine_parts(
    model: Any, tokenizer: Any, weights: str, quantization: Quantization | None = None
) -> dict[str, str]:
    """Return a digest of each part of a base model, 16 hex digits, by the name of the part.

    Args:
        model: the loaded model.
        tokenizer: its tokenizer.
        weights: digest of its weights, of those that are quantised as they were before.
        quantization: how linear modules are quantised.
    """
    config = model.config.to_diff_dict()
    # Of the loaded model; `check_source` refuses one in a file.
    config.pop("quantization_config", None)
    kept = {"quantisation": digest_of([quantization, str(model.dtype)])} if quantization else {}
    return {
        "weights": weights,
        **kept,
        "config": digest_of(_lasting(config)),
        "generation config": digest_of(_lasting(model.generation_config.to_diff_dict())),
        "tokenizer": digest_of(_tokenizer_files(tokenizer)),
        "chat template": digest_of(tokenizer.chat_template),
    }


def _lasting(content: Any) -> Any:
    """Return a config without what its files only carry along."""
    if not isinstance(content, dict):
        return content
    return {str(k): _lasting(v) for k, v in content.items() if k not in _VOLATILE}


def _tokenizer_files(tokenizer: Any) -> dict[str, Any]:
    """Return the content of the files of a tokenizer, which transformers writes anew."""
    found: dict[str, Any] = {}
    with temporary_folder("tokenizer") as scratch:
        tokenizer.save_pretrained(scratch)
        for path in sorted(scratch.rglob("*")):
            if path.suffix == ".json":
                found[path.name] = _lasting(json.loads(path.read_text("utf-8")))
            elif path.is_file() and path.suffix != ".jinja":
                found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


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


def files_digest(model_id: str, revision: str | None) -> str:
    """Return the first 16 hex digits of SHA-256 over the tensors of a model's safetensors files.

    Args:
        model_id: a path or hub name.
        revision: of the hub model.
    """

    def find(name: str, *, needed: bool) -> str | None:
        found = cached_file(
            model_id, name, revision=revision, _raise_exceptions_for_missing_entries=needed
        )
        return None if found is None else str(found)

    files = [find(SAFE_WEIGHTS_NAME, needed=False)]
    index = find(SAFE_WEIGHTS_INDEX_NAME, needed=files == [None])
    if files == [None] and index is not None:
        names = json.loads(Path(index).read_text("utf-8"))["weight_map"].values()
        files = [find(name, needed=True) for name in sorted(set(names))]
    digest = Digest()
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, "pt")) for file in files]
        tensors = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - no dict
        for name in sorted(tensors):
            digest.add(name, tensors[name].get_tensor(name))
    return digest.hex()


def quantization_config(kind: Quantization, dtype: str) -> BitsAndBytesConfig:
    """Return the settings by which transformers quantises a model, as program.py gives them.

    Raises:
        ImportError: if bitsandbytes is missing.
    """
    if find_spec("bitsandbytes") is None:
        raise ImportError(
            f"quantization {kind} needs bitsandbytes: pip install -c constraints.txt "
            "-e '.[quantized]'"
        )
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )


def is_quantised(module: torch.nn.Module) -> bool:
    """Return whether bitsandbytes quantised the weight of a module."""
    return type(module).__module__.startswith("bitsandbytes.")


def settle(model: torch.nn.Module) -> None:
    """Put the quantised modules of a model in training mode and all others in evaluation mode."""
    for module in model.modules():
        module.training = is_quantised(module)


def quantised_names(model: Any) -> set[str]:
    """Return the names of the modules that transformers would quantise, of a model that is not.

    Args:
        model: the plain model, on any device.
    """
    # Here, because they import code for several processes.
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)  # noqa: SLF001 - transformers passes it so
    return {
        name
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or _is_transposed(module))
        and should_convert_module(name, kept)
    }


def _is_transposed(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def weight_bytes(model: Any, quantization: Quantization | None, size: int) -> int:
    """Return the bytes of a plain model's weights as they are kept.

    Args:
        model: the plain model, on any device.
        quantization: how linear modules are quantised.
        size: bytes of a number that is not quantised.
    """
    names = quantised_names(model) if quantization else set()
    total = 0
    for name, weight in model.named_parameters():
        module, _, kind = name.rpartition(".")
        if module not in names or kind != "weight":
            total += size * weight.numel()
        elif quantization == "int8":
            # A scale for each number of the output.
            side = 1 if _is_transposed(model.get_submodule(module)) else 0
            total += weight.numel() + 4 * int(weight.shape[side])
        else:
            # A scale for each block of 64 numbers.
            total += weight.numel() // 2 + 4 * -(-weight.numel() // 64)
    return total


def kept_bytes(weight: Any) -> int:
    """Return the bytes of a parameter as it is kept: of the whole one, with its scales."""
    state = getattr(weight, "quant_state", None)
    scales = [getattr(weight, "SCB", None), *([] if state is None else [state.absmax, state.code])]
    # ZeRO-3 leaves an empty tensor; a parameter of 4 bits has two numbers a byte.
    count = getattr(weight, "ds_numel", None) or weight.numel()
    return int(count * weight.element_size() + sum(s.nbytes for s in scales if s is not None))


def num_numbers(weight: Any) -> int:
    """Return the number of numbers of a parameter: of the whole one, also if it is quantised."""
    # ZeRO-3 leaves an empty tensor; its full size is in `ds_numel`.
    whole = getattr(weight, "ds_numel", None)
    state = getattr(weight, "quant_state", None)
    return int(whole or (math.prod(state.shape) if state is not None else weight.numel()))


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _tensor_print(tensor: Tensor) -> int:
    flat = tensor.detach().contiguous().reshape(-1)
    flat = flat.view(_INTEGERS[flat.element_size()])
    total = 0
    for start in range(0, flat.numel(), _CHUNK):
        part = flat[start : start + _CHUNK].to(torch.int64)
        # 2 i + 1 is odd, and so is its product with an odd number: no change vanishes mod 2^64.
        positions = torch.arange(start, start + part.numel(), device=part.device) * 2 + 1
        total += int((part * (positions * _signed(_SPREAD))).sum())
    return total % _WORD


def local_tensors(model: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield name and this rank's part of each parameter and saved buffer, sorted by name."""
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        if hasattr(tensor, "ds_tensor"):
            yield name, tensor.ds_tensor
        elif hasattr(tensor, "to_local"):
            yield name, tensor.to_local()
        else:
            yield name, tensor


def fingerprint(model: torch.nn.Module) -> int:
    """Return the fingerprint of this rank's part of `model`, without communication."""
    total = 0
    for _, tensor in local_tensors(model):
        total = (total * _SPREAD + _tensor_print(tensor)) % _WORD
    return total
