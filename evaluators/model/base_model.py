"""A frozen base model in this process: loading, its `Shard`, and proof that it is unchanged.

It is loaded once, never changed, and checked by a fingerprint. It is the whole model, or this
rank's part of one that `kilobit.cluster.shards` spread over processes.

Weights are read from safetensors only, and no code that comes with a model is ever executed.

Interface between an adapter's hooks and a base model that may be spread over ranks.

A hook on a module of the base model sees its rank's part: the whole input and output, or a part of
one of them. It passes whole factors to `low_rank` or `part_of_output` and gets the update of the
output that it sees. After `backward` and `sum_gradients` every rank has the same, whole gradient of
the factors.

This module implements a single process only and imports neither torch.distributed nor DeepSpeed.
"""

import os
import stat
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    StopStringCriteria,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.peft_utils import find_adapter_config_file

from kilobit.evaluators.merge.atomic_folder import temporary_folder
from kilobit.evaluators.model.machine import (
    files_digest,
    fingerprint,
    fresh_generation,
    kept_bytes,
    machine_parts,
    num_numbers,
    quantization_config,
    settle,
    weights_digest,
)
from kilobit.evaluators.text_files import parsed, read_file
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig, digest_of
from kilobit.search.programs.recipe import GenerationPart
from kilobit.search.settings import reason_of

# Files that are read as a whole; a tokenizer has some 10 MB, the index of a large model a few.
_READ_WHOLE = (".json", ".jinja", ".txt", ".model")
_MOST_BYTES, _MOST_LAYERS = 1 << 28, 1000


