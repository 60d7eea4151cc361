"""A program's adapter in PEFT's own format, with the prompt in its model card.

Others load it by `PeftModel.from_pretrained`. What PEFT's format can't say (post-processing,
limits, stop strings) stands in the card. LoRA-XS becomes the TinyLoRA of which it is a special
case, its projections saved.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.adapters import installed
from cluster.frozen import Frozen, weights_digest
from cluster.program_files import read_folder
from cluster.token_logits import decode_text
from evaluators.ledger import write_whole
from search.adapter import AdapterSpec, peft_config
from search.programs.program import Decoded, Program, decode
from search.programs.recipe import AdapterPart


def export_peft(program_folder: Path, target: Path, model: Path) -> None:
    """Write the adapter of a program as a folder that PEFT loads.

    Args:
        program_folder: program.py, payload.bin and manifest.json.
        target: a new or empty folder.
        model: the base model.

    Raises:
        ProgramError, PayloadError: if there is no sound program.
        ValueError: if it has no adapter, or one that PEFT has no format for, or the model is not
            the one that it belongs to.
    """
    program, manifest, _ = read_folder(program_folder)
    part = program.recipe.adapter
    if part is None or part.config is None:
        kind = "no adapter" if part is None else f"weights ({part.method})"
        kind = "examples instead of numbers" if program.recipe.data else kind
        raise ValueError(f"{program_folder}: the program has {kind}: there is nothing for PEFT")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"--peft: {target} is not empty")
    frozen = load_frozen(model, program)
    expected = manifest.get("base_digest")
    if expected is not None and expected != frozen.digest:
        raise ValueError(f"--model: {model} has the digest {frozen.digest}, the program {expected}")
    decoded = decode(program.recipe, program.payload, lambda section: decode_text(frozen, section))
    with installed(frozen, spec_of(part)) as adapter:
        adapter.assign(decoded.tensors)
        # The frozen factors go with it, signs fixed, so that PEFT need not find them again.
        adapter.model.save_pretrained(target)
    write_whole(target / "README.md", _card(program, decoded, manifest).encode())


def load_frozen(model: Path, program: Program) -> Frozen:
    """Return the base model of a program as program.py loads it.

    Raises:
        OSError, ValueError: if it can't be loaded.
    """
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(
        model,
        dtype=getattr(torch, program.recipe.dtype),
        use_safetensors=True,
        trust_remote_code=False,
    )
    loaded.eval().requires_grad_(False)
    context = getattr(loaded.config, "max_position_embeddings", None)
    recipe = program.recipe
    digest = weights_digest(loaded)
    return Frozen(
        loaded, tokenizer, digest, 0.0, context, recipe.special_tokens, recipe.pad_with_end
    )


def spec_of(part: AdapterPart) -> AdapterSpec:
    """Return a spec that builds the adapter of a recipe; how it was trained it does not say."""
    arguments = part.arguments
    shape: dict[str, Any] = {}
    if part.method in ("lora", "lora_fa", "lora_xs", "vera"):
        shape["rank"] = arguments["r"]
    sizes = ("u", "theta_d_length", "n_frequency", "num_virtual_tokens")
    if part.method in ("tinylora", "unilora", "fourierft", "soft_prompt"):
        shape["size"] = next(arguments[name] for name in sizes if name in arguments)
    if "token_indices" in arguments:
        shape["tokens"] = tuple(arguments["token_indices"])
    if arguments.get("target_modules"):
        shape["target_modules"] = tuple(arguments["target_modules"])
    if "layers_to_transform" in arguments:
        shape["layers"] = tuple(arguments["layers_to_transform"])
    spec = AdapterSpec(
        method=part.method, learning_rate=1.0, steps=1, batch_size=1, seed=0, **shape
    )
    if peft_config(spec) != (part.config, part.arguments):
        raise ValueError(f"the recipe's {part.config} is not one that this version writes")
    return spec


def _card(program: Program, decoded: Decoded, manifest: dict[str, Any]) -> str:
    recipe = program.recipe
    fence = "````"
    return "\n".join(
        [
            "---",
            "library_name: peft",
            "---",
            f"# A program of {program.program_bits} bits as a PEFT adapter",
            "",
            f"Task `{manifest.get('task')}`, base model `{manifest.get('model')}`, score "
            f"{manifest.get('score')} on the {manifest.get('split')} split. The numbers are "
            f"those of a payload of {program.payload_bits} bits.",
            "",
            "The text before the question:",
            "",
            fence,
            decoded.prompt,
            fence,
            "",
            f"- question: `{recipe.question!r}`" + (" in the chat template" if recipe.chat else ""),
            f"- at most {recipe.max_new_tokens} new tokens, stop at {list(recipe.stop)!r}, greedy",
            f"- steps on the output: {', '.join(recipe.postprocess) or 'none'}",
            "",
        ]
    )
