"""Greedy generation in batches of similar length that stops where the task says.

A row ends at a stop string, at the model's end token or at the limit, whichever comes first; the
batch ends with its last row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from cluster.frozen import Frozen


@dataclass(frozen=True)
class Generated:
    """Texts in the order of the prompts, uncut, and how many tokens went in and came out."""

    texts: list[str]
    input_tokens: int
    output_tokens: int


class _StopAtText(StoppingCriteria):
    """Ends a row once its new text contains a stop string."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], prompt_tokens: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, prompt_tokens
        # A token stands for at least a byte; some tokenizers change the first token of a text.
        self._window = max((len(s.encode()) for s in stop), default=0) + 4
        self._done: list[bool] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which rows are finished, shape [batch]."""
        self._done = self._done or [False] * len(input_ids)
        start = max(self._start, input_ids.shape[1] - self._window)
        open_rows = [row for row, done in enumerate(self._done) if not done]
        tails = self._tokenizer.batch_decode(input_ids[open_rows, start:])
        for row, tail in zip(open_rows, tails, strict=True):
            self._done[row] = any(stop in tail for stop in self._stop)
        return torch.tensor(self._done, device=input_ids.device)


def prompt_tokens(frozen: Frozen, text: str) -> list[int]:
    """Return the ids of a text that the model is to continue, with the model's own start token."""
    ids: list[int] = frozen.tokenizer(text)["input_ids"]
    # Some tokenizers close every text with an end token; there is nothing to continue after it.
    if ids and ids[-1] == frozen.tokenizer.eos_token_id and len(ids) > 1:
        ids = ids[:-1]
    return ids


@torch.inference_mode()
def generate(
    frozen: Frozen,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    batch_size: int,
) -> Generated:
    """Continue every prompt greedily.

    Raises:
        ValueError: if a prompt with its longest answer does not fit into the model's context.
    """
    tokenizer = frozen.tokenizer
    encoded = [prompt_tokens(frozen, prompt) for prompt in prompts]
    longest = max(len(ids) for ids in encoded)
    if frozen.context is not None and longest + max_new_tokens > frozen.context:
        raise ValueError(
            f"a prompt of {longest} tokens and an answer of {max_new_tokens} do not fit into the "
            f"model's context of {frozen.context} tokens"
        )
    texts = [""] * len(prompts)
    input_tokens = output_tokens = 0
    order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
    for first in range(0, len(order), batch_size):
        rows = order[first : first + batch_size]
        ids, mask = _left_padded([encoded[i] for i in rows], tokenizer.pad_token_id)
        width = ids.shape[1]
        out = frozen.model.generate(
            input_ids=ids.to(frozen.model.device),
            attention_mask=mask.to(frozen.model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([_StopAtText(tokenizer, stop, width)]),
        )
        new = out[:, width:].cpu()
        decoded = tokenizer.batch_decode(
            new, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        for i, text in zip(rows, decoded, strict=True):
            texts[i] = text
        input_tokens += int(mask.sum())
        output_tokens += int((new != tokenizer.pad_token_id).sum())
    return Generated(texts, input_tokens, output_tokens)


def _left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask of shape [len(rows), longest row], padded on the left."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