class Shard(Protocol):
    """One rank's view of a resident base model.

    All ranks have to make the same calls in the same order, those that follow from `backward`
    included; otherwise the ranks wait for one another until their process group's timeout.

    Attributes:
        rank: from 0 to world_size - 1.
        world_size: number of ranks.
        splits_rows: in training every rank takes its own rows of a batch (at least one), and losses
            and gradients are summed; otherwise all ranks see the same rows. In generation all ranks
            always see the same rows.
    """

    @property
    def rank(self) -> int: ...  # noqa: D102
    @property
    def world_size(self) -> int: ...  # noqa: D102
    @property
    def splits_rows(self) -> bool: ...  # noqa: D102

    def low_rank(self, name: str, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """Return this rank's part of the update `x @ down.mT @ up.mT` of a module's output.

        Args:
            name: the module's name in `named_modules` of the model.
            x: its input as a forward hook sees it, [rows, tokens, in] or this rank's part of `in`.
            down: [rows, rank, in], whole and the same on all ranks.
            up: [rows, out, rank], whole and the same on all ranks.

        Returns:
            [rows, tokens, out] or this rank's part of `out`, in the type of the factors.
        """
        ...

    def part_of_output(self, name: str, factors: Tensor) -> Tensor:
        """Return the part of `factors` [..., out] that belongs to this rank's output of `name`."""
        ...

    def skeleton(
        self, frozen: "FrozenModel", spec: AdapterSpec
    ) -> AbstractContextManager["FrozenModel"]:
        """Return a context that yields a base model on which PEFT can build the adapter of `spec`.

        All ranks have to enter it together.
        """
        ...

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Sum `.grad` of the tensors over ranks if `splits_rows`; a missing one counts as zeros."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of a small tensor over all ranks; it carries no gradient."""
        ...


def plain_low_rank(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return `x @ down.mT @ up.mT` in the type of the factors; shapes as in `Shard.low_rank`."""
    return x.to(down.dtype) @ down.mT @ up.mT


class _Alone:
    """View of a base model that is whole in this process."""

    rank, world_size, splits_rows = 0, 1, False

    def low_rank(self, name: str, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return plain_low_rank(x, down, up)

    def part_of_output(self, name: str, factors: Tensor) -> Tensor:
        return factors

    def skeleton(
        self, frozen: "FrozenModel", spec: AdapterSpec
    ) -> AbstractContextManager["FrozenModel"]:
        return nullcontext(frozen)

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        return

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.detach()


ALONE: Shard = _Alone()


class Factors(NamedTuple):
    """Leading SVD factors of a weight, and zeros of its shape and type that take no room."""

    left: Tensor
    values: Tensor
    right: Tensor
    like: Tensor


def has_factors(factors: Mapping[str, Factors], module: str, rank: int) -> bool:
    """Return whether the factors of a module's weight are known up to a rank."""
    kept = factors.get(module)
    return kept is not None and len(kept.values) >= min(rank, *kept.like.shape)


@dataclass(frozen=True)
class FrozenModel:
    """A resident base model.

    Attributes:
        model: in evaluation mode, no parameter requires a gradient; its generation config is
            replaced, see `fresh_generation`.
        tokenizer: its tokenizer; `pad_token_id` is set.
        digest: SHA-256 over names, types and bytes of all weights (16 hex digits), of those that
            are quantised as they were before.
        load_s: seconds that loading took.
        context: longest sequence in tokens that the model accepts, or None if unknown.
        special_tokens: whether the tokenizer adds its own tokens to a text; not if it closes every
            text with an end token, because a model can't continue after that.
        pad_with_end: whether the tokenizer pads with its end token, for lack of a padding token.
        fingerprint: of the weights that this process keeps, see `unchanged`.
        shard: rank of this process among those that the model is spread over.
        config: its settings, None for one that was made without any.
        parts: digests of all parts that decide outputs, see `machine_parts`.
        generation: options that a program has to give, None if the model's own mean the same.
        factors: the leading SVD factors of weights by module, kept by whoever computes them.
        stops: detectors of stop strings, kept by whoever makes them: their tables are made from all
            tokens.
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
    config: BaseModelConfig | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    generation: GenerationPart | None = None
    factors: dict[str, Factors] = field(default_factory=dict)
    stops: dict[tuple[str, ...], StopStringCriteria] = field(default_factory=dict)

    @property
    def machine(self) -> str:
        """Return the digest of all its parts, which lengths of programs are relative to."""
        return digest_of(dict(self.parts))

    def was_recorded_as(self, digest: str | None) -> bool:
        """Return whether a recorded digest is this model's.

        Runs of earlier versions recorded none, or that of the weights alone.
        """
        return digest in (None, self.machine, self.digest)

    @property
    def vocabulary(self) -> int:
        """Return the number of tokens that the model has embeddings of."""
        return int(self.model.config.get_text_config().vocab_size)


def check_ids(frozen: FrozenModel, ids: Sequence[int]) -> None:
    """Check that the model has an embedding of each token.

    Raises:
        ValueError: if it lacks one, which a token that was added to the tokenizer alone does.
    """
    largest = max(ids, default=0)
    if largest >= frozen.vocabulary:
        token = frozen.tokenizer.convert_ids_to_tokens(largest)
        raise ValueError(
            f"the text has the token {token!r} ({largest}), which the tokenizer knows and the "
            f"model does not: it has embeddings of {frozen.vocabulary} tokens"
        )


def source(config: BaseModelConfig, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained`: a path or hub name, and the keywords."""
    if config.hub is not None:
        model_id, revision = config.hub, {"revision": config.revision or "main"}
    else:
        assert config.path is not None
        model_id, revision = str(folder / config.path), {}
    return model_id, {"trust_remote_code": False, **revision}


def check_source(model_id: str, options: Mapping[str, Any]) -> GenerationConfig:
    """Check what `from_pretrained` would read besides a config and weights.

    Args:
        model_id: a path or hub name.
        options: keywords of `from_pretrained`, as `source` returns them.

    Returns:
        The model's own generation config.

    Raises:
        OSError: if the config can't be read.
        ValueError: if a file is no regular one, an adapter lies beside the weights, an index names
            files elsewhere, there are too many layers, the weights are quantised, only code of its
            own would run the model, or transformers would pass over a generation config that it
            can't read.
    """
    check_files(Path(model_id))
    adapter = find_adapter_config_file(model_id, revision=options.get("revision"))
    if adapter is not None:
        raise ValueError(
            f"{adapter} lies beside the weights: transformers would load that adapter, and the "
            "base model that it names, instead of these weights. Remove the file if the adapter "
            "is merged; otherwise merge it first"
        )
    # Only this index is read: others, of pickles for one, may name files that were never fetched.
    for index in Path(model_id).glob("model.safetensors.index.json"):
        content = parsed(read_file(index, _MOST_BYTES), str(index))
        named = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(named, dict) or not named:
            raise ValueError(f"{index}: `weight_map` must give the file of each weight")
        files = {str(name) for name in named.values()}
        gone = sorted(name for name in files if not (Path(model_id) / Path(name).name).is_file())
        outside = sorted(name for name in files if Path(name).name != name)
        if gone or outside:
            raise ValueError(f"{index} names {(outside or gone)[0]}, which is not in its folder")
    written, _ = PretrainedConfig.get_config_dict(model_id, **options)
    _check_layers(written, model_id)
    kind = str(written.get("model_type"))
    known = kind in CONFIG_MAPPING and CONFIG_MAPPING[kind] in MODEL_FOR_CAUSAL_LM_MAPPING
    if "auto_map" in written and not known:
        raise ValueError(
            f"{model_id}: transformers has no causal language model of the type {kind!r}, and the "
            "code that config.json names in auto_map is never executed"
        )
    config = AutoConfig.from_pretrained(model_id, **options)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ValueError(
            f"{model_id}: config.json has a quantization_config ({method}), so the model would not "
            "compute with the weights of its files: give a model of plain weights"
        )
    try:
        return GenerationConfig.from_pretrained(model_id, revision=options.get("revision", "main"))
    except Exception as error:  # transformers raises many types here
        given = Path(model_id) / "generation_config.json"
        if given.exists() or not isinstance(error, OSError):
            raise ValueError(f"{given}: {reason_of(error)}") from error
        return GenerationConfig.from_model_config(config)


def check_files(folder: Path) -> None:
    """Check that what transformers may read besides weights is a regular file of a sane size.

    Raises:
        ValueError: naming the file, if one is a pipe or a device, which could block or never end,
            or too large.
    """
    for path in [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]:
        about = path.stat() if path.exists() else None
        if about is None or stat.S_ISDIR(about.st_mode):
            continue
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if path.suffix in _READ_WHOLE and about.st_size > _MOST_BYTES:
            raise ValueError(f"{path} is larger than the allowed {_MOST_BYTES} bytes")


def _check_layers(written: Any, model_id: str) -> None:
    """Check that a model has no more layers than can be made, also of its parts.

    Raises:
        ValueError: naming the entry.
    """
    for name, value in written.items() if isinstance(written, dict) else ():
        _check_layers(value, model_id)
        if "layer" in str(name) and isinstance(value, int) and value > _MOST_LAYERS:
            raise ValueError(
                f"{model_id}: config.json: {name} is {value}, at most {_MOST_LAYERS} are allowed"
            )


def read_weights(model_id: str, options: Mapping[str, Any], **loading: Any) -> Any:
    """Return a model whose every weight is read from its own safetensors files.

    Args:
        model_id: a path or hub name.
        options: keywords of `from_pretrained`, as `source` returns them.
        loading: further keywords, such as `dtype`.

    Raises:
        OSError, ValueError: from transformers, if the model can't be loaded as asked; from
            `check_source`; or if the files lack a weight, which transformers would draw at random.
    """
    check_source(model_id, options)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        model_id, use_safetensors=True, output_loading_info=True, **options, **loading
    )
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(f"{model_id} lacks the weights {', '.join(missing[:3])}{more}")
    return model


def load_tokenizer(config: BaseModelConfig, folder: Path) -> tuple[Any, bool]:
    """Return the tokenizer of a base model, and whether its padding token had to be its end token.

    Raises:
        OSError, ValueError: if there is none, or it would need code of its own.
    """
    model_id, options = source(config, folder)
    size = AutoConfig.from_pretrained(model_id, **options).get_text_config().vocab_size
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id, padding_side="left", **options)
        ids = tokenizer("a").input_ids
    except BaseException as error:
        # What the library of tokenizers raises where it fails is no `Exception`.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the library of tokenizers failed: {reason_of(error)}") from error
    if not ids or max(ids) >= size:
        raise ValueError(f"it makes the tokens {ids} of the text 'a', the model has {size}")
    if not isinstance(tokenizer.model_max_length, int | float):
        raise ValueError(f"model_max_length {tokenizer.model_max_length!r:.60} is not a number")
    # Padding is masked, so any token will do that the model has an embedding of. GPT-2-type
    # tokenizers have no token for it, and transformers adds one to those of Qwen 2.
    pad_with_end = tokenizer.pad_token_id is None or tokenizer.pad_token_id >= size
    if pad_with_end:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= size:
        raise ValueError("the tokenizer has neither a padding nor an end token of the model")
    return tokenizer, pad_with_end


