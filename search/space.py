"""The space of candidates: families with their ranges, and the draw of a run's candidates.

Every draw comes from a stream named by seed, model and family, so adding a model or a family
changes no draw of the others.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, PrivateAttr, create_model, model_validator

from kilobit.search.adapter_methods import (
    METHODS,
    PRICED,
    SHAPE_FIELDS,
    AdapterSpec,
    Draw,
    Method,
    TrainingName,
)
from kilobit.search.candidate import GIVEN, Candidate, Given, Prompt
from kilobit.search.programs.postprocess import PostprocessStep
from kilobit.search.settings import Config
from kilobit.search.streams import stream
from kilobit.search.task import Example, Task

# A space may have fewer distinct candidates than requested; drawing ends after this many repeats.
MAX_FRUITLESS_DRAWS = 200


class LogRange(Config):
    """A range that is sampled uniformly on a logarithmic axis."""

    low: float = Field(gt=0)
    """smallest value"""
    high: float = Field(gt=0)
    """largest value"""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not exceed high")
        return self


class PromptFamily(Config):
    """Instructions and demonstrations before the question, and post-processing of the output."""

    candidates: int = Field(default=0, ge=0, le=100_000)
    """candidates for each base model"""
    instructions: tuple[str, ...] = Field(default=("",), min_length=1)
    """first lines to choose from; '' is none"""
    demonstrations: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0, 1, 2, 4), min_length=1
    )
    """numbers of examples from the train split"""
    postprocess: tuple[tuple[PostprocessStep, ...], ...] = Field(default=((),), min_length=1)
    """lists of steps applied to the output"""
    postprocess_combine: tuple[PostprocessStep, ...] = ()
    """steps that the search combines by itself, after those of the list"""
    postprocess_most: int = Field(default=2, ge=1, le=4)
    """most steps from `postprocess_combine`"""
    chat: Annotated[tuple[bool, ...], Field(min_length=1)] | None = None
    """whether the text goes into the model's chat template; null: as the model is meant to be used,
    so where its tokenizer has one, the question alone too"""
    turns: bool = True
    """in a chat template each demonstration is a turn of the user and one of the model; false: it
    is a part of the question's turn"""
    max_new_tokens: tuple[Annotated[int, Field(ge=1)] | None, ...] = Field(
        default=(None,), min_length=1
    )
    """limits of a generation; null is the task's own"""
    _template: bool = PrivateAttr(default=False)

    def on(self, *, template: bool) -> Self:
        """Return the family as it is on a base model, which has a chat template or none."""
        found = self.model_copy()
        found._template = template  # noqa: SLF001 - its own, of a copy
        return found

    @property
    def chats(self) -> tuple[bool, ...]:
        """Return the choices for `chat`, those of a model without a template before `on`."""
        return (self._template,) if self.chat is None else self.chat

    def bare(self, task: Task, model: str) -> Candidate:
        """Return the candidate that adds nothing to the question."""
        return self.in_chat(
            Candidate(task=task.name, model=model), self.chat is None and self._template
        )

    def in_chat(self, candidate: Candidate, chat: bool) -> Candidate:
        """Return a candidate with its text in the chat template, or outside of it."""
        return candidate.model_copy(update={"chat": chat, "turns": chat and self.turns})


