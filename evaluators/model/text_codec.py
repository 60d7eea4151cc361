"""A base model as a codec of texts: its logits and its tokenizer for `token_coder`.

Each call runs the whole sequence as a batch of one, without a cache, as the program's decoder does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.search.programs.text import PayloadError
from kilobit.search.programs.token_coder import (
    CodingError,
    Logits,
    NextLogits,
    decode_tokens,
    encode_tokens,
)


def next_logits(model: Any) -> NextLogits:
    """Return the function from ids to the next token's logits, float32, shape [vocabulary]."""

    def logits(ids: Sequence[int]) -> Logits:
        last = model(torch.tensor([list(ids)]).to(model.device)).logits[0, -1]
        return np.asarray(last.detach().float().cpu(), np.float32)

    return logits


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
    return encode_tokens(ids, start_token(frozen.tokenizer), next_logits(frozen.model))


@torch.no_grad()
def decode_text(frozen: FrozenModel, data: bytes) -> str:
    """Return the text coded by `encode_text`.

    Raises:
        PayloadError: if there are more tokens than the model's context; else as `decode_tokens`.
    """
    logits = next_logits(frozen.model)

    def bounded(ids: Sequence[int]) -> Logits:
        if frozen.context is not None and len(ids) > frozen.context:
            raise PayloadError(f"more tokens than the model's context ({frozen.context})")
        return logits(ids)

    return str(frozen.tokenizer.decode(decode_tokens(data, start_token(frozen.tokenizer), bounded)))
