"""One recipe of every kind, with the lengths and numbers that real programs have."""

from search.adapter import METHODS, peft_config
from search.programs.numbers import NumbersCode
from search.programs.program import WAYS
from search.programs.recipe import AdapterPart, PromptPart, Recipe
from search.programs.text import CODECS
from tests.conftest import NUMBER_METHODS, adapter_spec

PACKED = NumbersCode(coder="packed")
BARE = Recipe(question="Q: {input}\nA:", batch_size=64, max_new_tokens=12, stop=("\n",))


def with_prompt(recipe: Recipe, codec: str, num_bytes: int = 40) -> Recipe:
    model = codec == "model"
    part = PromptPart.model_validate(
        {"codec": codec, "num_bytes": num_bytes, "head": "2a9c0117" if model else None}
    )
    return recipe.model_copy(update={"prompt": part, "start_token": 1 if model else None})


def with_adapter(recipe: Recipe, method: str, numbers: NumbersCode = PACKED) -> Recipe:
    spec = adapter_spec(method)
    config = peft_config(spec)
    part = AdapterPart(
        method=spec.method,
        config=config[0] if config else None,
        arguments=config[1] if config else {},
        targets=() if config else spec.target_modules or (),
        shapes=((2, 32), (2, 48)),
        numbers=numbers,
        delta=METHODS[method].delta,
        factor_sum=12.5 if method in ("lora_xs", "tinylora") else None,
    )
    return recipe.model_copy(update={"adapter": part})


RECIPES = {
    "nothing": BARE,
    **{f"prompt {codec}": with_prompt(BARE, codec) for codec in (*CODECS, "model")},
    **{method: with_adapter(BARE, method) for method in NUMBER_METHODS},
    **{f"lora {w.coder} {w.scales}": with_adapter(BARE, "lora", w) for w in WAYS[1:]},
    "prompt and lora": with_adapter(with_prompt(BARE, "brotli"), "lora", WAYS[1]),
    "model prompt and lora": with_adapter(with_prompt(BARE, "model"), "lora", WAYS[2]),
    "chat": with_prompt(BARE, "stored").model_copy(update={"chat": True}),
    "steps": BARE.model_copy(
        update={"postprocess": ("cut:.", "last_number", r"find:(\d+)", "round:2", "lower")}
    ),
    "no special tokens": BARE.model_copy(update={"special_tokens": False, "pad_with_end": True}),
    "bfloat16 on a gpu": with_adapter(
        BARE.model_copy(update={"dtype": "bfloat16", "device": "cuda"}), "lora"
    ),
}
