"""A base model as a codec of texts: its logits and its tokenizer for `token_coder`.

Each call runs what the program's decoder runs, a batch of one: the last token with the model's
cache of those before, or all tokens without a cache. A program without cache is shorter, but its
time grows with the square of the tokens, so only short texts are coded without. Models that have no
cache, or whose config turns it off, always read all tokens.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kilobit.evaluators.model.base_model import FrozenModel, num_parameters
from kilobit.search.programs.text import PayloadError
from kilobit.search.programs.token_coder import (
    CACHES,
    Cache,
    CodingError,
    Logits,
    NextLogits,
    decode_tokens,
    encode_tokens,
)

# Parameters times tokens read: some ten seconds of one core.
_MOST_WITHOUT_CACHE = 1 << 34


def next_logits(model: Any, cache: Cache | None = None) -> NextLogits:
    """Return the function from ids to the next token's logits, float32, shape [vocabulary].

    With a cache each call has one id more than the last one, or begins again with one id.
    """
    if cache is None or cache == "none":
        return lambda ids: _last(model(torch.tensor([list(ids)]).to(model.device)).logits)
    found, seen = (None, None), 0

    def logits(ids: Sequence[int]) -> Logits:
        nonlocal found, seen
        assert len(ids) in (1, seen + 1), "a cache holds the ids of the last call"
        kept, seen = None if len(ids) == 1 else found[1], len(ids)
        # Gradients are on where an adapter learns between two texts, and a graph would grow.
        with torch.no_grad():
            found = model(torch.tensor([ids[-1:]]).to(model.device), **{cache: kept})
        return _last(found[0])

    return logits


def _last(logits: torch.Tensor) -> Logits:
    return np.asarray(logits[0, -1].detach().float().cpu(), np.float32)


def cache_for(frozen: FrozenModel, *num_tokens: int) -> Cache:
    """Return the cache by which the model codes texts of `num_tokens`; short ones have `none`."""
    read = sum(n * (n + 1) // 2 for n in num_tokens)
    if num_parameters(frozen) * read <= _MOST_WITHOUT_CACHE:
        return "none"
    taken = inspect.signature(frozen.model.forward).parameters
    keeps = getattr(frozen.model.config.get_text_config(), "use_cache", False)
    return next((cache for cache in CACHES if keeps and cache in taken), "none")


def start_token(tokenizer: Any) -> int:
    """Return the id that precedes a text: of the start token, or else of the end token.

    Raises:
        CodingError: if the tokenizer has neither.
    """
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise CodingError("the tokenizer has neither a start nor an end token")
    return int(token)


@torch.no_grad()
def encode_text(frozen: FrozenModel, text: str) -> bytes:
    """Return `text` coded as a section of a payload.

    Raises:
        CodingError: if the tokenizer does not reproduce `text`, or the model can't code it.
    """
    ids = frozen.tokenizer(text, add_special_tokens=False)["input_ids"]
    if frozen.tokenizer.decode(ids) != text:
        raise CodingError("the tokenizer does not reproduce the text")
    if max(ids, default=0) >= frozen.vocabulary:
        raise CodingError(f"the model has no token {max(ids)}")
    if frozen.context is not None and len(ids) > frozen.context:
        raise CodingError(f"{len(ids)} tokens exceed the model's context ({frozen.context})")
    logits = next_logits(frozen.model, cache_for(frozen, len(ids)))
    return encode_tokens(ids, start_token(frozen.tokenizer), logits)


@torch.no_grad()
def decode_text(frozen: FrozenModel, data: bytes, cache: Cache | None) -> str:
    """Return the text coded by `encode_text`, which coded it with the model's `cache`.

    Raises:
        PayloadError: if there are more tokens than the model's context; else as `decode_tokens`.
    """
    logits = next_logits(frozen.model, cache)

    def bounded(ids: Sequence[int]) -> Logits:
        if frozen.context is not None and len(ids) > frozen.context:
            raise PayloadError(f"more tokens than the model's context ({frozen.context})")
        return logits(ids)

    return str(frozen.tokenizer.decode(decode_tokens(data, start_token(frozen.tokenizer), bounded)))
