"""One recipe of every kind, with the lengths and numbers that real programs have."""

from typing import Any

from kilobit.search.adapter_methods import METHODS, AdapterSpec, peft_config
from kilobit.search.programs.numbers import NumbersCode
from kilobit.search.programs.postprocess import RULE
from kilobit.search.programs.program import WAYS
from kilobit.search.programs.recipe import (
    AdapterPart,
    GenerationPart,
    PrintedPart,
    PromptPart,
    Recipe,
    noise_part,
)
from kilobit.search.programs.text import CODECS
from kilobit.search.programs.token_coder import CACHES, Cache

# Small adapters on the llama model of the tests; the golden scripts are made from them.
SHAPES: dict[str, dict[str, Any]] = {
    "lora": {"rank": 2, "target_modules": ("q_proj", "down_proj")},
    "lora_fa": {"rank": 2, "target_modules": ("q_proj",)},
    "lora_xs": {"rank": 3, "target_modules": ("q_proj", "v_proj")},
    "vera": {"rank": 4, "target_modules": ("q_proj",)},
    "tinylora": {"size": 13, "target_modules": ("q_proj", "v_proj")},
    "unilora": {"size": 20, "target_modules": ("q_proj",)},
    "fourierft": {"size": 20, "target_modules": ("q_proj",)},
    "ia3": {"target_modules": ("k_proj", "down_proj")},
    "steering": {"target_modules": ("v_proj",), "layers": (1,)},
    "coordinates": {"size": 10, "target_modules": ("q_proj", "down_proj"), "draws": (3, 11)},
    "seeds": {"rank": 2, "target_modules": ("v_proj", "down_proj"), "draws": (0, 7, 41)},
    "ln_tuning": {"target_modules": ("input_layernorm",)},
    "trainable_tokens": {"tokens": (28, 51)},
    "soft_prompt": {"size": 3},
    "weights": {"target_modules": ("down_proj",)},
}

_SMALL = {"rank": 2, "size": 20, "target_modules": ("q_proj", "down_proj"), "tokens": (28, 51)}
# The methods whose payload holds numbers; that of `data` holds examples.
NUMBER_METHODS = tuple(name for name, method in METHODS.items() if not method.examples)


def adapter_spec(method: str, **changes: Any) -> AdapterSpec:
    """Return a small adapter of a method; one that is not listed above has the usual shape."""
    usual = {name: _SMALL[name] for name in METHODS[method].fields if name in _SMALL}
    training = {"learning_rate": 0.02, "steps": 6, "batch_size": 2, "seed": 7, "step": 0.25}
    return AdapterSpec.model_validate(
        {"method": method, **SHAPES.get(method, usual), **training, **changes}
    )


PACKED = NumbersCode(coder="packed")
REPLAY = NumbersCode(coder="replay", signs=96)
STEPS = ("cut:.", "last_number", r"find:(\d+)", "round:2", "lower")
BARE = Recipe(question="Q: {input}\nA:", batch_size=64, max_new_tokens=12, stop=("\n",))


def with_prompt(recipe: Recipe, codec: str, num_bytes: int = 40) -> Recipe:
    model = codec == "model"
    part = PromptPart.model_validate(
        {"codec": codec, "num_bytes": num_bytes, "head": "2a9c0117" if model else None}
    )
    return recipe.model_copy(update={"prompt": part, "start_token": 1 if model else None})


def with_cache(recipe: Recipe, cache: Cache) -> Recipe:
    assert recipe.prompt is not None
    part = recipe.prompt.model_copy(update={"cache": cache})
    return recipe.model_copy(update={"prompt": part})


def with_adapter(recipe: Recipe, method: str, numbers: NumbersCode = PACKED) -> Recipe:
    spec = adapter_spec(method)
    config = peft_config(spec)
    part = AdapterPart(
        method=spec.method,
        config=config[0] if config else None,
        arguments=config[1] if config else {},
        targets=() if config or noise_part(spec) else spec.target_modules or (),
        noise=noise_part(spec),
        shapes=((2, 32), (2, 48)),
        numbers=numbers,
        delta=METHODS[method].delta,
        factor_sum=12.5 if method in ("lora_xs", "tinylora") else None,
    )
    return recipe.model_copy(update={"adapter": part})


