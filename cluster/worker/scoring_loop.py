"""Evaluation of programs on their examples, many at once, in waves.

A wave holds the next batches of all candidates that are still running. A batch that the same
program has already answered comes from the cache. After each wave candidates race against the
incumbents of their lengths, and those that can't win any more stop.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from kilobit.cluster.shards.group import ShardGroup
from kilobit.cluster.worker.resident import Resident
from kilobit.cluster.worker.rung_record import Scoring
from kilobit.cluster.worker.scoring import comparable
from kilobit.evaluators.ledger.output_cache import Batch
from kilobit.evaluators.model.generate import answer_tokens, asked
from kilobit.evaluators.model.packing.decode import Asked, check_context
from kilobit.evaluators.model.program_builder import run_batch
from kilobit.search.programs.postprocess import postprocess
from kilobit.search.programs.recipe import Recipe
from kilobit.search.task import Example, Task, offered

# Rows that a wave aims at, by taking several batches of each candidate. Larger passes are hardly
# faster, and rows generated after a lost race are wasted.
_ROWS = 128


@dataclass
class _Part:
    """A batch of examples in a wave, with the texts and rows that ask for its answers.

    `input_tokens` and `output_tokens` are those of the thinking before the answers.
    """

    scoring: Scoring
    batch: Sequence[Example]
    texts: list[str] = field(default_factory=list)
    rows: list[Asked] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the program that answers."""
        return self.scoring.measured.program.recipe

    @property
    def names(self) -> list[str]:
        """Return the ids of the examples."""
        return [example.id for example in self.batch]


