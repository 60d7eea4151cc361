"""A base model as a codec of texts: of a prompt, and of training examples that it learns from.

A prompt: the model's logits and its tokenizer for `token_coder`. Each call runs what the program's
decoder runs, a batch of one: the last token with the model's cache of those before, or all tokens
without a cache. A program without cache is shorter, but its time grows with the square of the
tokens, so only short texts are coded without. Models that have no cache, or whose config turns it
off, always read all tokens.

Training examples as a program: a model codes each with what it learned from earlier ones.

Prequential coding (Dawid 1984): the length of an example's code is given by the model before it
learns from the example. A decoder that learns in the same way from the examples it has decoded
needs no weights. So program.py holds the learning rule, and the payload is the examples.

Encoding, decoding and training without coding are one loop, `_learn`, and the statements of
`kilobit.search.programs.script` are the same loop again: every float operation in the same order,
on batches of one. On the same machine, with the same number format and number of threads, this
gives the same floats; elsewhere it may not, and a checksum over the adapter's numbers detects that.
"""

import inspect
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kilobit.evaluators.model.adapters import Adapter, Trained
from kilobit.evaluators.model.base_model import FrozenModel, check_ids, num_parameters
from kilobit.search.adapter_methods import AdapterSpec, peft_config
from kilobit.search.programs.recipe import DataPart, LearningRule
from kilobit.search.programs.text import PayloadError
from kilobit.search.programs.token_coder import (
    CACHES,
    MAX_TOKENS,
    Cache,
    CodingError,
    Logits,
    NextLogits,
    TokenReader,
    TokenWriter,
    decode_tokens,
    encode_tokens,
)
from kilobit.search.streams import stream
from kilobit.search.task import Example, Task

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


NextExample = Callable[[int, NextLogits], list[int]]
"""Takes an example's index and the current model; returns its ids, the start token first."""


@dataclass(frozen=True)
class Learned:
    """Result of learning from examples; the trained adapter itself is on the model.

    Attributes:
        part: the recipe's part that describes the learning.
        section: the examples as the model coded them; zeros of about that length if not `exact`.
        exact: whether the examples were coded token by token; otherwise the length is an estimate.
        excess_bits: excess description length (arXiv 2601.04728): the sum of -log2 p over the
            tokens of all examples, each under the adapter that had learned from those before it,
            less the same sum under the final adapter. Both are the model's own softmax over whole
            sequences, so they leave out the overhead of integer tables and whole bytes.
        trained: steps, the mean loss of the last ten examples, and the tokens learned from.
    """

    part: DataPart
    section: bytes
    exact: bool
    excess_bits: float
    trained: Trained


@dataclass(frozen=True)
class _Course:
    """Record of the loop: the examples, their ideal code lengths, the losses, the checksum."""

    examples: list[torch.Tensor]
    bits: list[float]
    losses: list[float]
    tokens: int
    checksum: int


def chosen_examples(task: Task, spec: AdapterSpec) -> list[Example]:
    """Return the examples of a spec in their order, drawn from the train split by its seed.

    Raises:
        ValueError: if it asks for more than there are.
    """
    there = task.splits.train
    if spec.size is None or spec.size > len(there):
        raise ValueError(f"{spec.size} examples are asked for, the train split has {len(there)}")
    return stream(spec.seed, "data").sample(there, spec.size)


def learn(frozen: FrozenModel, adapter: Adapter, task: Task, until: int, *, exact: bool) -> Learned:
    """Train an untrained adapter on the examples of its spec, and code them meanwhile.

    Args:
        frozen: the base model that the adapter is on.
        adapter: of the method `data`, as `installed` yields it; it is trained afterwards.
        task: the examples and their templates.
        until: steps at most; those of the spec if they are fewer. Examples that they do not reach
            are left out.
        exact: code the examples, which takes a forward pass for each token, instead of estimating.

    Raises:
        CodingError: if the tokenizer does not reproduce an example, or none of its tokens can end
            it.
        FloatingPointError: if a loss is not finite.
        ValueError: if there are too few examples, or one does not fit into the model's context.
    """
    spec = adapter.spec
    rows, rule = _lesson(frozen, task, spec, min(until, spec.steps))
    writer = TokenWriter()

    def coded(position: int, logits: NextLogits) -> list[int]:
        row = rows[position]
        for end in range(1, len(row)):
            writer.write(row[end], logits(row[:end]))
        return row

    course = _learn(adapter.model, rule, coded if exact else lambda position, _: rows[position])
    bits = sum(course.bits)
    section = writer.section() if exact else bytes(math.ceil(bits / 8))
    part = DataPart(**rule.model_dump(), padding=-len(section) % 4, checksum=course.checksum)
    last = course.losses[-10:]
    trained = Trained(rule.steps, sum(last) / len(last), course.tokens)
    excess_bits = bits - _code_bits(adapter.model, course.examples)
    adapter.steps = rule.steps
    return Learned(part, section, exact, excess_bits, trained)