class AdapterFamily(PromptFamily):
    """Adapters of one method, with or without a prompt."""

    demonstrations: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """numbers of examples shown, also while training"""
    learning_rate: LogRange | None = None
    """for AdamW, with a short warm-up and linear decay; null: the method's own range, relative to
    the size of what it changes"""
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(180,), min_length=1)
    """optimizer steps, or generations, in all; a rung may stop earlier"""
    batch_size: int = Field(default=16, ge=1)
    """examples of a training step, or of a generation"""
    training: tuple[TrainingName, ...] = Field(default=("plain",), min_length=1)
    """plain; rate: with a price on the numbers' entropy; bits: with learned bit widths and ranks;
    signs: the numbers of a tensor are all of one size, and only their signs differ; reward: by the
    task's score of generated answers to train examples"""
    nats_per_kbit: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.01,), min_length=1)
    """for `rate` and `bits`: prices of a thousand bits in nats of training loss"""
    population: int | None = Field(default=None, ge=2, le=1024, multiple_of=2)
    """for `reward`: members of a generation; null: 4 and three times the logarithm of how many
    numbers are trained"""
    spread: float = Field(default=1.0, gt=0, le=100)
    """for `reward`: how far a member is from the middle of its generation, as a multiple of the
    learning rate, which is how far a number moves in a generation"""

    def rates(self, method: str) -> LogRange:
        """Return the range of learning rates, relative ones if the family names none."""
        low, high = METHODS[method].rates
        return self.learning_rate or LogRange(low=low, high=high)

    @property
    def relative(self) -> bool:
        """Return whether the learning rates are relative ones."""
        return self.learning_rate is None

    def trained(self, method: str, training: TrainingName, price: float | None) -> dict[str, Any]:
        """Return the fields of an adapter that belong to its way of training.

        Args:
            method: its method.
            training: its way of training.
            price: of a thousand bits, for those that have one.
        """
        found = {"training": training, "nats_per_kbit": price if training in PRICED else None}
        if training != "reward":
            return found | {"ratio": self.rate_ratio(method), "population": None, "spread": 1.0}
        return found | {"ratio": 1.0, "population": self.population, "spread": self.spread}

    def rate_ratio(self, method: str) -> float:
        """Return B's learning rate over A's, which is 1 if the family names learning rates."""
        given: float | None = getattr(self, "ratio", None)
        return given or (METHODS[method].ratio if self.relative else 1.0)

    def shapes(self) -> dict[str, tuple[Any, ...]]:
        """Return the choices for each field of the adapter's shape; modules are sorted."""
        found = {name: getattr(self, name) for name in SHAPE_FIELDS if hasattr(self, name)}
        if "target_modules" in found:
            found["target_modules"] = tuple(tuple(sorted(t)) for t in found["target_modules"])
        return found


class TargetsFamily(AdapterFamily):
    """Adapters of a method that needs only target modules."""

    target_modules: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        default=(("q_proj", "v_proj"),), min_length=1
    )
    """lists of module names"""


class LayersFamily(TargetsFamily):
    """Adapters of a method that may leave layers out."""

    layers: tuple[Annotated[tuple[int, ...], Field(min_length=1)] | None, ...] = Field(
        default=(None,), min_length=1
    )
    """lists of layer numbers; null is all layers"""


class SteeringFamily(LayersFamily):
    """Vectors added to outputs of modules."""

    target_modules: tuple[Annotated[tuple[str, ...], Field(min_length=1)], ...] = Field(
        default=(("down_proj",),), min_length=1
    )
    """lists of module names; what the last module of a block adds is added to the block's output"""


class RankFamily(LayersFamily):
    """Adapters of a method that has a rank."""

    rank: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4), min_length=1)
    """ranks to choose from"""


class PairsFamily(RankFamily):
    """Adapters of a method that trains both factors of an update."""

    ratio: float | None = Field(default=None, gt=0)
    """B's learning rate as a multiple of A's, around `learning_rate` in the middle; null: 10, or 1
    where learning rates are named"""


class SizeFamily(LayersFamily):
    """Adapters of a method that trains a chosen number of numbers."""

    size: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(13, 64, 256), min_length=1)
    """how many numbers are trained, to choose from"""


class NoiseFamily(LayersFamily):
    """Adapters of a method that draws noise."""

    draws: (
        Annotated[int, Field(ge=1, le=100_000)]
        | Annotated[
            tuple[Annotated[tuple[Draw, ...], Field(min_length=1)], ...], Field(min_length=1)
        ]
    ) = 64
    """seeds of the noise: lists to choose from, or how many there are, from 0"""
    seeds: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    """how many seeds a candidate has, to choose from"""

    def shapes(self) -> dict[str, tuple[Any, ...]]:
        """Return the choices for each field of the adapter's shape."""
        if isinstance(self.draws, tuple):
            return super().shapes()
        every = range(self.draws)
        # As many sets of each size; a single seed is short where few were tried.
        sets = [
            (at,) if size == 1 else tuple(sorted(stream("draws", size, at).sample(every, size)))
            for size in self.seeds
            for at in every
        ]
        return super().shapes() | {"draws": tuple(dict.fromkeys(sets))}

    @model_validator(mode="after")
    def _enough_draws(self) -> Self:
        if isinstance(self.draws, int) and max(self.seeds) > self.draws:
            raise ValueError(
                f"seeds: {max(self.seeds)} can't be chosen from {self.draws}: raise `draws`"
            )
        if isinstance(self.draws, tuple) and "seeds" in self.model_fields_set:
            raise ValueError("seeds: `draws` lists the seeds, so there is nothing to choose")
        return self


class CoordinatesFamily(NoiseFamily):
    """Adapters that change a few weights."""

    size: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(16, 64, 256), min_length=1)
    """how many weights for each seed, to choose from"""


class SeedsFamily(NoiseFamily):
    """Adapters that add noise with coefficients."""

    rank: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    """ranks to choose from"""
    seeds: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 4, 16), min_length=1)
    """how many seeds a candidate has, to choose from"""