def from_its_start(way: NumbersCode, steps: str = "factor") -> Recipe:
    """Return the recipe of a LoRA whose numbers are differences from its seeded start."""
    recipe = with_adapter(BARE, "lora", way.model_copy(update={"steps": steps}))
    assert recipe.adapter is not None
    part = recipe.adapter.model_copy(update={"delta": True, "seed": 1234567890123456789})
    return recipe.model_copy(update={"adapter": part})


RECIPES = {
    "nothing": BARE,
    **{f"prompt {codec}": with_prompt(BARE, codec) for codec in (*CODECS, "model")},
    **{method: with_adapter(BARE, method) for method in NUMBER_METHODS},
    **{f"lora {w.coder} {w.scales}": with_adapter(BARE, "lora", w) for w in WAYS[1:]},
    "learned steps": with_adapter(BARE, "lora", WAYS[2].model_copy(update={"steps": "tensor"})),
    "lora from its start": from_its_start(WAYS[4]),
    "lora from its start packed": from_its_start(WAYS[0]),
    "lora replayed": from_its_start(REPLAY, "one"),
    "tinylora replayed": with_adapter(BARE, "tinylora", REPLAY),
    "prompt by index": BARE.model_copy(
        update={
            "prompt": PromptPart(codec="index", num_bytes=4, lead="Number:\n", answer=" {target}\n")
        }
    ),
    "prompt and lora": with_adapter(with_prompt(BARE, "brotli"), "lora", WAYS[1]),
    "model prompt and lora": with_adapter(with_prompt(BARE, "model"), "lora", WAYS[2]),
    **{
        f"prompt model, {cache}": with_cache(with_prompt(BARE, "model"), cache)
        for cache in ("none", *CACHES)
    },
    "cached model prompt and lora": with_adapter(
        with_cache(with_prompt(BARE, "model"), "past_key_values"), "lora", WAYS[2]
    ),
    "chat": with_prompt(BARE, "stored").model_copy(update={"chat": True}),
    "chat in turns": with_prompt(BARE, "stored").model_copy(update={"chat": True, "turns": "\n\n"}),
    "chat in turns by index": BARE.model_copy(
        update={
            "chat": True,
            "turns": "\n\n",
            "prompt": PromptPart(codec="index", num_bytes=4, lead="Number:\n", answer="{target}"),
        }
    ),
    "steps by the first rule": BARE.model_copy(update={"postprocess": STEPS}),
    "steps": BARE.model_copy(update={"postprocess": STEPS, "steps_rule": RULE}),
    "constant": BARE.model_copy(update={"printed": PrintedPart(what="text", text=" it's")}),
    "constant in the payload": with_prompt(BARE, "stored").model_copy(
        update={"printed": PrintedPart(what="prompt")}
    ),
    "copy": BARE.model_copy(update={"printed": PrintedPart(what="input")}),
    "no special tokens": BARE.model_copy(update={"special_tokens": False, "pad_with_end": True}),
    "chat on a day": with_prompt(BARE, "stored").model_copy(
        update={"chat": True, "today": "31 January 2026"}
    ),
    "options of generation": BARE.model_copy(
        update={"generation": GenerationPart(end_tokens=(0, 9), pad_token=2)}
    ),
    "bfloat16 on a gpu": with_adapter(
        BARE.model_copy(update={"dtype": "bfloat16", "device": "cuda"}), "lora"
    ),
    "nf4": BARE.model_copy(update={"quantization": "nf4"}),
    "int8 and factors": with_adapter(BARE.model_copy(update={"quantization": "int8"}), "lora_xs"),
    "nf4 in bfloat16 on a gpu": BARE.model_copy(
        update={"quantization": "nf4", "dtype": "bfloat16", "device": "cuda"}
    ),
}
