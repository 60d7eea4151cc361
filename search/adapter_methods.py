"""Adapters: their settings, their training, and the PEFT configuration that builds them.

`METHODS` lists for each method which of the fields `rank`, `size`, `target_modules`, `layers` and
`tokens` it has. A field that a method does not have is an error, never silently dropped.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from kilobit.search.settings import Config

MethodName = Literal[
    "lora",
    "lora_fa",
    "lora_xs",
    "vera",
    "tinylora",
    "unilora",
    "fourierft",
    "ia3",
    "ln_tuning",
    "trainable_tokens",
    "soft_prompt",
    "weights",
    "data",
]
# Quantisation step of an adapter as trained; a rate search makes coarser codings of it.
FINEST_STEP = 0.125
TrainingName = Literal["plain", "rate", "bits"]
# LoRA's alpha as a multiple of its rank.
LORA_SCALING = 2


@dataclass(frozen=True)
class Method:
    """Fields of a method and the coding of its numbers.

    Attributes:
        about: one line for the reference.
        source: where it was published.
        needs: fields that it must have.
        may: fields that it may have besides.
        delta: its numbers are written as differences from their initial values, which a program can
            rebuild; otherwise as they are.
    """

    about: str
    source: str
    needs: frozenset[str]
    may: frozenset[str] = frozenset()
    delta: bool = False


def _method(about: str, source: str, needs: str, may: str = "", *, delta: bool = False) -> Method:
    return Method(about, source, frozenset(needs.split()), frozenset(may.split()), delta)


METHODS: dict[str, Method] = {
    "lora": _method("low-rank updates B A", "arXiv 2106.09685", "rank target_modules", "layers"),
    "lora_fa": _method(
        "low-rank updates B A with A drawn from a seed and not trained",
        "arXiv 2308.03303",
        "rank target_modules",
        "layers",
    ),
    "lora_xs": _method(
        "rank x rank numbers between the SVD factors of the base weight",
        "arXiv 2405.17604",
        "rank target_modules",
        "layers",
    ),
    "vera": _method(
        "two vectors around fixed random matrices",
        "arXiv 2310.11454",
        "rank target_modules",
        "layers",
        delta=True,
    ),
    "tinylora": _method(
        "`size` numbers in all, spread over SVD factors by fixed random matrices",
        "arXiv 2602.04118",
        "size target_modules",
        "layers",
    ),
    "unilora": _method(
        "`size` numbers in all, spread over all LoRA matrices by a fixed projection",
        "arXiv 2506.00799",
        "size target_modules",
        "layers",
    ),
    "fourierft": _method(
        "`size` Fourier coefficients of each update, at fixed random positions",
        "arXiv 2405.03003",
        "size target_modules",
        "layers",
    ),
    "ia3": _method(
        "a factor for each output of a module", "arXiv 2205.05638", "target_modules", delta=True
    ),
    "ln_tuning": _method(
        "the weights of normalisation layers", "arXiv 2312.11420", "target_modules", delta=True
    ),
    "trainable_tokens": _method(
        "the embeddings of a few tokens", "PEFT's trainable tokens", "tokens", delta=True
    ),
    "soft_prompt": _method("`size` vectors before the text", "arXiv 2104.08691", "size"),
    "weights": _method(
        "weights themselves: the parameters whose names contain one of `target_modules`",
        "full fine-tuning",
        "target_modules",
        delta=True,
    ),
    "data": _method(
        "`size` training examples, coded by the model while a LoRA learns from them",
        "prequential coding, Dawid 1984",
        "rank size target_modules",
        "layers",
    ),
}
assert MethodName.__args__ == tuple(METHODS)  # type: ignore[attr-defined]
_SHAPE_FIELDS = ("rank", "size", "target_modules", "layers", "tokens")


class AdapterSpec(Config):
    """Settings of an adapter: its shape, its training, and the coarseness of its coding."""

    method: MethodName
    rank: Annotated[int | None, Field(ge=1)] = None
    size: Annotated[int | None, Field(ge=1)] = None
    target_modules: Annotated[tuple[str, ...] | None, Field(min_length=1)] = None
    layers: Annotated[tuple[int, ...] | None, Field(min_length=1)] = None
    tokens: Annotated[tuple[int, ...] | None, Field(min_length=1)] = None
    learning_rate: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    training: Annotated[
        TrainingName,
        Field(
            description="plain, with a price on the numbers' entropy, or with learned bit widths"
        ),
    ] = "plain"
    nats_per_kbit: Annotated[
        float | None, Field(gt=0, description="price of a thousand bits in nats of training loss")
    ] = None
    step: Annotated[
        float, Field(gt=0, description="quantisation step in units of the numbers' own size")
    ] = FINEST_STEP
    keep: Annotated[
        float, Field(gt=0, le=1, description="fraction of the rank components that are kept")
    ] = 1.0
    start: Annotated[
        str | None,
        Field(
            pattern="^[0-9a-f]{16}$",
            description="id of the candidate that training continues from; null starts afresh",
        ),
    ] = None

    @model_validator(mode="after")
    def _fields_of_the_method(self) -> Self:
        method = METHODS[self.method]
        given = {name for name in _SHAPE_FIELDS if getattr(self, name) is not None}
        missing, ignored = method.needs - given, given - method.needs - method.may
        if missing:
            raise ValueError(f"{self.method} needs {', '.join(sorted(missing))}")
        if ignored:
            raise ValueError(f"{self.method} has no {', '.join(sorted(ignored))}")
        if (self.training == "plain") != (self.nats_per_kbit is None):
            raise ValueError(
                "nats_per_kbit belongs to training `rate` and `bits`, and they need it"
            )
        if self.method == "data":
            if (self.step, self.keep) != (FINEST_STEP, 1.0):
                raise ValueError("data has no step and no keep: its payload holds no numbers")
            if self.training != "plain":
                raise ValueError(f"data has no training {self.training!r}: it has its own rule")
            if self.start is not None:
                raise ValueError("data has no start: its program learns from its examples alone")
            if (self.size or 0) > self.steps * self.batch_size:
                raise ValueError(
                    f"data: {self.steps} steps of {self.batch_size} do not reach {self.size} "
                    "examples"
                )
        return self


# For each method: PEFT's configuration class, its argument names for `rank`, `size` and `tokens`,
# and its fixed arguments. `weights` has none.
_PEFT: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "lora": ("LoraConfig", {"rank": "r"}, {}),
    "lora_fa": ("LoraConfig", {"rank": "r"}, {}),
    "lora_xs": ("TinyLoraConfig", {"rank": "r"}, {}),
    "vera": ("VeraConfig", {"rank": "r"}, {}),
    "tinylora": ("TinyLoraConfig", {"size": "u"}, {"weight_tying": 1.0}),
    "unilora": ("UniLoraConfig", {"size": "theta_d_length"}, {}),
    "fourierft": ("FourierFTConfig", {"size": "n_frequency"}, {}),
    "ia3": ("IA3Config", {}, {"feedforward_modules": []}),
    "ln_tuning": ("LNTuningConfig", {}, {}),
    "trainable_tokens": ("TrainableTokensConfig", {"tokens": "token_indices"}, {}),
    "soft_prompt": (
        "PromptTuningConfig",
        {"size": "num_virtual_tokens"},
        {"task_type": "CAUSAL_LM"},
    ),
    # Leave out alpha: PEFT's default makes the script shorter, and the learning rate compensates.
    "data": ("LoraConfig", {"rank": "r"}, {}),
}


def peft_config(spec: AdapterSpec) -> tuple[str, dict[str, Any]] | None:
    """Return the name of PEFT's configuration class and its arguments, None for `weights`.

    Fixed projections come from PEFT's default seeds, so no seed has to be stored.
    """
    if spec.method not in _PEFT:
        return None
    config, names, fixed = _PEFT[spec.method]
    names = names | {"target_modules": "target_modules", "layers": "layers_to_transform"}
    arguments = dict(fixed)
    for field, name in names.items():
        value = getattr(spec, field)
        if value is not None:
            arguments[name] = list(value) if isinstance(value, tuple) else value
    if spec.method in ("lora", "lora_fa"):
        arguments["lora_alpha"] = LORA_SCALING * arguments["r"]
    if spec.method == "lora_xs":
        arguments["u"] = arguments["r"] ** 2
    return config, arguments
