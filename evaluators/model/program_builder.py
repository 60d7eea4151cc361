"""Builder of programs: a candidate, the base model and the task become recipe and payload."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kilobit.evaluators.model.adapters import Adapter
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.generate import (
    ChatTemplate,
    Generated,
    asked,
    chat_template,
    choose,
    generate,
)
from kilobit.evaluators.model.text_codec import Learned, cache_for, encode_text, start_token
from kilobit.search.adapter_methods import FINEST_STEP, AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Candidate
from kilobit.search.programs.coarsening import (
    coarse,
    coarse_changes,
    coarse_each,
    kept_share,
)
from kilobit.search.programs.numbers import Integers, NumbersCode, Tensor, step_of
from kilobit.search.programs.postprocess import RULE
from kilobit.search.programs.program import (
    Decoded,
    Program,
    build,
    build_printing,
    choose_numbers,
    choose_text,
    decode,
    may_be_shortest,
    text_part,
)
from kilobit.search.programs.recipe import AdapterPart, Recipe
from kilobit.search.programs.reward_replay import MAX_SIGNS
from kilobit.search.programs.text import PayloadError, TextCodec, compress
from kilobit.search.programs.token_coder import Cache, CodingError, count_tokens
from kilobit.search.settings import Length
from kilobit.search.task import ChoicePart, Task, offered

# Programs of a real model lost their whole score where differences from the start held less.
_LEAST_KEPT = 0.25


@dataclass(frozen=True)
class Coarse:
    """An adapter coarsened to integers.

    Attributes:
        part: its part of a recipe, whose numbers have the right steps.
        code: the step byte.
        more: further bytes of steps, as in `encode_numbers`.
        integers: the tensors in steps.
    """

    part: AdapterPart
    code: int
    more: bytes
    integers: list[Integers]


class Builder:
    """Builds and decodes the programs of one base model and one task.

    Args:
        frozen: the resident base model.
        config: the base model's entry in the sweep.
        task: the task to solve.
        batch_size: inputs that a program continues together.
        length: the length (program or payload) to minimise when choosing a codec.
        by_index: demonstrations may be named by their index in the train split.
        encode: codes a text by the model; by default in this process alone.
    """

    def __init__(
        self,
        frozen: FrozenModel,
        config: BaseModelConfig,
        task: Task,
        batch_size: int,
        length: Length,
        *,
        by_index: bool = False,
        encode: Callable[[str], bytes] | None = None,
    ) -> None:
        self._encode = encode or partial(encode_text, frozen)
        self._frozen, self._config, self._task = frozen, config, task
        self._batch_size, self._length, self._by_index = batch_size, length, by_index
        self._texts: dict[tuple[str, bool], dict[TextCodec, bytes]] = {}
        # Texts by their model code: decoding needs the bare model, which later has an adapter.
        self._decoded: dict[bytes, str] = {}

    def code_text(self, candidate: Candidate, *, by_model: bool) -> dict[TextCodec, bytes]:
        """Return a candidate's prompt coded by each codec; no adapter may be on the model.

        Args:
            candidate: says what stands before the question.
            by_model: also code it by the base model, which takes two forward passes per token;
                skipped if the decoder alone is longer than another codec's decoder and section.
        """
        text = candidate.before(self._task)
        if not text:
            return {}
        known = self._texts.get((text, by_model))
        if known is None:
            known = compress(text.encode())
            indices = candidate.prompt.indices(self._task) if self._by_index else None
            if indices is not None:
                known["index"] = indices
            if by_model and may_be_shortest("model", known, self._length):
                # If the tokenizer does not restore the text, or its decoding fails, the general
                # codecs remain.
                with suppress(CodingError):
                    known["model"] = self._encode(text)
                    self._decoded[known["model"]] = text
            self._texts[text, by_model] = known
        return known

    def build(
        self,
        candidate: Candidate,
        texts: dict[TextCodec, bytes],
        adapter: Adapter | None,
        content: Sequence[Tensor] | Learned,
    ) -> Program:
        """Return the program of a candidate.

        Args:
            candidate: the candidate.
            texts: its prompt, coded by each codec.
            adapter: its adapter, installed on the model.
            content: the adapter's trained numbers, or the examples that it was trained on.

        Raises:
            ValueError: if a number is not finite.
        """
        if candidate.is_model_free:
            return build_printing(candidate.constant, self._length)
        recipe, payload = self._recipe(candidate), b""
        if texts:
            cache = self._cache(texts)
            codec, payload = choose_text(texts, self._length, self._start(texts), cache)
            lead, answer = candidate.prompt.lead(), self._task.answer
            if recipe.turns:
                answer = self._task.turn
            recipe = recipe.model_copy(
                update={
                    "prompt": text_part(codec, payload, lead=lead, answer=answer, cache=cache),
                    "start_token": self._start(texts) if codec == "model" else None,
                }
            )
        if isinstance(content, Learned):
            recipe, payload = (
                recipe.model_copy(update={"data": content.part}),
                payload + content.section,
            )
        elif adapter is not None:
            spec = candidate.adapter
            assert spec is not None
            found = [coarsely(adapter, content, spec)]
            if adapter.pairs_from_seed and found[0].part.numbers.steps == "one":
                found.append(changes(adapter, content, spec))
                # A step above what A has learned leaves nothing of it, whatever else is exact.
                if _kept(found[1], adapter, content) < _LEAST_KEPT:
                    del found[1]
            # The plain prompt's program stands for an adapter that changes nothing.
            if not any(without_effect(one, adapter) for one in found):
                programs = [self._with_numbers(recipe, payload, one) for one in found]
                programs += self._replayed(recipe, payload, adapter, spec)
                return min(programs, key=self._bits)
        return build(recipe, payload)

    def _with_numbers(self, recipe: Recipe, prompt: bytes, found: Coarse) -> Program:
        """Return the program with an adapter whose numbers are in their shortest format."""
        way, numbers = choose_numbers(
            found.code, found.integers, found.part, self._length, found.more
        )
        part = found.part.model_copy(update={"numbers": way})
        return build(recipe.model_copy(update={"adapter": part}), prompt + numbers)

    def _replayed(
        self, recipe: Recipe, prompt: bytes, adapter: Adapter, spec: AdapterSpec
    ) -> list[Program]:
        """Return the program with the signs of a training by reward, where they are the numbers."""
        reward, as_trained = adapter.reward, (spec.step, spec.keep) == (FINEST_STEP, 1.0)
        if reward is None or reward.base is not None or not as_trained:
            return []
        signs = len(reward.replay.signs)
        if signs > MAX_SIGNS or not reward.replay.sums.any():
            return []
        way = NumbersCode(coder="replay", signs=signs)
        part = adapter.part(way, from_seed=adapter.pairs_from_seed)
        section = bytes([reward.code]) + reward.replay.section()
        return [build(recipe.model_copy(update={"adapter": part}), prompt + section)]

    def _bits(self, program: Program) -> int:
        return program.program_bits if self._length == "program" else program.payload_bits

    def decode(self, program: Program) -> Decoded:
        """Return the decoded payload of a program that this builder built.

        Raises:
            PayloadError: if it is damaged.
        """
        part = program.recipe.prompt

        def here(section: bytes) -> str:
            if part is not None and part.codec == "index":
                return shown_examples(program.recipe, section, self._task.pairs)
            return self._decoded[section]

        return decode(program.recipe, program.payload, here)

    def _start(self, texts: dict[TextCodec, bytes]) -> int | None:
        return start_token(self._frozen.tokenizer) if "model" in texts else None

    def _cache(self, texts: dict[TextCodec, bytes]) -> Cache:
        return cache_for(self._frozen, count_tokens(texts["model"])) if "model" in texts else "none"

    def _recipe(self, candidate: Candidate) -> Recipe:
        config, frozen, task = self._config, self._frozen, self._task
        limit = min(candidate.max_new_tokens or task.max_new_tokens, task.max_new_tokens)
        soft = candidate.adapter is not None and candidate.adapter.num_soft > 0
        use = chat_template(frozen) if candidate.chat else ChatTemplate()
        on_gpus = frozen.model.device.type == "cuda"
        return Recipe(
            dtype=config.dtype,
            quantization=config.quantization,
            device="cuda" if on_gpus else "cpu",
            spread=on_gpus and frozen.shard.world_size > 1,
            pad_with_end=frozen.pad_with_end,
            special_tokens=frozen.special_tokens,
            chat=candidate.chat,
            turns=candidate.between_turns(task),
            template=dict(use.arguments),
            opening=use.opening,
            today=use.today,
            thinking=use.thinking(limit),
            generation=frozen.generation,
            question=task.question,
            # PEFT puts soft prompts before the padding, so padding would change the outputs.
            batch_size=1 if soft else self._batch_size,
            max_new_tokens=limit,
            stop=task.stop,
            choice=_choice(task, chat=candidate.chat),
            postprocess=candidate.postprocess,
            steps_rule=RULE if candidate.postprocess else 1,
        )


def _choice(task: Task, *, chat: bool) -> ChoicePart | None:
    """Return how a program chooses its answer, None if it generates it.

    In a chat an answer is a turn of its own, which nothing delimits.
    """
    if task.choice is None or not chat:
        return task.choice
    return task.choice.model_copy(update={"delimiter": ""})


def shown_examples(recipe: Recipe, indices: bytes, train: Sequence[tuple[str, str]]) -> str:
    """Return the prompt of a recipe whose demonstrations are at `indices` of the train split.

    Args:
        recipe: gives the templates.
        indices: the indices, 2 bytes each, big-endian.
        train: input and target of each example of the train split.

    Raises:
        PayloadError: if there is no such example.
    """
    part, said = recipe.prompt, list[str]()
    assert part is not None
    for at in range(0, len(indices), 2):
        index = int.from_bytes(indices[at : at + 2], "big")
        if index >= len(train):
            raise PayloadError(
                f"the train split has {len(train)} examples, there is no index {index}"
            )
        said.append(recipe.question.replace("{input}", train[index][0]))
        said.append(part.answer.replace("{target}", train[index][1]))
    return part.lead + recipe.turns.join(said)


def without_effect(found: Coarse, adapter: Adapter) -> bool:
    """Return whether a coarsened adapter leaves every output as it is."""
    if adapter.spec.num_soft:
        return False
    rows = adapter.by_component(found.integers)
    # A pair adds the products of its components. Where it is written as differences from its start,
    # A is not zero, and B is what it says.
    deciding = [unit[-1:] if found.part.seed is not None else unit for unit in adapter.units]
    return not any(np.logical_and.reduce([rows[i].any(1) for i in unit]).any() for unit in deciding)


def _kept(found: Coarse, adapter: Adapter, tensors: Sequence[Tensor]) -> float:
    """Return the share of what the factors A have learned that is in a coarsening's differences."""
    near = [np.float32(step_of(found.more[0])) * i for i in found.integers[::2]]
    return kept_share(tensors[::2], adapter.starts()[::2], near)