def decode_examples(frozen: FrozenModel, model: Any, part: DataPart, section: bytes) -> list[str]:
    """Return the texts of a section; `model`, with an untrained adapter on it, is trained then.

    Args:
        frozen: the base model.
        model: the model with the adapter of `part` installed.
        part: how the model learns.
        section: the payload after its prompt.

    Raises:
        PayloadError: if the section is damaged, or the floats differ from those of the encoder,
            because it was written for another model, on another machine, or with another number of
            threads.
    """
    reader = TokenReader(section)
    longest = frozen.context or MAX_TOKENS

    def decoded(position: int, logits: NextLogits) -> list[int]:
        ids = [part.start_token]
        while ids.count(part.end_token) < part.end_count:
            if len(ids) == longest:
                raise PayloadError(f"example {position} does not end within {longest} tokens")
            ids.append(reader.read(logits(ids)))
        return ids

    try:
        course = _learn(model, part, decoded)
    except FloatingPointError as error:
        raise PayloadError(f"training on the decoded examples failed: {error}") from error
    if course.checksum != part.checksum:
        raise PayloadError(
            "the checksum differs: damaged, or the floats are not those of the encoder"
        )
    texts = [frozen.tokenizer.decode(e[0, 1:], skip_special_tokens=True) for e in course.examples]
    return [str(text) for text in texts]


def _learn(model: Any, rule: LearningRule, next_example: NextExample) -> _Course:
    """Run the loop of the program; gradients are on while the model codes where they are there."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    known: list[tuple[torch.Tensor, torch.Tensor]] = []
    bits, losses, tokens, checksum = [], [], 0, 0
    total, logits = rule.full_steps * rule.batch_size, next_logits(model, rule.cache)
    for position in range(rule.steps * rule.batch_size):
        if position < rule.num_examples:
            batch = torch.tensor([next_example(position, logits)]).to(model.device)
            known.append((batch, batch + 0))
        batch, labels = known[position % rule.num_examples]
        loss = model(batch, labels=labels).loss
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the training loss became {value} at example {position}")
        loss.backward()
        labels[0, : -rule.answer_tokens] = -100
        losses.append(value)
        tokens += batch.shape[1]
        if position < rule.num_examples:
            bits.append(_bits(value, batch))
        if position % rule.batch_size == rule.batch_size - 1:
            for weight in weights:
                rate = rule.learning_rate * (1 - position / total)
                weight.data -= rate * weight.grad.sign()
                weight.grad *= rule.momentum
                checksum = zlib.crc32(weight.data.cpu().numpy(), checksum)
    for weight in weights:
        weight.grad = None
    return _Course([batch for batch, _ in known], bits, losses, tokens, checksum)


def _bits(mean_loss: float, batch: torch.Tensor) -> float:
    """Return the code length of a batch of one from its mean loss in nats a token."""
    return mean_loss * (batch.shape[1] - 1) / math.log(2)


@torch.no_grad()
def _code_bits(model: Any, examples: Sequence[torch.Tensor]) -> float:
    return sum(_bits(float(model(batch, labels=batch).loss), batch) for batch in examples)


def _lesson(
    frozen: FrozenModel, task: Task, spec: AdapterSpec, steps: int
) -> tuple[list[list[int]], LearningRule]:
    """Return the examples' ids, the start token first, and the learning rule."""
    examples = chosen_examples(task, spec)[: steps * spec.batch_size]
    tokenizer, start = frozen.tokenizer, start_token(frozen.tokenizer)
    rows = []
    for example in examples:
        text = task.ask(example.input) + task.show(example.target)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if tokenizer.decode(ids) != text:
            raise CodingError(f"the tokenizer does not reproduce an example: {text[:60]!r}")
        rows.append([start, *ids])
    rows, end, end_count = _ended(rows, tokenizer.eos_token_id)
    check_ids(frozen, [token for row in rows for token in row])
    longest = max(map(len, rows))
    if frozen.context is not None and longest > frozen.context:
        raise ValueError(
            f"an example of {longest} tokens does not fit into the model's context of "
            f"{frozen.context} tokens"
        )
    answers = [
        len(row) - 1 - len(tokenizer(task.ask(e.input), add_special_tokens=False)["input_ids"])
        for row, e in zip(rows, examples, strict=True)
    ]
    config = peft_config(spec)
    assert config is not None
    rule = LearningRule(
        arguments=config[1],
        num_examples=len(rows),
        start_token=start,
        end_token=end,
        end_count=end_count,
        answer_tokens=max(1, *answers),
        steps=steps,
        full_steps=spec.steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        cache=cache_for(frozen, *map(len, rows)),
    )
    return rows, rule


def _ended(rows: list[list[int]], end: int | None) -> tuple[list[list[int]], int, int]:
    """Return examples that end by a rule, the token that ends them, and its count in each.

    If all end with the same token and contain it equally often, as a template makes them do, the
    end adds no bits. Otherwise an end token is appended to each.

    Raises:
        CodingError: if the tokenizer has none, or it occurs in the examples.
    """
    ways = [(rows, rows[0][-1])]
    if end is not None:
        ways.append(([[*row, end] for row in rows], end))
    for ended, token in ways:
        counts = {row.count(token) for row in ended}
        if len(counts) == 1 and all(row[-1] == token for row in ended):
            return ended, token, counts.pop()
    raise CodingError(
        "the examples have no usable end: they share no last token, and an end token is missing or "
        "occurs in them"
    )