class TokensFamily(AdapterFamily):
    """Trained embeddings of a few tokens."""

    tokens: tuple[Annotated[tuple[int, ...], Field(min_length=1)], ...] = Field(min_length=1)
    """lists of token ids"""


class SoftPromptFamily(AdapterFamily):
    """Trained vectors before the text."""

    size: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4), min_length=1)
    """how many vectors, to choose from"""


class DataFamily(RankFamily):
    """Training examples, and a LoRA that learns from them while it codes them."""

    size: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(8, 64, 512), min_length=1)
    """how many examples, to choose from"""
    learning_rate: LogRange = LogRange(low=3e-4, high=3e-3)
    """for sign descent with momentum and linear decay"""
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(640,), min_length=1)
    """steps in all; they cycle through the examples"""
    batch_size: int = Field(default=1, ge=1)
    """examples of a training step"""
    chat: tuple[bool, ...] = Field(default=(False,), min_length=1)
    """whether the text goes into the model's chat template; its examples are learned outside"""

    @model_validator(mode="after")
    def _all_examples_are_met(self) -> Self:
        if max(self.size) > min(self.steps) * self.batch_size:
            raise ValueError(
                f"{min(self.steps)} steps of {self.batch_size} do not reach {max(self.size)} "
                "examples: give fewer examples, more steps or a larger batch_size"
            )
        if self.training != ("plain",):
            raise ValueError("data has no `training` to choose: it has its own rule")
        return self


class _Families(Config):
    """The families of a sweep; one that is absent is not searched."""

    prompt: Annotated[PromptFamily | None, Field(description="prompts alone")] = None
    given: Annotated[Given | None, Field(description="candidates from elsewhere")] = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not sum(family.candidates for family in self.named().values()):
            raise ValueError("no candidates: give at least one family `candidates` above 0")
        return self

    def named(self) -> dict[str, PromptFamily]:
        """Return the families that candidates are drawn from, by name."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: one for name, one in found.items() if isinstance(one, PromptFamily)}

    def on(self, *, template: bool) -> Self:
        """Return the families as they are on a base model, which has a chat template or none."""
        every = self.named() | ({GIVEN: self.given} if self.given else {})
        found = {name: family.on(template=template) for name, family in every.items()}
        return self.model_copy(update=found)

    @property
    def use_chat(self) -> bool:
        """Return whether a candidate may be in a chat template."""
        given = self.given.each().values() if self.given else ()
        drawn = any(True in family.chats for family in self.named().values())
        return drawn or any(one.chat for one in given)


def families_of(methods: Mapping[str, Method]) -> type[_Families]:
    """Return the model of a sweep's families, with a field for each method."""
    kinds = (
        *(TargetsFamily, SteeringFamily, RankFamily, SizeFamily),
        *(TokensFamily, SoftPromptFamily, DataFamily, CoordinatesFamily, SeedsFamily),
    )
    of = {frozenset(kind.model_fields) & {*SHAPE_FIELDS}: kind for kind in kinds}
    fields: dict[str, Any] = {
        name: (
            (PairsFamily if method.ratio != 1 else of[frozenset(method.fields)]) | None,
            Field(default=None, description=method.about),
        )
        for name, method in methods.items()
    }
    return create_model("Families", __base__=_Families, __doc__=_Families.__doc__, **fields)


if TYPE_CHECKING:
    Families = _Families
else:
    Families = families_of(METHODS)


# Of many targets no constant is right often, so a few show what one reaches.
_FEW_CONSTANTS = 2


class ModelFree(Config):
    """Programs that run without the model; every front has them beside those that use it."""

    constants: int = Field(default=8, ge=0, le=1000)
    """targets that are each printed for every input: all of the train split if no more than this
    differ, else the two that are most frequent; 0 for none"""
    copy_input: bool = True
    """print the input itself"""

    def candidates(self, task: Task, model: str) -> list[Candidate]:
        """Return the candidates of a base model, the most frequent target first."""
        copies = [Candidate(task=task.name, model=model, copies_input=True)]
        counts = Counter(example.gold.strip() for example in task.splits.train)
        targets = sorted(filter(None, counts), key=lambda text: (-counts[text], text))
        most = self.constants if len(targets) <= self.constants else _FEW_CONSTANTS
        # A target that does not repeat is no constant answer.
        repeated = [text for text in targets if counts[text] > 1][: min(most, self.constants)]
        printed = [Candidate(task=task.name, model=model, constant=text) for text in repeated]
        return printed + (copies if self.copy_input else [])


