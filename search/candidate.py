"""A candidate: all settings that determine a program, as canonical JSON.

The canonical form has sorted keys, no white space and only values that differ from the defaults.
Its hash is the candidate's id, so equal candidates have the same id on every machine.

Rungs are the training steps and the scored examples of a candidate between decisions.

Descriptions of a candidate, in a line and in full, from its canonical JSON in the ledger.

JSON of another version is accepted unchecked: missing fields are left out of the description.

Candidates from elsewhere, as a sweep file names them: prompts, and adapters in PEFT's folders.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.programs.postprocess import PostprocessStep
from kilobit.search.settings import Config, LocalPath
from kilobit.search.task import Task

# Families whose programs run without the model.
MODEL_FREE = ("constant", "copy")
# Operator of candidates that the user gives; they count for no limit.
GIVEN = "given"
# Texts between the turns of a prompt; the first one that no turn contains is taken.
_BETWEEN_TURNS = ("\n", "\n\n", "\0")


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder: at most `train_steps` steps, then the first `num_examples` examples.

    Both count from the candidate's start, not from the rung before.
    """

    index: int
    num_examples: int
    train_steps: int


class RungConfig(Config):
    """A geometric ladder: both numbers of the first rung grow by the factor `eta` per rung."""

    examples: Annotated[
        int, Field(ge=1, description="examples of the first rung, and of a batch")
    ] = 16
    train_steps: Annotated[int, Field(ge=1, description="optimizer steps of the first rung")] = 20
    eta: Annotated[int, Field(ge=2, le=10, description="factor from rung to rung")] = 3
    count: Annotated[int, Field(ge=1, le=12, description="number of rungs")] = 3

    def ladder(self) -> tuple[Rung, ...]:
        """Return the rungs, the smallest first."""
        return tuple(
            Rung(i, self.examples * self.eta**i, self.train_steps * self.eta**i)
            for i in range(self.count)
        )


class Prompt(Config):
    """Text before the question: an instruction line and demonstrations as (input, target) pairs."""

    instruction: str = ""
    demonstrations: tuple[tuple[str, str], ...] = ()

    def lead(self) -> str:
        """Return the text before the first demonstration."""
        return self.instruction + "\n" if self.instruction else ""

    def indices(self, task: Task) -> bytes | None:
        """Return the demonstrations' indices in the train split, 2 bytes each, big-endian.

        None if there are no demonstrations, one is not in the split, or an index exceeds 65,535.
        """
        position = {(e.input, e.target): i for i, e in enumerate(task.splits.train)}
        found = [position.get(shown, 1 << 16) for shown in self.demonstrations]
        if not found or max(found) >= 1 << 16:
            return None
        return b"".join(i.to_bytes(2, "big") for i in found)

    def render(self, task: Task) -> str:
        """Return the text that precedes the question of `task`; empty if there is no prompt."""
        return self.lead() + "".join(
            task.ask(text) + task.show(target) for text, target in self.demonstrations
        )

    def turns(self, task: Task) -> list[str]:
        """Return the turns of user and model before the question, the instruction in the first."""
        said = [
            text
            for asked, target in self.demonstrations
            for text in (task.ask(asked), task.turn.replace("{target}", target))
        ]
        return [self.lead() + said[0], *said[1:]] if said else []


class Candidate(Config):
    """One program to try on one base model and one task."""

    task: str
    model: str
    prompt: Prompt = Prompt()
    adapter: AdapterSpec | None = None
    chat: bool = False
    # In a chat, each demonstration is a turn of the user and one of the model.
    turns: bool = False
    max_new_tokens: Annotated[int | None, Field(ge=1)] = None
    postprocess: tuple[PostprocessStep, ...] = ()
    # Without the model, one of these is what it prints for every input: a text, or the input.
    constant: str | None = None
    copies_input: bool = False

    @property
    def family(self) -> str:
        """Return `prompt`, the method of the adapter, or one of `MODEL_FREE`."""
        if self.constant is not None:
            return "constant"
        if self.copies_input:
            return "copy"
        return self.adapter.method if self.adapter else "prompt"

    @property
    def is_model_free(self) -> bool:
        """Return whether its program runs without the model."""
        return self.family in MODEL_FREE

    def between_turns(self, task: Task) -> str:
        """Return the text between the turns that its prompt consists of.

        It is empty if the prompt is a part of the question's turn: without demonstrations, outside
        of a chat, or if the turns contain every text that could be between them.
        """
        turns = self.prompt.turns(task) if self.chat and self.turns else []
        possible = (text for text in _BETWEEN_TURNS if text.join(turns).split(text) == turns)
        return next(possible, "") if any(turns) else ""

    def before(self, task: Task) -> str:
        """Return the text that precedes the question of `task`: its turns, or the prompt."""
        between = self.between_turns(task)
        return between.join(self.prompt.turns(task)) if between else self.prompt.render(task)

    def trained_at(self, rungs: Sequence[Rung]) -> int:
        """Return the index of the rung after which this candidate is not trained any further.

        For a prompt this is the first rung; for an adapter with more steps than the ladder, the
        last one.
        """
        steps = self.adapter.steps if self.adapter else 0
        return next((r.index for r in rungs if r.train_steps >= steps), len(rungs) - 1)

    def canonical(self) -> str:
        """Return the canonical JSON of this candidate."""
        spec = self.model_dump(mode="json", exclude_defaults=True)
        return json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def id(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]