def changes(adapter: Adapter, tensors: Sequence[Tensor], spec: AdapterSpec) -> Coarse:
    """Return a low-rank adapter coarsened to differences from its seeded start.

    Raises:
        ValueError: if a number is not finite.
    """
    part = adapter.part(NumbersCode(coder="packed", steps="factor"), from_seed=True)
    rows, starts = adapter.by_component(tensors), adapter.by_component(adapter.starts())
    code, more, integers = coarse_changes(rows, starts, adapter.units, spec.step, spec.keep)
    return Coarse(part, code, more, adapter.by_component(integers))


def coarsely(adapter: Adapter, tensors: Sequence[Tensor], spec: AdapterSpec) -> Coarse:
    """Return an adapter coarsened to integers.

    Raises:
        ValueError: if a number is not finite.
    """
    learned, rows = adapter.learned_steps(), adapter.by_component(tensors)
    if learned is None:
        code, integers = coarse(rows, adapter.units, spec.step, spec.keep)
        part = adapter.part(NumbersCode(coder="packed"))
        return Coarse(part, code, b"", adapter.by_component(integers))
    # Learned steps are the finest coding; a coarser one multiplies them.
    factor = spec.step / FINEST_STEP
    code, more, integers = coarse_each(rows, adapter.units, learned, factor, spec.keep)
    if not any(more):
        # Tensors of one step, as those of a method with a single tensor.
        part = adapter.part(NumbersCode(coder="packed"))
        return Coarse(part, code, b"", adapter.by_component(integers))
    part = adapter.part(NumbersCode(coder="packed", steps="tensor"))
    return Coarse(part, code, more, adapter.by_component(integers))


def run_batch(
    program: Program, prompt: str, frozen: FrozenModel, model: Any, inputs: Sequence[str]
) -> Generated:
    """Return the texts that program.py generates for `inputs`, before its post-processing.

    Args:
        program: gives limits and templates.
        prompt: the prompt decoded from its payload.
        frozen: the base model.
        model: the model with the adapter installed.
        inputs: any number; they are continued in batches of the program's own size.

    Raises:
        ValueError: if a prompt with its longest answer does not fit into the model's context.
    """
    recipe = program.recipe
    special = frozen.special_tokens and not recipe.chat
    parts = [offered(text) for text in inputs]
    texts = [
        asked(frozen, recipe.chat, recipe.question, question, prompt, recipe.turns)
        for question, _ in parts
    ]
    if recipe.choice is not None:
        offers = [(text, answers) for text, (_, answers) in zip(texts, parts, strict=True)]
        return choose(frozen, offers, recipe.choice, model=model, special=special)
    return generate(
        frozen,
        texts,
        max_new_tokens=recipe.max_new_tokens,
        stop=recipe.stop,
        batch_size=recipe.batch_size,
        model=model,
        special_tokens=special,
        thinking=recipe.thinking,
    )