def load(config: BaseModelConfig, folder: Path) -> FrozenModel:
    """Load a base model; its relative path starts at `folder`.

    Raises:
        OSError, ValueError: from transformers, if the model can't be loaded as asked.
        ImportError: if its weights are to be quantised, and bitsandbytes is missing.
    """
    quiet()
    began = time.monotonic()
    model_id, options = source(config, folder)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if config.quantization is not None:
        model, digest = _load_quantised(config, folder, device)
        return describe(model, config, folder, digest, began)
    if config.weights == "random":
        model = random_model(config, folder)
    else:
        model = read_weights(model_id, options, dtype=getattr(torch, config.dtype))
    model.to(device).eval().requires_grad_(False)
    return describe(model, config, folder, weights_digest(model), began)


def _load_quantised(config: BaseModelConfig, folder: Path, device: str) -> tuple[Any, str]:
    """Return a model with quantised weights, and the digest of its plain ones.

    What quantisation makes of them may depend on the device.
    """
    assert config.quantization is not None
    how = quantization_config(config.quantization, config.dtype)
    model_id, options = source(config, folder)
    with temporary_folder("random") as scratch:
        if config.weights == "random":
            # transformers quantises what it reads from files.
            random_model(config, folder).save_pretrained(scratch)
            model_id, options = str(scratch), {"trust_remote_code": False}
        digest = files_digest(model_id, options.get("revision"))
        dtype = getattr(torch, config.dtype)
        model = read_weights(
            model_id, options, dtype=dtype, quantization_config=how, device_map={"": device}
        )
    settle(model)
    model.requires_grad_(False)
    return model, digest