class ScoringLoop:
    """Runner of programs of one base model and one task.

    Args:
        group: holds the base model.
        task: how outputs are scored.
    """

    def __init__(self, group: ShardGroup[Resident], task: Task) -> None:
        self._group, self._frozen, self._task = group, group.resident.frozen, task
        self._answer = self._generate if task.choice is None else self._choose

    def run(self, scorings: Sequence[Scoring]) -> None:
        """Run programs on their examples, or on fewer if they lose their races.

        The failure of one program is stored in its `error`.

        Raises:
            OSError: if the cache can't be written.
        """
        try:
            while wave := _wave(scorings):
                missing = []
                for part in _missing(wave):
                    if part.recipe.printed is None:
                        missing.append(part)
                    else:
                        _print(part)
                if missing and missing[0].scoring.model is not None:
                    self._generate_alone(missing[0])
                elif missing:
                    self._answer(missing)
                for part in wave:
                    self._take(part)
        finally:
            for scoring in scorings:
                scoring.cached.save()
        for scoring in scorings:
            measured, theirs = scoring.measured, scoring.theirs
            pairs = zip(measured.scores, theirs, strict=False)
            gaps = [mine - other for mine, other in pairs if mine is not None and other is not None]
            if gaps:
                measured.gap = sum(gaps) / len(gaps)

    def _generate_alone(self, part: _Part) -> None:
        """Generate as program.py does, with the candidate's own model."""
        scoring, began = part.scoring, time.monotonic()
        program, inputs = scoring.measured.program, [example.input for example in part.batch]
        try:
            made = run_batch(program, scoring.prompt, self._frozen, scoring.model, inputs)
        except Exception as error:  # noqa: BLE001 - a candidate may fail in any way
            scoring.error = error
            return
        found = Batch(tuple(made.texts), made.input_tokens, made.output_tokens)
        _add(part, found, time.monotonic() - began)

    def _generate(self, parts: Sequence[_Part]) -> None:
        """Generate the answers of all parts in one call, after one for those that think first."""
        began, frozen = time.monotonic(), self._frozen
        for part in parts:
            recipe, prompt = part.recipe, part.scoring.prompt
            part.texts = [
                asked(frozen, recipe.chat, recipe.question, example.input, prompt, recipe.turns)
                for example in part.batch
            ]
        for part, thoughts in self._continued([p for p in parts if p.recipe.thinking], True):
            thinking = part.recipe.thinking
            assert thinking is not None
            part.input_tokens += sum(len(row.ids) for row in part.rows)
            part.output_tokens += sum(map(len, thoughts))
            decoded = self._decoded(thoughts)
            part.texts = [thinking.joined(*both) for both in zip(part.texts, decoded, strict=True)]
        found = self._continued(parts, False)
        made = sum(part.output_tokens + sum(map(len, rows)) for part, rows in found)
        seconds = (time.monotonic() - began) / max(1, made)
        for part, rows in found:
            read = part.input_tokens + sum(len(row.ids) for row in part.rows)
            own = part.output_tokens + sum(map(len, rows))
            _add(part, Batch(tuple(self._decoded(rows)), read, own), seconds * own)

    def _choose(self, parts: Sequence[_Part]) -> None:
        """Choose the answers of all parts in one call."""
        began = time.monotonic()
        slots = list({id(part.scoring): part.scoring for part in parts}.values())
        slot_of = {id(scoring): slot for slot, scoring in enumerate(slots)}
        asking, answers = list[_Part](), list[list[int]]()
        for part in parts:
            try:
                new = self._offered_rows(part, slot_of[id(part.scoring)])
            except ValueError as error:
                part.scoring.error = error
            else:
                asking.append(part)
                answers += new
        rows = [row for part in asking for row in part.rows]
        if not rows:
            return
        told = self._group.call("judge", [scoring.slot for scoring in slots], rows, answers)
        seconds = (time.monotonic() - began) / sum(row.tokens for row in rows)
        for part in asking:
            own, told = told[: len(part.rows)], told[len(part.rows) :]
            failed = next((one for one in own if isinstance(one, Exception)), None)
            if failed is not None:
                part.scoring.error = failed
                continue
            choice, chosen = part.recipe.choice, list[str]()
            assert choice is not None
            for example in part.batch:
                texts = offered(example.input)[1]
                nats, own = [nats for nats, _ in own[: len(texts)]], own[len(texts) :]
                chosen.append(choice.likeliest(texts, nats))
            read = sum(row.tokens for row in part.rows)
            _add(part, Batch(tuple(chosen), read, 0), seconds * read)

    def _offered_rows(self, part: _Part, slot: int) -> list[list[int]]:
        """Set the rows of a part, one for each offered answer, and return the answers' tokens.

        Raises:
            ValueError: as `answer_tokens`.
        """
        frozen, scoring, recipe = self._frozen, part.scoring, part.recipe
        assert recipe.choice is not None
        special = frozen.special_tokens and not recipe.chat
        soft, found = tuple(-1 - i for i in range(scoring.num_soft)), list[list[int]]()
        for example in part.batch:
            question, answers = offered(example.input)
            text = asked(
                frozen, recipe.chat, recipe.question, question, scoring.prompt, recipe.turns
            )
            said = [recipe.choice.delimiter + answer for answer in answers]
            for before, new in answer_tokens(frozen, text, said, special=special):
                part.rows.append(Asked(slot, (*soft, *before), len(new)))
                found.append(new)
        return found

    def _decoded(self, rows: Sequence[list[int]]) -> list[str]:
        return [self._frozen.tokenizer.decode(ids, skip_special_tokens=True) for ids in rows]

    def _continued(
        self, parts: Sequence[_Part], thinking: bool
    ) -> list[tuple[_Part, list[list[int]]]]:
        """Return the new tokens of each part in one call, without parts that fail.

        Args:
            parts: parts with their texts.
            thinking: continue up to the end of the thinking, not of the answer.
        """
        slots = list({id(part.scoring): part.scoring for part in parts}.values())
        slot_of = {id(scoring): slot for slot, scoring in enumerate(slots)}
        asking = [part for part in parts if part.scoring.error is None]
        for part in asking:
            try:
                part.rows = self._rows(part, slot_of[id(part.scoring)], thinking)
            except ValueError as error:
                part.scoring.error, part.rows = error, []
        rows = [row for part in asking for row in part.rows]
        if not rows and thinking:
            return []
        new = self._group.call("answer", [scoring.slot for scoring in slots], rows)
        found = []
        for part in asking:
            own, new = new[: len(part.rows)], new[len(part.rows) :]
            failed = [ids for ids in own if isinstance(ids, Exception)]
            if failed:
                part.scoring.error = failed[0]
            elif own:
                found.append((part, [ids for ids in own if not isinstance(ids, Exception)]))
        return found

    def _rows(self, part: _Part, slot: int, thinking: bool) -> list[Asked]:
        """Return the rows that ask for the thinking or for the answers of a part.

        Raises:
            ValueError: if a prompt with its longest answer does not fit into the model's context.
        """
        frozen, scoring, recipe = self._frozen, part.scoring, part.recipe
        special = frozen.special_tokens and not recipe.chat
        limit, stop = recipe.max_new_tokens, tuple(recipe.stop)
        if thinking and recipe.thinking is not None:
            limit, stop = recipe.thinking.tokens, (recipe.thinking.mark,)
        rows = []
        for ids in frozen.tokenizer(part.texts, add_special_tokens=special)["input_ids"]:
            whole = (*(-1 - i for i in range(scoring.num_soft)), *ids)
            rows.append(Asked(slot, whole, limit, stop))
            check_context(frozen, rows[-1])
        return rows

    def _take(self, part: _Part) -> None:
        """Score a batch, unless the race was lost before it."""
        scoring, measured = part.scoring, part.scoring.measured
        found = scoring.cached.get(part.names)
        if found is None or not scoring.batches(1):
            return
        recipe, first = measured.program.recipe, len(measured.scores)
        outputs = [postprocess(text, recipe.postprocess, recipe.stop) for text in found.outputs]
        cut = [self._task.cut(output, recipe.postprocess) for output in outputs]
        scores = self._task.metric.scores(cut, part.batch)
        measured.outputs += outputs
        measured.scores += scores
        rivals = scoring.theirs[first : first + len(scores)]
        if scoring.race is not None and rivals:
            measured.verdict = scoring.race.add(*comparable(scores[: len(rivals)], rivals))


