"""A resident base model, bare or with a program, applied to questions of any task.

How a program applies to tasks that it was not found for:
- its adapter is on the model for every question, exactly as program.py puts it there;
- its prompt (instruction and demonstrations) stands before every question, inside the chat
  template if the program uses one;
- template of the question, stop strings and limits come from the task of the question;
- its steps on outputs belong to its own task and are left out unless they are requested.
A text that is only scored stands after the prompt without a chat template.

Decoding is greedy for all programs; options in a model's own generation config that change that (a
repetition penalty, beams) are ignored. Rows share passes where the probe of the model says that
they may, and are read one by one where not.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import ALONE, FrozenModel, check_ids
from kilobit.evaluators.model.generate import (
    answer_tokens,
    asked,
    chat_template,
    continue_alone,
    judge_alone,
)
from kilobit.evaluators.model.packing.decode import Asked, answer, check_context, judge_answers
from kilobit.evaluators.model.packing.deltas import Changes, detached
from kilobit.evaluators.model.packing.pack import Pack
from kilobit.evaluators.model.packing.passes import Planner, pass_tokens
from kilobit.evaluators.model.packing.probe import probe
from kilobit.evaluators.model.program_builder import shown_examples
from kilobit.evaluators.model.text_codec import decode_examples, decode_text, start_token
from kilobit.search.candidate import Candidate
from kilobit.search.programs.postprocess import cut, postprocess
from kilobit.search.programs.program import Program, decode
from kilobit.search.programs.recipe import ThinkingPart
from kilobit.search.task import ChoicePart, Task, offered

Ids = tuple[int, ...]


@dataclass(frozen=True)
class AdaptedModel:
    """A base model with a program on it; see the module's text.

    Attributes:
        frozen: the base model, with the adapter if there is one.
        prompt: the text before a question.
        chat: questions go into the chat template.
        turns: text between the prompt's turns there; empty if it is in the question's turn.
        steps: postprocessing that is applied to every output.
        changes: changes of an adapter that is not installed on the model.
        num_soft: number of soft prompt vectors before the text.
        planner: divides rows into passes.
        thinking: thinking before an answer in the chat template.
        packs: rows may share passes; if not, a soft prompt is installed on the model too.
    """

    frozen: FrozenModel
    prompt: str = ""
    chat: bool = False
    turns: str = ""
    steps: tuple[str, ...] = ()
    changes: Changes = field(default_factory=dict)
    num_soft: int = 0
    planner: Planner = field(default_factory=Planner)
    thinking: ThinkingPart | None = None
    packs: bool = True

    @property
    def soft(self) -> Ids:
        """Return the ids of the soft prompt vectors."""
        return tuple(-1 - i for i in range(self.num_soft))

    @property
    def is_bare(self) -> bool:
        """Return whether nothing stands before a question."""
        return not (self.prompt or self.chat or self.num_soft)

    def text(self, question: str) -> str:
        """Return the text that the model continues for a question."""
        return asked(self.frozen, self.chat, "{input}", question, self.prompt, self.turns)

    @property
    def closing(self) -> str:
        """Return the text that ends an empty thinking, if the chat template begins one."""
        return chat_template(self.frozen).close if self.chat else ""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the tokens of a text; `special`: with special tokens, if the model uses them."""
        ids: list[int] = self.frozen.tokenizer(
            text, add_special_tokens=special and self.frozen.special_tokens
        )["input_ids"]
        return ids

    def answer(
        self, questions: Sequence[str], max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        """Return the answers to questions; see `kilobit.evaluators.battery.battery.Model`."""
        texts = self.thought([self.text(question) for question in questions])
        found = self.continued(texts, max_new_tokens, stop)
        return [postprocess(cut(text, stop), self.steps) for text in found]

    def choose(self, inputs: Sequence[str], choice: ChoicePart) -> list[str]:
        """Return the chosen answer to each input; see `kilobit.evaluators.battery.battery.Model`.

        Raises:
            ValueError: if a question with an answer does not fit into the context.
            MemoryError: if it does not fit into memory.
        """
        between = "" if self.chat else choice.delimiter
        parts, rows = [offered(one) for one in inputs], list[tuple[Ids, Ids]]()
        for question, answers in parts:
            said = [between + answer for answer in answers]
            special = self.frozen.special_tokens and not self.chat
            found = answer_tokens(self.frozen, self.text(question), said, special=special)
            rows += [(tuple(before), tuple(new)) for before, new in found]
        nats, chosen = iter(one for one, _ in self.judged(rows)), []
        for _, answers in parts:
            chosen.append(choice.likeliest(answers, [next(nats) for _ in answers]))
        return [postprocess(text, self.steps) for text in chosen]

    def thought(self, texts: Sequence[str]) -> list[str]:
        """Return texts that ask for an answer, with the model's thinking if it thinks."""
        if self.thinking is None:
            return list(texts)
        found = self.continued(texts, self.thinking.tokens, (self.thinking.mark,))
        return [self.thinking.joined(*both) for both in zip(texts, found, strict=True)]

    def continued(
        self, texts: Sequence[str], max_new_tokens: int, stop: Sequence[str]
    ) -> list[str]:
        """Return greedy continuations of whole texts, the stop string included.

        Raises:
            ValueError: if a text with its longest answer does not fit into the context.
            MemoryError: if it does not fit into memory.
        """
        special = not self.chat
        rows = [
            Asked(0, (*self.soft, *self.encode(text, special=special)), max_new_tokens, (*stop,))
            for text in texts
        ]
        return self.continued_rows(rows)

    def continued_rows(self, rows: Sequence[Asked]) -> list[str]:
        """Return greedy continuations of rows of tokens, soft ones first; see `continued`."""
        for row in rows:
            check_context(self.frozen, row)
        found = []
        if self.packs:
            made = answer(self.frozen, [self.changes], rows, self.planner)
        else:
            made = [
                continue_alone(self.frozen, _text(row.ids), row.max_new_tokens, row.stop)
                for row in rows
            ]
        for ids in made:
            if isinstance(ids, Exception):
                raise ids
            found.append(str(self.frozen.tokenizer.decode(ids, skip_special_tokens=True)))
        return found

    def judged(self, rows: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Return each answer's log-probability in nats, and whether all its tokens are likeliest.

        Args:
            rows: pairs of a context and an answer, at least one token each.

        Raises:
            ValueError: if a row does not fit into the context.
            MemoryError: if it does not fit into memory.
        """
        whole = [Asked(0, (*self.soft, *ids), len(new)) for ids, new in rows]
        for row in whole:
            # The last token is scored but never read, so it needs no room.
            check_context(self.frozen, Asked(0, row.ids, row.max_new_tokens - 1))
        for _, new in rows:
            check_ids(self.frozen, new)
        if not self.packs:
            return [judge_alone(self.frozen, ids, new) for ids, new in rows]
        # Sort by length, so that passes need little padding.
        order = sorted(range(len(rows)), key=lambda i: whole[i].tokens)
        with Pack(self.frozen.model, [self.changes], self.frozen.shard) as pack:
            made = self.planner.run(
                [whole[i].tokens for i in order],
                lambda part: judge_answers(
                    self.frozen,
                    pack,
                    [whole[order[i]] for i in part],
                    [rows[order[i]][1] for i in part],
                ),
            )
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        for position, one in zip(order, made, strict=True):
            if isinstance(one, Exception):
                raise one
            found[position] = one
        return found

    def bits(self, texts: Sequence[str]) -> list[float]:
        """Return -log2 of the probability of each text; see `Model`.

        A text longer than half the context is split into pieces of that length, the same for all
        programs; each piece is scored directly after the prompt.

        Raises:
            ValueError: if the prompt does not fit into the other half.
        """
        before = tuple(self.encode(self.prompt, special=True))
        before = before or (start_token(self.frozen.tokenizer),)
        rows, owner = [], []
        for position, text in enumerate(texts):
            ids = self.encode(text, special=False)
            size = len(ids) if self.frozen.context is None else self.frozen.context // 2
            for first in range(0, len(ids), max(1, size)):
                rows.append((before, tuple(ids[first : first + size])))
                owner.append(position)
        found = [0.0] * len(texts)
        for position, (nats, _) in zip(owner, self.judged(rows), strict=True):
            found[position] -= nats / math.log(2)
        return found


def bare(frozen: FrozenModel) -> AdaptedModel:
    """Return a base model without a program; all ranks have to call this."""
    planner = Planner(pass_tokens(frozen), frozen.shard)
    return AdaptedModel(frozen, planner=planner, packs=probe(frozen).holds)


def _text(ids: Ids) -> list[int]:
    """Return ids without those of soft prompt vectors."""
    return [i for i in ids if i >= 0]


@contextmanager
def with_program(
    frozen: FrozenModel, candidate: Candidate, program: Program, task: Task, *, steps: bool = False
) -> Iterator[AdaptedModel]:
    """Apply a program to a base model, and restore the model on exit, even after an error.

    Args:
        frozen: the base model, without an adapter.
        candidate: the program's candidate, which describes its adapter.
        program: its two files.
        task: the task it was found for; a prompt may name examples of it.
        steps: apply its postprocessing steps too.

    Raises:
        PayloadError: if the payload is damaged.
        ValueError: if the adapter does not fit the model, or has to be installed in one that is
            spread over ranks.
    """

    def here(section: bytes) -> str:
        part = program.recipe.prompt
        if part is not None and part.codec == "index":
            return shown_examples(program.recipe, section, task.pairs)
        return decode_text(frozen, section, part.cache if part else None)

    decoded = decode(program.recipe, program.payload, here)
    plain = replace(
        bare(frozen),
        prompt=decoded.prompt,
        chat=program.recipe.chat,
        turns=program.recipe.turns,
        steps=program.recipe.postprocess if steps else (),
        thinking=program.recipe.thinking,
    )
    # A program has no adapter if that of its candidate changed no output.
    there = program.recipe.adapter is not None or program.recipe.data is not None
    spec = candidate.adapter if there else None
    if spec is None:
        yield plain
    elif plain.packs and (spec.num_soft or frozen.shard is not ALONE):
        found = detached(frozen, spec)
        if found is None or not probe(frozen).takes(found[1]):
            raise ValueError(f"{spec.method} has to be installed in the model, which is spread")
        adapter, changes = found
        adapter.assign(decoded.tensors, decoded.delta)
        yield replace(plain, changes=changes, num_soft=spec.num_soft)
    else:
        with installed(frozen, spec) as adapter:
            if program.recipe.data is None:
                adapter.assign(decoded.tensors, decoded.delta)
            else:
                num_bytes = program.recipe.prompt.num_bytes if program.recipe.prompt else 0
                section = program.payload[num_bytes:]
                decode_examples(frozen, adapter.model, program.recipe.data, section)
            if spec.num_soft:
                plain = replace(plain, frozen=replace(frozen, model=adapter.model))
            yield replace(plain, num_soft=spec.num_soft)
