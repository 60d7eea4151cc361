"""Greedy generation in batches, token for token as program.py does it.

A row ends at a stop string, at the model's end token or at the limit, whichever comes first; the
batch ends with its last row. Batches follow the given order, because float sums, and with them a
near tie between two tokens, may depend on the other rows of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from kilobit.evaluators.model.base_model import FrozenModel, check_ids


@dataclass(frozen=True)
class Generated:
    """Generated texts in the order of the prompts, uncut, and the numbers of tokens."""

    texts: list[str]
    input_tokens: int
    output_tokens: int


def asked(frozen: FrozenModel, chat: bool, question: str, text: str) -> str:
    """Return the text that the model continues: `question` filled with `text`, as a chat or not.

    `question` begins with the prompt, which may contain `{input}` too; only the last one is filled.
    """
    before, _, after = question.rpartition("{input}")
    filled = before + text + after
    if not chat:
        return filled
    turns = [{"role": "user", "content": filled}]
    rendered: str = frozen.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    return rendered


@torch.no_grad()
def generate(
    frozen: FrozenModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    stop: Sequence[str],
    batch_size: int,
    model: Any = None,
    special_tokens: bool | None = None,
) -> Generated:
    """Continue every prompt greedily.

    Args:
        frozen: the base model.
        prompts: texts to continue.
        max_new_tokens: most tokens of an answer.
        stop: strings that end an answer.
        batch_size: prompts that are continued together.
        model: an adapted model that generates in place of the base model.
        special_tokens: whether the tokenizer adds its own; by default `frozen.special_tokens`.

    Raises:
        ValueError: if a prompt with its longest answer does not fit into the model's context, or
            has a token that the model does not know.
    """
    tokenizer, model = frozen.tokenizer, frozen.model if model is None else model
    add_special = frozen.special_tokens if special_tokens is None else special_tokens
    texts: list[str] = []
    input_tokens = output_tokens = 0
    for first in range(0, len(prompts), batch_size):
        batch = tokenizer(
            list(prompts[first : first + batch_size]),
            padding=True,
            return_tensors="pt",
            add_special_tokens=add_special,
        )
        width = batch.input_ids.shape[1]
        _check_context(frozen, width, max_new_tokens)
        check_ids(frozen, [int(batch.input_ids.max())])
        options = {"tokenizer": tokenizer, "stop_strings": list(stop)} if stop else {}
        out = model.generate(
            input_ids=batch.input_ids.to(frozen.model.device),
            attention_mask=batch.attention_mask.to(frozen.model.device),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            **options,
        )
        new = out[:, width:].cpu()
        texts += [tokenizer.decode(row, skip_special_tokens=True) for row in new]
        input_tokens += int(batch.attention_mask.sum())
        output_tokens += int((new != tokenizer.pad_token_id).sum())
    return Generated(texts, input_tokens, output_tokens)


@torch.no_grad()
def continue_alone(
    frozen: FrozenModel, ids: Sequence[int], max_new_tokens: int, stop: Sequence[str]
) -> list[int]:
    """Return the new tokens of one row, each the likeliest one whatever the model's own options."""
    model, rows = frozen.model, torch.tensor([list(ids)], device=frozen.model.device)
    own = model.generation_config
    plain = GenerationConfig(
        eos_token_id=own.eos_token_id, pad_token_id=frozen.tokenizer.pad_token_id
    )
    # `generate` would fill the gaps of a config that it is given with the model's own options.
    holder = getattr(model, "get_base_model", lambda: model)()
    holder.generation_config = plain
    try:
        out = model.generate(
            input_ids=rows,
            attention_mask=torch.ones_like(rows),
            max_new_tokens=max_new_tokens,
            **({"tokenizer": frozen.tokenizer, "stop_strings": list(stop)} if stop else {}),
        )
    finally:
        holder.generation_config = own
    return list(out[0, len(ids) :].tolist())


@torch.no_grad()
def judge_alone(
    frozen: FrozenModel, ids: Sequence[int], answer: Sequence[int]
) -> tuple[float, bool]:
    """Return the log-probability in nats of an answer, and whether its tokens are likeliest."""
    whole = torch.tensor([[*ids, *answer[:-1]]], device=frozen.model.device)
    told = frozen.model(input_ids=whole).logits[0, -len(answer) :].float().log_softmax(-1)
    new = torch.tensor(list(answer), device=told.device)
    nats = float(told.gather(1, new[:, None]).sum())
    return nats, bool((told.argmax(-1) == new).all())


def _check_context(frozen: FrozenModel, longest: int, max_new_tokens: int) -> None:
    if frozen.context is not None and longest + max_new_tokens > frozen.context:
        raise ValueError(
            f"a prompt of {longest} tokens and an answer of {max_new_tokens} do not fit into the "
            f"model's context of {frozen.context} tokens"
        )