class _GivenOne(Config):
    postprocess: tuple[PostprocessStep, ...] = ()
    """steps applied to the output"""
    chat: bool | None = None
    """whether the text goes into the model's chat template; null: where its tokenizer has one"""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """limit of a generation; null is the task's own"""

    def on(self, *, template: bool) -> Self:
        """Return the candidate as it is on a base model, which has a chat template or none."""
        return self.model_copy(update={"chat": template if self.chat is None else self.chat})

    def after(self, text: str, task: Task, model: str) -> Candidate:
        """Return the candidate of a base model whose prompt is `text`, after `on`."""
        return Candidate(
            task=task.name,
            model=model,
            prompt=Prompt(instruction=text),
            chat=bool(self.chat),
            max_new_tokens=self.max_new_tokens,
            postprocess=self.postprocess,
        )


class GivenPrompt(_GivenOne):
    """A prompt from elsewhere, or several: made by hand, or by another optimizer."""

    text: str | None = Field(default=None, min_length=1)
    """the text, which stands on lines of its own before the question"""
    file: LocalPath | None = None
    """a UTF-8 file that holds the text, instead of `text`; line ends at its end are left out"""
    lines: LocalPath | None = None
    """a JSON Lines file of several texts, each a candidate, instead of `text`: a line is a string,
    or an object of one text, as GEPA's candidates are"""
    field: str | None = Field(default=None, min_length=1)
    """for `lines`: which entry of an object holds the text, where it has several"""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(one is not None for one in (self.text, self.file, self.lines)) != 1:
            raise ValueError("give one of `text`, `file` and `lines`")
        if self.field is not None and self.lines is None:
            raise ValueError("`field` belongs to `lines`")
        return self


class GivenAdapter(_GivenOne):
    """An adapter from elsewhere, in the format of PEFT; a folder alone may stand for it."""

    folder: LocalPath
    """holds adapter_config.json and adapter_model.safetensors"""

    @model_validator(mode="before")
    @classmethod
    def _folder_alone(cls, value: Any) -> Any:
        found = {"folder": value} if isinstance(value, str) else value
        # What a validator returns counts as Python's, which has no lists for tuples.
        if isinstance(found, dict) and isinstance(found.get("postprocess"), list):
            return {**found, "postprocess": tuple(found["postprocess"])}
        return found


class Given(Config):
    """Candidates from elsewhere: tried first, on every base model; they count for no limit."""

    prompts: tuple[GivenPrompt, ...] = ()
    """prompts, coded and scored as they are"""
    adapters: tuple[GivenAdapter, ...] = ()
    """adapters, coded at every rate of `rate_search` and not trained; each alone, and with each of
    `prompts` before the question"""

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.prompts and not self.adapters:
            raise ValueError("give `prompts` or `adapters`")
        return self

    def each(self) -> dict[str, GivenPrompt | GivenAdapter]:
        """Return each entry by its place, for example `prompts.0`."""
        kinds: dict[str, Sequence[GivenPrompt | GivenAdapter]] = {
            "prompts": self.prompts,
            "adapters": self.adapters,
        }
        return {f"{kind}.{at}": one for kind, all_ in kinds.items() for at, one in enumerate(all_)}

    def on(self, *, template: bool) -> Self:
        """Return the candidates as they are on a base model, which has a chat template or none."""
        found = {
            "prompts": tuple(one.on(template=template) for one in self.prompts),
            "adapters": tuple(one.on(template=template) for one in self.adapters),
        }
        return self.model_copy(update=found)


def in_short(spec: Mapping[str, Any]) -> str:
    """Return a candidate in one line, for example `lora rank 1 on down_proj in 90 steps`."""
    if spec.get("constant") is not None:
        return f"prints {spec['constant']!r} for every input"
    if spec.get("copies_input"):
        return "prints the input"
    parts = []
    adapter = spec.get("adapter")
    if adapter:
        parts.append(_adapter(adapter))
    prompt = spec.get("prompt") or {}
    if prompt.get("instruction"):
        parts.append("an instruction")
    shown = len(prompt.get("demonstrations") or ())
    if shown:
        turns = f" as {'turns' if shown > 1 else 'a turn'}" if spec.get("turns") else ""
        parts.append(f"{shown} demonstration{'s' * (shown > 1)}{turns}")
    if spec.get("chat"):
        parts.append("chat template")
    if spec.get("max_new_tokens"):
        parts.append(f"at most {spec['max_new_tokens']} tokens")
    if spec.get("postprocess"):
        parts.append(f"output: {_list(spec['postprocess'])}")
    return "; ".join(parts) or "the question alone"


def _adapter(adapter: Mapping[str, Any]) -> str:
    words = [str(adapter.get("method", "adapter"))]
    words += [f"{name} {adapter[name]}" for name in ("rank", "size") if adapter.get(name)]
    if adapter.get("target_modules"):
        words.append(f"on {_list(adapter['target_modules'])}")
    if adapter.get("layers"):
        words.append(f"of layers {_list(adapter['layers'])}")
    if adapter.get("tokens"):
        words.append(f"of {len(adapter['tokens'])} tokens")
    if adapter.get("draws"):
        words.append(f"by the draws {_list(adapter['draws'])}")
    if adapter.get("given"):
        words.append("from elsewhere")
    if adapter.get("steps"):
        words.append(f"in {adapter['steps']} steps")
    if adapter.get("training", "plain") != "plain":
        words.append(f"trained for {adapter['training']}")
    if adapter.get("step"):
        words.append(f"rounded to {adapter['step']:g}")
    if adapter.get("keep"):
        words.append(f"{adapter['keep']:g} of its ranks")
    return " ".join(words)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))


def prompt_of(spec: Mapping[str, Any]) -> str:
    """Return the texts of a candidate's prompt, without the task's template."""
    prompt = spec.get("prompt") or {}
    instruction = prompt.get("instruction") or ""
    lines = [str(instruction)] if instruction else []
    lines += [f"{asked}\n{answer}" for asked, answer in prompt.get("demonstrations") or ()]
    return "\n".join(lines)
