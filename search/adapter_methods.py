"""Adapter methods, and the settings of one adapter.

`METHODS` holds one object a method: which of the fields `rank`, `size`, `target_modules`, `layers`,
`tokens` and `draws` it has, the PEFT configuration that builds it, how many numbers it trains, and
its statements in program.py. Everything else looks there, so a method that PEFT provides is added
there alone. Its changes of a running model, which need torch, are found by its name in
`kilobit.evaluators.model.packing.deltas`; a method without any runs alone.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from kilobit.search.settings import Config

# Quantisation step of an adapter as trained; a rate search makes coarser codings of it.
FINEST_STEP = 0.125
TrainingName = Literal["plain", "rate", "bits", "signs", "reward"]
# Ways of training that have a price of bits.
PRICED: tuple[TrainingName, ...] = ("rate", "bits")
# LoRA's alpha as a multiple of its rank.
LORA_SCALING = 2
# PEFT's default rank of the LoRA matrices that Uni-LoRA's numbers are spread over, and the factor
# of FourierFT's updates.
UNILORA_RANK = 4
FOURIER_SCALING = 150


Shapes = Sequence[tuple[int, int]]


def _side(shapes: Shapes) -> float:
    """Return the side of a square weight that is as large as these on average."""
    return math.sqrt(sum(rows * columns for rows, columns in shapes) / len(shapes))


def _of_low_rank(spec: Any, shapes: Shapes) -> float:
    """Return the rate by which a step changes weights of all widths by an equal share.

    A step of AdamW moves each number by about the rate, so the spectral norm of the change grows
    with the roots of width and rank, and that of a weight does not (arXiv 2310.17813).
    """
    return 1 / math.sqrt(_side(shapes) * spec.rank)


def _of_projection(spec: Any, shapes: Shapes) -> float:
    """Return the rate by which a step moves the numbers of a LoRA as far as one of LoRA does.

    Each of `size` numbers is divided among its part of them, by the root of how many these are.
    """
    total = UNILORA_RANK * sum(map(sum, shapes))
    return math.sqrt(total / spec.size / _side(shapes) / UNILORA_RANK)


@dataclass(frozen=True)
class Method:
    """An adapter method.

    Attributes:
        about: one line for the reference.
        source: where it was published.
        fields: fields of `AdapterSpec` that it has; all but `layers` must be given.
        numbers: returns how many numbers an adapter trains for a weight of this shape.
        config: name of PEFT's configuration class; None if it changes base weights themselves.
        names: argument names of that class for `rank`, `size` and `tokens`.
        more: returns further arguments of that class for an adapter.
        place: what it changes: weights of linear modules or of norms, any parameters by parts of
            their names, weights of linear modules along directions drawn from noise, the
            embeddings, or the text by vectors that stand before it.
        once: `numbers` counts all numbers, given the shape (width,) of an embedding.
        delta: its numbers are written as differences from their initial values, which a program can
            rebuild; otherwise as they are.
        ratio: B's learning rate over A's of a family that names no rates; see `AdapterSpec.ratio`.
        seeded_start: begins from numbers drawn from the candidate's seed; a program may hold the
            differences from them, in pairs of factors A and B, where B begins at zero.
        keeps_meaning: the numbers mean the same in an adapter of another shape. Those that are
            combined with fixed random numbers do not.
        seed: seed of the numbers that it draws and does not train; None if there are none, or they
            come from PEFT's default seeds.
        trains: part of the names of the parameters that it trains; by default, all that PEFT does.
        square: its numbers are the square matrix between the SVD factors of a base weight.
        from_weights: begins from base weights, which PEFT reads when it builds the adapter.
        any_rank: the rank may exceed the sides of a weight.
        examples: its payload holds training examples instead of numbers.
        rates: the least and the largest relative learning rate of a family that names none.
        unit: returns the learning rate that a relative rate of 1 stands for, given the shapes
            (outputs, inputs) of the weights that it changes; None: the root mean square of its
            numbers before training, as Adafactor's relative step (arXiv 1804.04235).
    """

    about: str
    source: str
    fields: tuple[str, ...]
    numbers: Callable[[Any, tuple[int, ...]], int]
    config: str | None = None
    names: Mapping[str, str] = field(default_factory=lambda: {"rank": "r"})
    more: Callable[[Any], dict[str, Any]] = lambda _: {}
    place: Literal["modules", "norms", "parameters", "noise", "embeddings", "text"] = "modules"
    once: bool = False
    delta: bool = False
    ratio: float = 1.0
    seeded_start: bool = False
    keeps_meaning: bool = False
    seed: int | None = None
    trains: str = ""
    square: bool = False
    from_weights: bool = False
    any_rank: bool = False
    examples: bool = False
    rates: tuple[float, float] = (0.03, 0.3)
    unit: Callable[[Any, Shapes], float] | None = None

    @property
    def arguments(self) -> dict[str, str]:
        """Return the argument of PEFT's configuration class for each field."""
        common = {"target_modules": "target_modules", "layers": "layers_to_transform"}
        return {**self.names, **common}

    def fields_of(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of an adapter from the arguments of its PEFT configuration."""
        found = {name: arguments.get(argument) for name, argument in self.arguments.items()}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}

    def statements(
        self,
        config: str | None,
        arguments: Mapping[str, Any],
        factor_sum: float | None = None,
        seed: int | None = None,
    ) -> list[str]:
        """Return the statements of program.py that put an untrained adapter on `model`."""
        seed = self.seed if seed is None else seed
        lines = [] if seed is None else [f"torch.manual_seed({seed})"]
        if config is not None:
            # Sorted like the recipe's canonical JSON: a recipe read from it gives this script.
            given = ", ".join(f"{key}={value!r}" for key, value in sorted(arguments.items()))
            lines.append(f"model = peft.get_peft_model(model, peft.{config}({given}))")
        if factor_sum is None:
            return lines
        # Fix the signs of SVD factors, and check the factors' sum.
        lines += [
            "total = 0",
            "for module in model.modules():",
            "    if hasattr(module, 'tinylora_A'):",
            "        first = module.tinylora_A['default']",
            "        first *= (signs := first.sum(1, True).sign())",
            "        second = module.tinylora_B['default']",
            "        second *= signs.T",
            "        total += first.sum()",
        ]
        if self.square:
            rank = arguments["r"]
            identity = f"torch.eye({rank * rank}).view(-1, {rank}, {rank})"
            lines.append(f"        module.tinylora_P['default'][:] = {identity}")
        return [*lines, f"assert abs(total - {factor_sum}) < .1"]

    def condition(self, targets: tuple[str, ...]) -> str:
        """Return the condition in program.py on the `name` and `weight` of a trained parameter."""
        if self.place == "noise":
            return "name == 'numbers'"
        if self.place == "parameters":
            return " or ".join(f"{target!r} in name" for target in targets)
        return f"{self.trains!r} in name" if self.trains else "weight.requires_grad"


_MODULES = ("target_modules", "layers")
METHODS: dict[str, Method] = {
    "lora": Method(
        "low-rank updates B A",
        "arXiv 2106.09685",
        ("rank", *_MODULES),
        lambda spec, shape: spec.rank * sum(shape),
        "LoraConfig",
        more=lambda spec: {"lora_alpha": LORA_SCALING * spec.rank},
        ratio=10.0,
        seeded_start=True,
        keeps_meaning=True,
        rates=(0.05, 0.5),
        unit=_of_low_rank,
    ),
    "lora_fa": Method(
        "low-rank updates B A with A drawn from a seed and not trained",
        "arXiv 2308.03303",
        ("rank", *_MODULES),
        lambda spec, shape: spec.rank * shape[0],
        "LoraConfig",
        more=lambda spec: {"lora_alpha": LORA_SCALING * spec.rank},
        seed=0,
        trains="lora_B",
        rates=(0.5, 5),
        unit=_of_low_rank,
    ),
    "lora_xs": Method(
        "rank x rank numbers between the SVD factors of the base weight",
        "arXiv 2405.17604",
        ("rank", *_MODULES),
        lambda spec, _: spec.rank**2,
        "TinyLoraConfig",
        more=lambda spec: {"u": spec.rank**2},
        square=True,
        from_weights=True,
        rates=(0.03, 0.2),
        unit=lambda spec, _: 1 / math.sqrt(spec.rank),
    ),
    "vera": Method(
        "two vectors around fixed random matrices",
        "arXiv 2310.11454",
        ("rank", *_MODULES),
        lambda spec, shape: spec.rank + shape[0],
        "VeraConfig",
        delta=True,
        any_rank=True,
        rates=(0.7, 7),
        unit=lambda _, shapes: 1 / math.sqrt(_side(shapes)),
    ),
    "tinylora": Method(
        "`size` numbers in all, spread over SVD factors by fixed random matrices",
        "arXiv 2602.04118",
        ("size", *_MODULES),
        lambda spec, _: spec.size,
        "TinyLoraConfig",
        names={"size": "u"},
        more=lambda _: {"weight_tying": 1.0},
        once=True,
        from_weights=True,
        rates=(0.03, 0.4),
        unit=lambda spec, _: 1 / math.sqrt(spec.size),
    ),
    "unilora": Method(
        "`size` numbers in all, spread over all LoRA matrices by a fixed projection",
        "arXiv 2506.00799",
        ("size", *_MODULES),
        lambda spec, _: spec.size,
        "UniLoraConfig",
        names={"size": "theta_d_length"},
        once=True,
        rates=(0.2, 2),
        unit=_of_projection,
    ),
    "fourierft": Method(
        "`size` Fourier coefficients of each update, at fixed random positions",
        "arXiv 2405.03003",
        ("size", *_MODULES),
        lambda spec, _: spec.size,
        "FourierFTConfig",
        names={"size": "n_frequency"},
        rates=(0.2, 2),
        unit=lambda _, shapes: _side(shapes) / FOURIER_SCALING,
    ),
    "ia3": Method(
        "a factor for each output of a module",
        "arXiv 2205.05638",
        ("target_modules",),
        lambda _, shape: shape[0],
        config="IA3Config",
        more=lambda _: {"feedforward_modules": []},
        delta=True,
        keeps_meaning=True,
        rates=(0.02, 0.2),
    ),
    "steering": Method(
        "a vector added to each output of a module",
        "BitFit, arXiv 2106.10199",
        _MODULES,
        lambda _, shape: shape[0],
        # PEFT's default rank is its default alpha, so the vector is added as it is; B stays zero.
        "LoraConfig",
        more=lambda _: {"lora_bias": True},
        delta=True,
        keeps_meaning=True,
        trains="lora_B.default.bias",
        rates=(0.1, 1),
        unit=lambda *_: 1.0,
    ),
    "ln_tuning": Method(
        "the weights of normalisation layers",
        "arXiv 2312.11420",
        ("target_modules",),
        lambda _, shape: math.prod(shape),
        config="LNTuningConfig",
        place="norms",
        delta=True,
        keeps_meaning=True,
        from_weights=True,
    ),
    "trainable_tokens": Method(
        "the embeddings of a few tokens",
        "PEFT's trainable tokens",
        ("tokens",),
        lambda spec, shape: len(spec.tokens) * shape[0],
        config="TrainableTokensConfig",
        names={"tokens": "token_indices"},
        place="embeddings",
        once=True,
        delta=True,
        rates=(0.1, 1),
    ),
    "soft_prompt": Method(
        "`size` vectors before the text",
        "arXiv 2104.08691",
        ("size",),
        lambda spec, shape: spec.size * shape[0],
        config="PromptTuningConfig",
        names={"size": "num_virtual_tokens"},
        more=lambda _: {"task_type": "CAUSAL_LM"},
        place="text",
        once=True,
        keeps_meaning=True,
        rates=(0.3, 3),
    ),
    "coordinates": Method(
        "`size` single weights for each draw of noise, chosen by it",
        "arXiv 1804.08838",
        ("size", *_MODULES, "draws"),
        lambda spec, _: spec.size * len(spec.draws),
        place="noise",
        once=True,
        delta=True,
        rates=(0.3, 3),
        unit=lambda *_: 1.0,
    ),
    "seeds": Method(
        "a coefficient for each draw of low-rank noise of +1 and -1",
        "arXiv 1804.08838",
        ("rank", *_MODULES, "draws"),
        lambda spec, _: len(spec.draws),
        place="noise",
        once=True,
        delta=True,
        any_rank=True,
        rates=(0.7, 7),
        unit=lambda spec, shapes: 1 / _side(shapes) / math.sqrt(spec.rank * len(spec.draws)),
    ),
    "weights": Method(
        "weights themselves: the parameters whose names contain one of `target_modules`",
        "full fine-tuning",
        ("target_modules",),
        lambda _, shape: math.prod(shape),
        place="parameters",
        delta=True,
        keeps_meaning=True,
        rates=(0.003, 0.03),
    ),
    "data": Method(
        "`size` training examples, coded by the model while a LoRA learns from them",
        "prequential coding, Dawid 1984",
        ("rank", "size", *_MODULES),
        lambda spec, shape: spec.rank * sum(shape),
        # Leave out alpha: PEFT's default makes the script shorter; the learning rate compensates.
        "LoraConfig",
        seed=0,
        examples=True,
    ),
}
SHAPE_FIELDS = ("rank", "size", "target_modules", "layers", "tokens", "draws")


def _known(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"there is no method {name!r}; there are {', '.join(METHODS)}")
    return name


# A seed of noise that a program draws.
Draw = Annotated[int, Field(ge=0, lt=1 << 63)]
MethodName = Annotated[str, AfterValidator(_known)]


def is_called(name: str, target: str) -> bool:
    """Return whether a target names this module: by its last part, or by several with dots."""
    return f".{name}".endswith(f".{target}")


class AdapterSpec(Config):
    """Settings of an adapter: its shape, its training, and the coarseness of its coding."""

    method: MethodName
    rank: Annotated[int | None, Field(ge=1)] = None
    size: Annotated[int | None, Field(ge=1)] = None
    target_modules: Annotated[tuple[str, ...] | None, Field(min_length=1)] = None
    layers: Annotated[tuple[int, ...] | None, Field(min_length=1)] = None
    tokens: Annotated[tuple[int, ...] | None, Field(min_length=1)] = None
    draws: Annotated[tuple[Draw, ...] | None, Field(min_length=1)] = None
    learning_rate: Annotated[float, Field(gt=0)]
    relative: bool = False
    """the learning rate counts in the method's own unit, which follows what the adapter changes"""
    ratio: Annotated[float, Field(gt=0)] = 1.0
    """learning rate of the factors B as a multiple of A's; `learning_rate` is their geometric mean
    (LoRA+, arXiv 2402.12354)"""
    steps: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    training: TrainingName = "plain"
    """plain, with a price on the numbers' entropy, with learned bit widths, signs alone, or by the
    task's score of generated answers to train examples instead of a loss (evolution strategy)"""
    nats_per_kbit: float | None = Field(default=None, gt=0)
    """price of a thousand bits in nats of training loss"""
    population: Annotated[int | None, Field(ge=2, le=1024, multiple_of=2)] = None
    """for `reward`: members of a generation, in pairs; null: by the number of trained numbers"""
    spread: Annotated[float, Field(gt=0, le=100)] = 1.0
    """for `reward`: how far a member is from the middle, as a multiple of a generation's step"""
    step: float = Field(default=FINEST_STEP, gt=0)
    """quantisation step in units of the numbers' own size"""
    keep: float = Field(default=1.0, gt=0, le=1)
    """fraction of the rank components that are kept"""
    start: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")
    """id of the candidate that training continues from; null starts afresh"""
    given: str | None = Field(default=None, pattern="^[0-9a-f]{16}$")
    """digest of the folder that its numbers come from; null for one that is trained"""

    @property
    def traits(self) -> Method:
        """Return the method of this adapter."""
        return METHODS[self.method]

    def num_pairs(self, num_numbers: int) -> int:
        """Return the pairs of a generation of training by reward, for this many trained numbers.

        By default half of the population that CMA-ES takes (Hansen 2016, arXiv 1604.00772).
        """
        usual = 4 + int(3 * math.log(max(1, num_numbers)))
        return (self.population or usual + usual % 2) // 2

    @property
    def num_soft(self) -> int:
        """Return the number of vectors that stand before the text."""
        return (self.size or 0) if self.traits.place == "text" else 0

    def targets(self, name: str) -> bool:
        """Return whether PEFT would adapt the base model's module of this name."""
        if name in (self.target_modules or ()):
            return True
        layer = re.search(r"\.(\d+)\.", name)
        inside = self.layers is None or (layer is not None and int(layer[1]) in self.layers)
        return inside and any(is_called(name, target) for target in self.target_modules or ())

    @model_validator(mode="after")
    def _two_factors_for_two_rates(self) -> Self:
        if self.ratio != 1 and not self.traits.seeded_start:
            raise ValueError(f"{self.method} has no ratio: it does not train factors A and B")
        return self

    @model_validator(mode="after")
    def _fields_of_the_training(self) -> Self:
        if self.training == "reward":
            if self.ratio != 1:
                raise ValueError("training `reward` has no ratio: all numbers move equally far")
        elif (self.population, self.spread) != (None, 1.0):
            raise ValueError("population and spread belong to training `reward`")
        return self

    @model_validator(mode="after")
    def _trained_or_given(self) -> Self:
        if (self.steps == 0) != (self.given is not None):
            raise ValueError("an adapter is trained for 1 step or more unless it is a given one")
        if self.given is not None and (self.traits.examples or self.start or self.relative):
            raise ValueError("a given adapter has no training examples, start or relative rate")
        return self

    @model_validator(mode="after")
    def _fields_of_the_method(self) -> Self:
        given = {name for name in SHAPE_FIELDS if getattr(self, name) is not None}
        has = {*self.traits.fields}
        missing, ignored = has - given - {"layers"}, given - has
        if missing:
            raise ValueError(f"{self.method} needs {', '.join(sorted(missing))}")
        if ignored:
            raise ValueError(f"{self.method} has no {', '.join(sorted(ignored))}")
        if (self.training in PRICED) != (self.nats_per_kbit is not None):
            raise ValueError(
                "nats_per_kbit belongs to training `rate` and `bits`, and they need it"
            )
        if self.traits.examples:
            if (self.step, self.keep) != (FINEST_STEP, 1.0):
                raise ValueError("data has no step and no keep: its payload holds no numbers")
            if self.training != "plain":
                raise ValueError(f"data has no training {self.training!r}: it has its own rule")
            if self.relative:
                raise ValueError("data has no relative learning rate: its steps are of equal size")
            if self.start is not None:
                raise ValueError("data has no start: its program learns from its examples alone")
            if (self.size or 0) > self.steps * self.batch_size:
                raise ValueError(
                    f"data: {self.steps} steps of {self.batch_size} do not reach {self.size} "
                    "examples"
                )
        return self


def peft_config(spec: AdapterSpec) -> tuple[str, dict[str, Any]] | None:
    """Return the name of PEFT's configuration class and its arguments, None if it builds nothing.

    Fixed projections come from PEFT's default seeds, so no seed has to be stored.
    """
    method = spec.traits
    if method.config is None:
        return None
    values = {argument: getattr(spec, name) for name, argument in method.arguments.items()}
    given = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v is not None}
    return method.config, given | method.more(spec)
