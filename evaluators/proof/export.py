"""A program as a model to call, and its adapter in PEFT's format with the prompt in its card.

`PeftModel.from_pretrained` loads it. The card lists what PEFT's format can't express
(post-processing, limits, stop strings). LoRA-XS is a special case of TinyLoRA and is written as
one, with its projections.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.evaluators.model.adapters import install
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.generate import asked
from kilobit.evaluators.model.program_builder import shown_examples
from kilobit.evaluators.model.text_codec import decode_text
from kilobit.evaluators.proof.program_files import ProgramError, read_folder, read_train
from kilobit.evaluators.text_files import json_lines
from kilobit.search.adapter_methods import METHODS, AdapterSpec, peft_config
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.program import Program, decode
from kilobit.search.programs.program import decode_text as decode_prompt
from kilobit.search.programs.recipe import AdapterPart, Recipe
from kilobit.search.settings import reason_of
from kilobit.search.task import offered

# Least upper limit of a rank: some methods allow ranks above the sides of the weights.
_LARGEST_RANK = 4096


@dataclass(frozen=True)
class LoadedProgram:
    """A program as a model to call from other code.

    Attributes:
        model: the base model, as a PEFT model where the program has an adapter of PEFT's.
        tokenizer: the base model's tokenizer.
        prompt: the text before the question, without the chat template.
        recipe: the question's template, stop strings, limits and steps on the output.
    """

    model: Any
    tokenizer: Any
    prompt: str
    recipe: Recipe
    _frozen: FrozenModel

    def ask(self, text: str) -> str:
        """Return all of the text that the model continues for an input, as program.py makes it."""
        recipe, (question, _) = self.recipe, offered(text)
        return asked(
            self._frozen, recipe.chat, recipe.question, question, self.prompt, recipe.turns
        )


def load_program(program_folder: Place, model: Path, *, argument: str = "model") -> LoadedProgram:
    """Return the program of a folder as a model, a tokenizer and a prompt.

    Nothing of the folder is executed: its payload is decoded, and the numbers are put into an
    adapter that this version builds.

    Args:
        program_folder: folder with program.py, payload.bin and manifest.json.
        model: folder of the base model.
        argument: what messages call `model`.

    Raises:
        ProgramError, PayloadError: if the folder holds no valid program.
        ValueError: if it has training examples or trained weights instead of an adapter, or the
            model is not the one that it belongs to.
    """
    program, manifest, _ = read_folder(program_folder)
    recipe, part = program.recipe, program.recipe.adapter
    if recipe.data is not None or (part is not None and part.config is None):
        kind = "training examples" if recipe.data else "trained weights"
        raise ValueError(
            f"{program_folder}: the program has {kind} instead of an adapter: run its program.py"
        )
    frozen = load_frozen(model, program, argument)
    expected = manifest.get("base_digest")
    if not frozen.was_recorded_as(expected):
        raise ValueError(
            f"{argument}: {model} has the digest {frozen.machine}, the program needs {expected}"
        )

    def text_of(section: bytes) -> str:
        prompt = recipe.prompt
        if prompt is not None and prompt.codec == "index":
            return shown_examples(recipe, section, _train(program_folder))
        return decode_text(frozen, section, prompt.cache if prompt else None)

    # The bare model coded the text, so it is decoded before there is an adapter.
    prompt = decode_prompt(recipe, program.payload, text_of)
    loaded = frozen.model
    if part is not None:
        spec = spec_of(part)
        _check_size(spec, frozen)
        adapter = install(frozen, spec, part.seed)
        # Check before decoding, because decoding allocates as many numbers as the shapes say.
        if adapter.part(part.numbers).shapes != part.shapes:
            raise ProgramError(
                f"{program_folder}: the recipe's shapes do not match those of its {part.config}"
            )
        decoded = decode(recipe, program.payload, lambda _: prompt)
        adapter.assign(decoded.tensors, decoded.delta)
        loaded = adapter.model
    return LoadedProgram(loaded.eval(), frozen.tokenizer, prompt, recipe, frozen)


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
    loaded = load_program(program_folder, model, argument="--model")
    # The fixed factors are saved with their signs, so that PEFT need not compute them again.
    loaded.model.save_pretrained(target)
    write_whole(target / "README.md", _card(program, loaded.prompt, manifest).encode())


def load_frozen(model: Path, program: Program, argument: str = "--model") -> FrozenModel:
    """Return the base model of a program as program.py loads it.

    Args:
        model: its folder.
        program: says how it is loaded.
        argument: what messages call `model`.

    Raises:
        ValueError: if it can't be loaded.
    """
    if not model.is_dir():
        raise ValueError(f"{argument}: there is no folder {model}")
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
        reason = reason_of(error)
        raise ValueError(f"{argument}: {model} can't be loaded: {reason}") from error


def _train(program_folder: Place) -> list[tuple[str, str]]:
    """Return input and target of each example of the train split beside a program.

    Raises:
        ProgramError: naming file and line, if it can't be read.
    """
    file, found = program_folder / "train.jsonl", list[tuple[str, str]]()
    try:
        for where, pair in json_lines(file, read_train(program_folder)):
            match pair:
                case [str(asks), str(target)]:
                    found.append((asks, target))
                case _:
                    raise ProgramError(f"{where}: not a list of input and target")
    except ValueError as error:
        raise ProgramError(str(error)) from error
    return found


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


def _answering(recipe: Recipe) -> str:
    """Return the line that says how an answer comes about."""
    if recipe.choice is None:
        return (
            f"- at most {recipe.max_new_tokens} new tokens, stop at {list(recipe.stop)!r}, greedy"
        )
    return (
        f"- the answer: of those that an input offers, each after {recipe.choice.delimiter!r}, the "
        f"one with the largest log-probability for each {recipe.choice.per}"
    )


def _chat(recipe: Recipe) -> str:
    """Return how the chat template is used, as text."""
    turns = f"; {recipe.turns!r} is between the turns of the text before it"
    return (" in the chat template" + (turns if recipe.turns else "")) if recipe.chat else ""


def _card(program: Program, prompt: str, manifest: dict[str, Any]) -> str:
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
            prompt,
            fence,
            "",
            f"- question: `{recipe.question!r}`{_chat(recipe)}",
            _answering(recipe),
            f"- steps on the output: {', '.join(recipe.postprocess) or 'none'}",
            "",
        ]
    )
