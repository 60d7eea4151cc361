"""Greedy generation in batches, token for token as program.py does it.

A row ends at a stop string, at the model's end token or at the limit, whichever comes first; the
batch ends with its last row. Batches follow the given order, because float sums, and with them a
near tie between two tokens, may depend on the other rows of a batch.

A chat template may make its model think before it answers. Thinking is a generation of its own: it
ends at its mark, at the model's end token or at its own limit, and the answer continues from the
text up to there and the mark. So the task's stop strings and limit hold for the answer alone, and
the thinking is no part of an output. A program does this itself, and its statements count.
"""

import hashlib
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from threading import Thread
from typing import Any

import torch
from transformers import StoppingCriteriaList, StopStringCriteria

from kilobit.evaluators.model.base_model import FrozenModel, check_ids
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.recipe import ThinkingPart
from kilobit.search.programs.script import clock
from kilobit.search.settings import reason_of
from kilobit.search.task import ChoicePart

# Of the wall, as on a busy machine, and of the processor.
_RENDER_S, _RENDER_CPU_S = 20.0, 2.0
_SWITCHES = ("enable_thinking", "thinking")
# What models write around their thinking: the text before it, the mark at its end, and that mark
# with what follows it.
_MARKS = (
    ("<think>\n", "</think>", "</think>\n\n"),
    ("<thinking>\n", "</thinking>", "</thinking>\n\n"),
    ("<thought>\n", "</thought>", "</thought>\n\n"),
    ("<reasoning>\n", "</reasoning>", "</reasoning>\n\n"),
    ("<seed:think>", "</seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>", "<|end_of_thought|>\n\n"),
    ("◁think▷", "◁/think▷", "◁/think▷"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
)


@dataclass(frozen=True)
class ChatTemplate:
    """Use of a model's chat template.

    Attributes:
        arguments: names and values of further arguments.
        opening: text after the rendered template, before the model's own.
        mark: text at which the thinking ends, empty if the model does not think.
        close: text between the thinking and the answer.
        tokens: most tokens of the thinking, None for as many as of the answer.
        today: what its clock says, None if it has none.
    """

    arguments: tuple[tuple[str, bool], ...] = ()
    opening: str = ""
    mark: str = ""
    close: str = ""
    tokens: int | None = None
    today: str | None = None

    def thinking(self, max_new_tokens: int) -> ThinkingPart | None:
        """Return the thinking before an answer of at most `max_new_tokens`, None without any."""
        if not self.mark:
            return None
        tokens = self.tokens or max_new_tokens
        return ThinkingPart(mark=self.mark, close=self.close, tokens=tokens)


@dataclass(frozen=True)
class Generated:
    """Generated texts in the order of the prompts, uncut, and the numbers of tokens."""

    texts: list[str]
    input_tokens: int
    output_tokens: int


def asked(
    frozen: FrozenModel, chat: bool, question: str, text: str, prompt: str = "", turns: str = ""
) -> str:
    """Return the text that the model continues: a question after its prompt, as a chat or not.

    Args:
        frozen: the base model.
        chat: put it into the model's chat template.
        question: template of the question, whose last `{input}` is filled with `text`.
        text: the input.
        prompt: the text before the question.
        turns: in a chat, the text between the prompt's turns, the first of which is the user's;
            empty if it is a part of the question's turn.
    """
    before, _, after = question.rpartition("{input}")
    filled = before + text + after
    if not chat:
        return prompt + filled
    said = [*prompt.split(turns), filled] if turns else [prompt + filled]
    use = chat_template(frozen)
    return _rendered(frozen.tokenizer, said, dict(use.arguments), use.today) + use.opening


def chat_template(frozen: FrozenModel) -> ChatTemplate:
    """Return how a base model's chat template is used; see `chat_template_of`."""
    return chat_template_of(frozen.tokenizer, frozen.config)


@lru_cache(maxsize=16)
def chat_template_of(tokenizer: Any, config: BaseModelConfig | None) -> ChatTemplate:
    """Return how a tokenizer's chat template is used.

    A model thinks if its template opens a thinking that it does not close, or has a switch that is
    on, or if the settings say so.

    Raises:
        ValueError: if the settings do not fit the template, or it says something else each time.
    """
    today = None if config is None else config.today
    if not reads_clock(tokenizer):
        today = None
    elif today is None:
        raise ValueError(
            "today: the chat template reads the clock: give the date as it is to see it, such as "
            "'31 January 2026', which becomes a part of programs"
        )
    if len({_rendered(tokenizer, ["x"], {}, today) for _ in range(20)}) > 1:
        raise ValueError("path: the chat template says something else each time")
    return replace(_use_of(tokenizer, config, today), today=today)


def check_turns(tokenizer: Any, today: str | None) -> None:
    """Check that a chat template shows what user and model have said before, in its order.

    Raises:
        ValueError: if it does not.
    """
    said = ["ask-1", "say-2", "ask-3"]
    try:
        text = _rendered(tokenizer, said, {}, today)
    except Exception as error:  # a template may raise anything
        raise ValueError(reason_of(error)) from error
    if re.findall("|".join(said), text) != said:
        raise ValueError("it does not show each turn once, in their order")


def reads_clock(tokenizer: Any) -> bool:
    """Return whether a chat template may print the time."""
    return "strftime_now" in f"{tokenizer.chat_template}"


def _use_of(tokenizer: Any, config: BaseModelConfig | None, today: str | None) -> ChatTemplate:
    enable = None if config is None else config.enable_thinking
    tokens = None if config is None else config.thinking_tokens
    given = None if config is None else config.thinking_marks
    source = f"{tokenizer.chat_template}"
    marks = (given[0], given[1].strip(), given[1]) if given else None
    marks = marks or next((one for one in _MARKS if one[0].strip() in source), None)
    switch = next((name for name in _SWITCHES if _switches(tokenizer, name, today)), None)
    arguments = {} if enable is None or switch is None else {switch: enable}
    text = _rendered(tokenizer, ["x"], arguments, today)
    before, mark, close = marks or ("", "", "")
    opened = bool(mark) and text.rfind(before.strip()) > text.rfind(close.strip())
    opened = opened and bool(before.strip())
    closed = bool(mark) and text.rstrip().endswith(close.strip())
    pairs = tuple(arguments.items())
    if enable is False:
        if switch is None and not opened:
            raise ValueError("enable_thinking: the chat template has no switch for thinking")
        return ChatTemplate(pairs, close if opened else "")
    wanted = bool(enable or tokens or given)
    hybrid = switch is not None and text == _rendered(tokenizer, ["x"], {switch: True}, today)
    if closed or not (opened or wanted or hybrid):
        if wanted:
            raise ValueError("enable_thinking: the chat template ends the thinking by itself")
        return ChatTemplate(pairs)
    if not mark:
        if wanted:
            raise ValueError("thinking_marks: give them, the chat template has none that is known")
        return ChatTemplate(pairs)
    return ChatTemplate(pairs, "" if opened else before, mark, close, tokens)


def _switches(tokenizer: Any, name: str, today: str | None) -> bool:
    on, off = (_rendered(tokenizer, ["x"], {name: value}, today) for value in (True, False))
    return on != off


def _rendered(
    tokenizer: Any, said: Sequence[str], arguments: dict[str, bool], today: str | None
) -> str:
    """Return the rendered turns of user and model, the last of which is the user's.

    Raises:
        ValueError: if the template does not end for a word.
    """
    _check_end(tokenizer, f"{tokenizer.chat_template}", today)
    return _rendered_at_once(tokenizer, said, arguments, today)


@lru_cache(maxsize=16)
def _check_end(tokenizer: Any, _template: str, today: str | None) -> None:
    """Check once that a chat template ends; one loop in another one takes days."""

    def render() -> None:
        # An error of its own is raised when its text is needed.
        with suppress(Exception):
            _rendered_at_once(tokenizer, ["x"], {}, today)

    ended = Thread(target=render, daemon=True)
    ended.start()
    until = time.monotonic() + _RENDER_S
    while ended.is_alive():
        ended.join(0.02)
        if time.monotonic() > until or _cpu_s(ended) > _RENDER_CPU_S:
            raise ValueError(
                f"path: the chat template does not end within {_RENDER_CPU_S:g} processor seconds "
                "for a word"
            )


def _cpu_s(thread: Thread) -> float:
    """Return the processor seconds of a thread, 0 if it has ended."""
    if not thread.is_alive() or thread.ident is None:
        return 0.0
    with suppress(OSError):
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return 0.0


def _rendered_at_once(
    tokenizer: Any, said: Sequence[str], arguments: dict[str, bool], today: str | None
) -> str:
    dated = {}
    if today is not None:
        dated["chat_template"] = clock(today) + tokenizer.get_chat_template()
    rendered: str = tokenizer.apply_chat_template(
        [
            {"role": "assistant" if place % 2 else "user", "content": text}
            for place, text in enumerate(said)
        ],
        tokenize=False,
        add_generation_prompt=True,
        **dated,
        **arguments,
    )
    return rendered


def template_digest(frozen: FrozenModel) -> str:
    """Return a digest of what the chat template makes of a turn, on a fixed day: 16 hex digits."""
    today = frozen.config and frozen.config.today
    try:
        said = _rendered(frozen.tokenizer, ["{x} \n"], {}, today or "1 January 2000")
    except Exception as error:  # noqa: BLE001 - one that is not used may fail in any way
        said = type(error).__name__
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def library_parts(*, quantised: bool = False) -> dict[str, str]:
    """Return the versions of the libraries that decide outputs, by name."""
    names = ("torch", "transformers", "tokenizers", "peft", *["bitsandbytes"] * quantised)
    return {name: version(name) for name in names}


def all_parts(frozen: FrozenModel, *, train_split_in_machine: bool) -> dict[str, str]:
    """Return all parts of the machine that outputs on a base model are relative to, by name."""
    return {
        **frozen.parts,
        "rendered chat template": template_digest(frozen),
        "type of the weights": str(frozen.model.dtype),
        "kind of device": frozen.model.device.type,
        **library_parts(quantised="quantisation" in frozen.parts),
        "train_split_in_machine": str(train_split_in_machine).lower(),
    }


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
    thinking: ThinkingPart | None = None,
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
        thinking: what comes before an answer; it is no part of the texts, but its tokens count.

    Raises:
        ValueError: if a prompt with its longest answer does not fit into the model's context, or
            has a token that the model does not know.
    """
    tokenizer, model = frozen.tokenizer, frozen.model if model is None else model
    if thinking is not None:
        options: dict[str, Any] = {
            "batch_size": batch_size,
            "model": model,
            "special_tokens": special_tokens,
        }
        thought = generate(
            frozen, prompts, max_new_tokens=thinking.tokens, stop=[thinking.mark], **options
        )
        prompts = [thinking.joined(*both) for both in zip(prompts, thought.texts, strict=True)]
        found = generate(frozen, prompts, max_new_tokens=max_new_tokens, stop=stop, **options)
        read = thought.input_tokens + found.input_tokens
        return Generated(found.texts, read, thought.output_tokens + found.output_tokens)
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
        options = _stopping(frozen, stop)
        out = model.generate(
            input_ids=batch.input_ids.to(frozen.model.device),
            attention_mask=batch.attention_mask.to(frozen.model.device),
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
    """Return the new tokens of one row."""
    rows = torch.tensor([list(ids)], device=frozen.model.device)
    out = frozen.model.generate(
        input_ids=rows,
        attention_mask=torch.ones_like(rows),
        max_new_tokens=max_new_tokens,
        **_stopping(frozen, stop),
    )
    return list(out[0, len(ids) :].tolist())


def answer_tokens(
    frozen: FrozenModel, text: str, answers: Sequence[str], *, special: bool
) -> list[tuple[list[int], list[int]]]:
    """Return the tokens before each answer to a text, and those of the answer.

    They are divided as program.py divides them, see `kilobit.search.programs.script`.

    Args:
        frozen: the base model.
        text: the text, with its prompt.
        answers: the answers, each with the delimiter before it.
        special: the tokenizer adds its own special tokens.

    Raises:
        ValueError: if the text or an answer has no token of its own, or the longest row does not
            fit into the model's context, or has a token that the model does not know.
    """
    first, *rows = frozen.tokenizer([text.rstrip(), *(text + a for a in answers)],
                                    add_special_tokens=special)["input_ids"]  # fmt: skip
    found = [(list(ids[: len(first)]), list(ids[len(first) :])) for ids in rows]
    for (before, new), answer in zip(found, answers, strict=True):
        if not (before and new):
            raise ValueError(f"the answer {answer!r} or its question has no token of its own")
        # The last token is scored but never read, so it needs no room.
        _check_context(frozen, len(before) + len(new) - 1, 0)
        check_ids(frozen, (*before, *new))
    return found


def choose(
    frozen: FrozenModel,
    inputs: Sequence[tuple[str, Sequence[str]]],
    choice: ChoicePart,
    *,
    model: Any,
    special: bool,
) -> Generated:
    """Choose the likeliest of the answers to each text, one row at a time.

    Args:
        frozen: the base model.
        inputs: each text, with its prompt, and the answers that it offers.
        choice: how they are compared.
        model: the adapted model that tells how likely they are.
        special: the tokenizer adds its own special tokens.

    Raises:
        ValueError: as `answer_tokens`.
    """
    found, read = [], 0
    for text, answers in inputs:
        said = [choice.delimiter + answer for answer in answers]
        rows = answer_tokens(frozen, text, said, special=special)
        told = [judge_alone(frozen, *row, model=model)[0] for row in rows]
        found.append(choice.likeliest(answers, told))
        read += sum(len(before) + len(new) for before, new in rows)
    return Generated(found, read, 0)


@torch.no_grad()
def judge_alone(
    frozen: FrozenModel, ids: Sequence[int], answer: Sequence[int], model: Any = None
) -> tuple[float, bool]:
    """Return the log-probability in nats of an answer, and whether its tokens are likeliest."""
    whole = torch.tensor([[*ids, *answer[:-1]]], device=frozen.model.device)
    told = (
        (model or frozen.model)(input_ids=whole).logits[0, -len(answer) :].float().log_softmax(-1)
    )
    new = torch.tensor(list(answer), device=told.device)
    nats = float(told.gather(1, new[:, None]).sum())
    return nats, bool((told.argmax(-1) == new).all())


def detector(frozen: FrozenModel, stop: Sequence[str]) -> StopStringCriteria:
    """Return the detector of stop strings of `model.generate`, made once for a base model.

    transformers keeps its tables, but reads the whole vocabulary each time to find them.
    """
    known = frozen.stops.get(tuple(stop))
    if known is None:
        known = frozen.stops[tuple(stop)] = StopStringCriteria(frozen.tokenizer, list(stop))
    return known


def _stopping(frozen: FrozenModel, stop: Sequence[str]) -> dict[str, Any]:
    """Return the options of `model.generate` that end rows at stop strings."""
    found = StoppingCriteriaList([detector(frozen, stop)]) if stop else None
    return {} if found is None else {"stopping_criteria": found}


def _check_context(frozen: FrozenModel, longest: int, max_new_tokens: int) -> None:
    if frozen.context is not None and longest + max_new_tokens > frozen.context:
        raise ValueError(
            f"a prompt of {longest} tokens and an answer of {max_new_tokens} do not fit into the "
            f"model's context of {frozen.context} tokens"
        )