class RateSearch(Config):
    """The coarser programs that are made from an adapter after its last rung."""

    steps: tuple[Annotated[float, Field(gt=0)], ...] = (0.25, 0.5, 1.0, 1.5, 2.0)
    """quantisation steps in units of the root mean square of the numbers"""
    keep: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.5, 0.25)
    """fractions of the rank components to keep, with steps 0.5 and 1"""

    def variants(self, candidate: Candidate) -> list[Candidate]:
        """Return the candidates that differ from `candidate` only in how its adapter is coded."""
        adapter = candidate.adapter
        # Signs are as coarse as numbers get: a larger step would round all of them to 0.
        if adapter is None or adapter.traits.examples or adapter.training == "signs":
            return []
        codings = [(step, 1.0) for step in self.steps]
        codings += [(step, keep) for keep in self.keep for step in (0.5, 1.0)]
        found = [
            candidate.model_copy(
                update={"adapter": adapter.model_copy(update={"step": step, "keep": keep})}
            )
            for step, keep in dict.fromkeys(codings)
        ]
        return [variant for variant in found if variant != candidate]


def draw_candidates(
    families: Families, task: Task, models: Sequence[str], seed: int
) -> list[Candidate]:
    """Return the distinct candidates of a run in the order in which they are tried.

    The first candidate of every model adds nothing to the question: it measures the base model
    alone. The models take turns, and within a model the families are mixed.
    """
    queues = [_draw_for_model(families, task, model, seed) for model in models]
    longest = max(len(queue) for queue in queues)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]


def _draw_for_model(families: Families, task: Task, model: str, seed: int) -> list[Candidate]:
    found: dict[str, Candidate] = {}
    for name, family in families.named().items():
        if not family.candidates:
            continue
        rng = stream(seed, "space", model, name)
        wanted = len(found) + family.candidates
        draws = _draws(name, family, task, model, rng)
        fruitless = 0
        while len(found) < wanted and fruitless < MAX_FRUITLESS_DRAWS:
            candidate = next(draws)
            fruitless = fruitless + 1 if candidate.id in found else 0
            found.setdefault(candidate.id, candidate)
    mixed = list(found.values())
    bare = families.prompt and families.prompt.bare(task, model)
    stream(seed, "order", model).shuffle(mixed)
    return sorted(mixed, key=lambda candidate: candidate != bare)


def _draws(
    name: str, family: PromptFamily, task: Task, model: str, rng: random.Random
) -> Iterator[Candidate]:
    if not isinstance(family, AdapterFamily):
        yield family.bare(task, model)
    while True:
        yield draw_candidate(name, family, task, model, rng)


def draw_candidate(
    name: str, family: PromptFamily, task: Task, model: str, rng: random.Random
) -> Candidate:
    """Return one random candidate of the family called `name`."""
    count = rng.choice(family.demonstrations)
    shown: Sequence[Example] = rng.sample(task.splits.train, count)
    prompt = Prompt(
        instruction=rng.choice(family.instructions),
        demonstrations=tuple((e.input, e.target) for e in shown),
    )
    adapter = _draw_adapter(name, family, rng) if isinstance(family, AdapterFamily) else None
    chat = rng.choice(family.chats)
    candidate = Candidate(
        task=task.name,
        model=model,
        prompt=prompt,
        adapter=adapter,
        max_new_tokens=rng.choice(family.max_new_tokens),
        postprocess=_draw_postprocess(family, rng),
    )
    return family.in_chat(candidate, chat)


def _draw_postprocess(family: PromptFamily, rng: random.Random) -> tuple[PostprocessStep, ...]:
    listed = rng.choice(family.postprocess)
    if not family.postprocess_combine:
        return listed
    most = min(family.postprocess_most, len(family.postprocess_combine))
    return listed + tuple(rng.sample(family.postprocess_combine, rng.randint(0, most)))


def _draw_adapter(name: str, family: AdapterFamily, rng: random.Random) -> AdapterSpec:
    rate = family.rates(name)
    exponent = rng.uniform(math.log(rate.low), math.log(rate.high))
    shape = {field: rng.choice(choices) for field, choices in family.shapes().items()}
    training = rng.choice(family.training)
    return AdapterSpec(
        method=name,
        # Two significant digits, so that a person can type the rate to repeat a candidate.
        learning_rate=float(f"{math.exp(exponent):.1e}"),
        relative=family.relative,
        steps=rng.choice(family.steps),
        batch_size=family.batch_size,
        seed=rng.randrange(1 << 31),
        **family.trained(
            name, training, rng.choice(family.nats_per_kbit) if training in PRICED else None
        ),
        **shape,
    )