def quiet() -> None:
    """Keep transformers and the libraries that it imports from printing."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if not torch.cuda.is_available():
        # DeepSpeed, which transformers imports, would warn that it finds no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def random_model(config: BaseModelConfig, folder: Path) -> Any:
    """Return a model with weights drawn from the config's seed, on the CPU."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return from_config(config, folder, getattr(torch, config.dtype))


def from_config(config: BaseModelConfig, folder: Path, dtype: torch.dtype) -> Any:
    """Return a model of a type with weights as its config says, drawn by torch's generator."""
    model_id, options = source(config, folder)
    model_config = AutoConfig.from_pretrained(model_id, **options)
    return AutoModelForCausalLM.from_config(model_config, dtype=dtype)


def describe(
    model: Any,
    config: BaseModelConfig,
    folder: Path,
    digest: str,
    began: float,
    shard: Shard = ALONE,
) -> FrozenModel:
    """Return a loaded model with its tokenizer; `began` is when loading began (monotonic clock).

    Raises:
        OSError, ValueError: if there is no tokenizer, it would need code of its own, or generation
            can't be greedy by the model's config.
    """
    tokenizer, pad_with_end = load_tokenizer(config, folder)
    closes = tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id
    parts = machine_parts(model, tokenizer, digest, config.quantization)
    size = model.config.get_text_config().vocab_size
    model.generation_config, said = fresh_generation(model.generation_config, tokenizer, size)
    return FrozenModel(
        model,
        tokenizer,
        digest,
        time.monotonic() - began,
        getattr(model.config, "max_position_embeddings", None),
        not closes,
        pad_with_end,
        fingerprint(model),
        shard,
        config,
        parts,
        said,
    )


def unchanged(frozen: FrozenModel) -> bool:
    """Return whether the weights on all ranks are unchanged; every rank has to call this.

    It reads the weights once. It can miss a change that is crafted to keep the fingerprint; the
    digest can't, but takes longer and needs whole tensors.
    """
    differs = int(fingerprint(frozen.model) != frozen.fingerprint)
    device = frozen.model.device
    return not int(frozen.shard.sum(torch.tensor(differs, dtype=torch.int64, device=device)))


def loaded_bytes(frozen: FrozenModel) -> int:
    """Return the bytes of the weights of the whole model as they are kept, over all ranks."""
    return sum(map(kept_bytes, frozen.model.parameters()))


def num_parameters(frozen: FrozenModel) -> int:
    """Return the number of parameters of the whole model, over all ranks."""
    return sum(map(num_numbers, frozen.model.parameters()))
