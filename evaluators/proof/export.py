"""Export of a program's adapter in PEFT's format, with the prompt in its model card.

`PeftModel.from_pretrained` loads it. The card lists what PEFT's format can't express
(post-processing, limits, stop strings). LoRA-XS is a special case of TinyLoRA and is written as
one, with its projections.
"""

from pathlib import Path
from typing import Any

from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.text_codec import decode_text
from kilobit.evaluators.proof.program_files import ProgramError, read_folder
from kilobit.search.adapter_methods import METHODS, AdapterSpec, peft_config
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.program import Decoded, Program, decode
from kilobit.search.programs.recipe import AdapterPart, Recipe

# Least upper limit of a rank: some methods allow ranks above the sides of the weights.
_LARGEST_RANK = 4096


def export_peft(program_folder: Place, target: Path, model: Path) -> None:
    """Write the adapter of a program as a folder that PEFT loads.

    Args:
        program_folder: folder with program.py, payload.bin and manifest.json.
        target: a new or empty folder.
        model: folder of the base model.

    Raises:
        ProgramError, PayloadError: if the folder holds no valid program.
        ValueError: if it has no adapter, or one that PEFT has no format for, or the model is not
            the one that it belongs to.
    """
    program, manifest, _ = read_folder(program_folder)
    part = program.recipe.adapter
    if part is None or part.config is None:
        kind = "no adapter" if part is None else f"weights ({part.method})"
        kind = "examples instead of numbers" if program.recipe.data else kind
        raise ValueError(
            f"{program_folder}: the program has {kind}: there is nothing to export to PEFT"
        )
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"--peft: {target} is not empty")
    frozen = load_frozen(model, program)
    expected = manifest.get("base_digest")
    if not frozen.was_recorded_as(expected):
        raise ValueError(
            f"--model: {model} has the digest {frozen.machine}, the program needs {expected}"
        )
    spec = spec_of(part)
    _check_size(spec, frozen)
    with installed(frozen, spec, part.seed) as adapter:
        # Check before decoding, because decoding allocates as many numbers as the shapes say.
        if adapter.part(part.numbers).shapes != part.shapes:
            raise ProgramError(
                f"{program_folder}: the recipe's shapes do not match those of its {part.config}"
            )
        prompt = program.recipe.prompt
        decoded = decode(
            program.recipe,
            program.payload,
            lambda section: decode_text(frozen, section, prompt.cache if prompt else None),
        )
        adapter.assign(decoded.tensors, decoded.delta)
        # The fixed factors are saved with their signs, so that PEFT need not compute them again.
        adapter.model.save_pretrained(target)
    write_whole(target / "README.md", _card(program, decoded, manifest).encode())


def load_frozen(model: Path, program: Program) -> FrozenModel:
    """Return the base model of a program as program.py loads it.

    Raises:
        ValueError: if it can't be loaded.
    """
    if not model.is_dir():
        raise ValueError(f"--model: there is no folder {model}")
    config = BaseModelConfig(
        regime="any",
        path=model.absolute(),
        dtype=program.recipe.dtype,
        quantization=program.recipe.quantization,
        device="cpu",
    )
    try:
        return load(config, Path())
    except Exception as error:  # transformers raises many types here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"--model: {model} can't be loaded: {reason}") from error


def spec_of(part: AdapterPart) -> AdapterSpec:
    """Return a spec that builds the adapter of a recipe, with placeholders for its training.

    Raises:
        ProgramError: if this version writes no such adapter.
    """
    shape = METHODS[part.method].fields_of(part.arguments)
    try:
        spec = AdapterSpec(
            method=part.method, learning_rate=1.0, steps=1, batch_size=1, seed=0, **shape
        )
        ours = peft_config(spec) == (part.config, part.arguments)
    except ValueError:
        ours = False
    if not ours:
        raise ProgramError(f"the recipe's {part.config} is not one that this version writes")
    return spec


def _check_size(spec: AdapterSpec, frozen: FrozenModel) -> None:
    """Raise ProgramError if an adapter is larger than any valid one, before allocating it."""
    weights = list(frozen.model.parameters())
    most_rank = max(_LARGEST_RANK, *(max(weight.shape, default=0) for weight in weights))
    most = {"rank": most_rank, "size": sum(weight.numel() for weight in weights)}
    for name, limit in most.items():
        value = getattr(spec, name)
        if value is not None and value > limit:
            raise ProgramError(f"the recipe's {name} {value} is more than {limit}")


def _chat(recipe: Recipe) -> str:
    """Return how the chat template is used, as text."""
    turns = f"; {recipe.turns!r} is between the turns of the text before it"
    return (" in the chat template" + (turns if recipe.turns else "")) if recipe.chat else ""


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
            f"- question: `{recipe.question!r}`{_chat(recipe)}",
            f"- at most {recipe.max_new_tokens} new tokens, stop at {list(recipe.stop)!r}, greedy",
            f"- steps on the output: {', '.join(recipe.postprocess) or 'none'}",
            "",
        ]
    )