def _wave(scorings: Sequence[Scoring]) -> list[_Part]:
    """Return the parts of the next wave; a candidate with its own model is a wave by itself."""
    running = [scoring for scoring in scorings if scoring.batches(1)]
    alone = [scoring for scoring in running if scoring.model is not None]
    if alone:
        return [_Part(alone[0], alone[0].batches(1)[0])]
    rows = sum(len(scoring.batches(1)[0]) for scoring in running)
    most = max(1, _ROWS // max(1, rows))
    return [_Part(scoring, batch) for scoring in running for batch in scoring.batches(most)]


def _missing(wave: Sequence[_Part]) -> list[_Part]:
    """Return the parts that are not in the cache, one for each set of equal parts."""
    first: dict[tuple[int, str], _Part] = {}
    for part in wave:
        if part.scoring.cached.get(part.names) is None:
            first.setdefault((id(part.scoring.cached), part.batch[0].id), part)
    return list(first.values())


def _print(part: _Part) -> None:
    """Keep the outputs of a program that runs without the model."""
    printed, prompt = part.recipe.printed, part.scoring.prompt
    assert printed is not None
    outputs = tuple(printed.output(prompt, example.input) for example in part.batch)
    _add(part, Batch(outputs, 0, 0), 0.0)


def _add(part: _Part, found: Batch, seconds: float) -> None:
    """Keep the outputs of a batch and count its tokens and seconds."""
    part.scoring.cached.add(part.names, found)
    measured = part.scoring.measured
    measured.generated += len(found.outputs)
    measured.input_tokens += found.input_tokens
    measured.output_tokens += found.output_tokens
    measured.generate_s += seconds
