"""Checks of the base models of a sweep: folders, tokenizers, chat templates, modules, ranks.

A local model is built without memory from its config, so module names, layers and ranks are checked
in a second. Of a hub model that is not on this machine the workers check them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kilobit.cluster.requests import wrong_input
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.sweep.workers import SearchedModel, ShardsConfig
from kilobit.evaluators.given_candidates import GivenFiles
from kilobit.search.adapter_methods import METHODS
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import GIVEN
from kilobit.search.settings import InputError, reason_of, to_copy
from kilobit.search.space import Families, TargetsFamily

Shapes = Mapping[str, tuple[int, ...]]
# Entries of a configuration that don't decide what modules a model has.
_NO_SHAPE = ("_name_or_path", "architectures", "dtype")


def check_models(
    sweep: Sweep, sweep_folder: Path, given: GivenFiles | None = None, *, local: bool = True
) -> tuple[dict[str, Shapes], list[str]]:
    """Check all base models, and that they can have the adapters of `given`.

    Without `local` those that are on this machine are checked.

    Returns:
        The shapes of the models' parameters, and messages about models that could not be checked.

    Raises:
        InputError: if a model can't be used as the sweep says.
    """
    if local:
        check_folders(sweep, sweep_folder)
    shapes, unchecked = {}, []
    checked: dict[str, Shapes] = {}
    for index, config in enumerate(sweep.base_models):
        field = f"base_models.{index}"
        found = _check_model(config, sweep_folder, field, sweep, given, checked, local=local)
        if found is None:
            name = config.hub or config.path
            unchecked.append(f"{name} is not on this machine: its modules and ranks are unknown")
        else:
            shapes[config.label] = found
    return shapes, unchecked


def check_ranks(sweep: Sweep, folder: Path, known: Mapping[str, Shapes]) -> list[str]:
    """Return text about the ranks of each model that is on this machine.

    Raises:
        InputError: if a model can't be placed on the ranks as the sweep says, or does not fit.
    """
    from kilobit.cluster.shards.plan import plan_ranks

    found, settings = [], sweep.workers_by_model
    for config in sweep.base_models:
        if config.label in known:
            shards = settings[config.label].shards
            memory = _rank_memory(shards, config)
            found += [f"{config.label}: {note}" for note in _notes(config, folder)]
            try:
                found += plan_ranks(config, folder, shards, memory).lines(config.label, shards)
            except ValueError as error:
                raise InputError(f"workers.shards: {error}") from error
    return found


def templates_of(
    sweep: Sweep, folder: Path, known: Mapping[str, Shapes], *, dry: bool
) -> tuple[frozenset[str], list[str]]:
    """Return the labels of the models with a chat template, and messages about unknown ones.

    Of a hub model that is not on this machine, the tokenizer is fetched unless this is a dry run.

    Raises:
        InputError: if one has to be known to begin, and is not.
    """
    from kilobit.evaluators.model.base_model import load_tokenizer

    families = sweep.families.named()
    given = sweep.families.given.each().values() if sweep.families.given else ()
    asks = next((name for name, family in families.items() if family.chat is None), None)
    if asks is None and any(one.chat is None for one in given):
        asks = GIVEN
    if asks is None and sweep.families.use_chat:
        return frozenset(), []
    found, unknown = [], []
    for index, config in enumerate(sweep.base_models):
        if config.label not in known and asks is None:
            continue
        whose = f"base_models.{index}: whether {config.hub or config.path} has a chat template"
        if config.label not in known and dry:
            unknown.append(f"{whose} is not known here; the plan is that of a model without one")
            continue
        try:
            if config.label not in known and config.path is not None:
                raise FileNotFoundError(f"there is no folder {folder / config.path}")
            tokenizer, _ = load_tokenizer(config, folder)
        except Exception as error:  # transformers raises many types here
            say = "`chat: [true]` or `chat: [false]` in"
            if asks == GIVEN:
                say = "`chat: true` or `chat: false` for each entry of"
            raise InputError(
                f"{whose} is not known here ({reason_of(error)}): put it on this machine, or say "
                f"{say} families.{asks}"
            ) from error
        if tokenizer.chat_template is not None:
            found.append(config.label)
    return frozenset(found), unknown


def thinking_models(
    sweep: Sweep, folder: Path, known: Mapping[str, Shapes], templates: frozenset[str]
) -> list[str]:
    """Return the labels of the models that think in a chat template that a family uses."""
    from kilobit.evaluators.model.base_model import load_tokenizer
    from kilobit.evaluators.model.generate import chat_template_of

    return [
        config.label
        for config in sweep.base_models
        if config.label in known
        and sweep.families.on(template=config.label in templates).use_chat
        and chat_template_of(load_tokenizer(config, folder)[0], config).mark
    ]


def _notes(config: BaseModelConfig, folder: Path) -> list[str]:
    """Return notes on the files beside the weights."""
    from transformers import AutoConfig

    from kilobit.evaluators.model.base_model import source

    where, options = source(config, folder)
    model_config = AutoConfig.from_pretrained(where, **options)
    if not getattr(model_config, "auto_map", None):
        return []
    return [
        "the code that config.json names in auto_map is ignored; transformers' own model of "
        f"the type {model_config.model_type} is used"
    ]


def _rank_memory(shards: ShardsConfig, config: BaseModelConfig) -> int | None:
    """Return the bytes of a rank's device, None if the sweep does not say and no GPU is here."""
    import torch

    from kilobit.cluster.shards.plan import GIB

    if shards.memory_gib is not None:
        return int(shards.memory_gib * GIB)
    if config.device == "cpu" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)


def _check_model(
    config: SearchedModel,
    folder: Path,
    field: str,
    sweep: Sweep,
    given: GivenFiles | None,
    checked: dict[str, Shapes],
    *,
    local: bool,
) -> Shapes | None:
    """Check one base model and return its shapes, None if it is not on this machine.

    What the modules of a model allow is checked once for all models of one configuration; `checked`
    has those that were, with their shapes.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    from kilobit.evaluators.model.base_model import check_source, load_tokenizer, source
    from kilobit.evaluators.model.machine import fresh_generation

    transformers_logging.set_verbosity_error()
    here = _is_cached(config) if config.path is None else (folder / config.path).is_dir()
    if not here:
        return None
    if local and config.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"{field}.device: {config.device} is asked for, this machine has no GPU")
    where, options = source(config, folder)
    try:
        own = check_source(where, options)
        model_config = AutoConfig.from_pretrained(where, **options)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model_config)
        own = model.generation_config if config.weights == "random" else own
    except Exception as error:  # transformers raises many types here
        raise InputError(f"{field}: {where} can't be loaded: {reason_of(error)}") from error
    try:
        tokenizer, _ = load_tokenizer(config, folder)
        fresh_generation(own, tokenizer, model_config.get_text_config().vocab_size)
    except Exception as error:  # transformers raises many types here too
        raise InputError(f"{field}: no usable tokenizer in {where}: {reason_of(error)}") from error
    families = sweep.families.on(template=tokenizer.chat_template is not None)
    if tokenizer.chat_template is None:
        drawn = {name: True in family.chats for name, family in families.named().items()}
        entries = families.given.each() if families.given else {}
        in_chat = drawn | {f"given.{place}": one.chat for place, one in entries.items()}
        for name in (name for name, chat in in_chat.items() if chat):
            raise InputError(f"families.{name}.chat: the tokenizer of {where} has no chat template")
    _check_thinking(config, tokenizer, field, families)
    _check_turns(config, tokenizer, where, families)
    told = {k: v for k, v in model_config.to_dict().items() if k not in _NO_SHAPE}
    split = sweep.workers.over(config.workers).shards.are_split
    if config.quantization is not None:
        _check_quantised(config, sweep, model, f"{field}.quantization")
    same = json.dumps([split, told], sort_keys=True, default=str)
    if same not in checked:
        checked[same] = _check_modules(sweep, model, where, given, split=split)
    return checked[same]


def _check_quantised(config: BaseModelConfig, sweep: Sweep, model: Any, field: str) -> None:
    """Check that bitsandbytes is there, and that no family trains weights that it quantises."""
    from kilobit.evaluators.model.machine import quantised_names, quantization_config

    assert config.quantization is not None
    try:
        quantization_config(config.quantization, config.dtype)
    except ImportError as error:
        raise InputError(f"{field}: {error}") from error
    names = sorted(f"{name}.weight" for name in quantised_names(model))
    for name, family in sweep.families.named().items():
        if not isinstance(family, TargetsFamily):
            continue
        if (place := METHODS[name].place) in ("parameters", "noise"):
            for target in sorted({one for group in family.target_modules for one in group}):
                found = next((weight for weight in names if target in weight), None)
                if family.candidates and found is not None and place == "noise":
                    raise InputError(
                        f"families.{name}.target_modules: {target!r} names {found}, which "
                        f"{config.label} keeps in {config.quantization}, so noise can't be added "
                        "to it: use another family, such as steering"
                    )
                if family.candidates and found is not None:
                    raise InputError(
                        f"families.{name}.target_modules: {target!r} names {found}, which "
                        f"{config.label} keeps in {config.quantization}, so it can't be trained: "
                        "name embeddings or norms, or use an adapter"
                    )


def _check_modules(
    sweep: Sweep, model: Any, where: str, given: GivenFiles | None, *, split: bool
) -> Shapes:
    """Check that a model on the meta device can have all adapters, and return its shapes."""
    from kilobit.evaluators.model.adapter_check import check_family, check_in_packs, runs
    from kilobit.evaluators.model.packing.probe import outline

    run = runs(model)
    packs = outline(model) if split else None
    for name, family in sweep.families.named().items():
        if family.candidates:
            check_family(name, family, model, where, run=run)
            if packs is not None:
                check_in_packs(name, family, model, packs, where)
    for place, _, adapter in given.adapters if given else ():
        try:
            adapter.check_on(model, where)
        except ValueError as error:
            raise InputError(f"{place}: {error}") from error
    return shapes_of(model)


def _check_thinking(
    config: BaseModelConfig, tokenizer: Any, field: str, families: Families
) -> None:
    names = ("enable_thinking", "thinking_tokens", "thinking_marks", "today")
    given = [name for name in names if getattr(config, name) is not None]
    if not families.use_chat:
        if given:
            raise InputError(
                f"{field}.{given[0]}: no family puts a question into the chat template: "
                + (
                    "all have `chat: [false]`"
                    if tokenizer.chat_template is not None
                    else "the tokenizer has none"
                )
            )
        return
    from kilobit.evaluators.model.generate import chat_template_of, reads_clock

    if config.today is not None and not reads_clock(tokenizer):
        raise InputError(f"{field}.today: the chat template reads no clock")
    try:
        chat_template_of(tokenizer, config)
    except ValueError as error:
        raise InputError(f"{field}.{error}") from error
    except Exception as error:  # a template may raise anything
        raise InputError(
            f"{field}: the chat template can't be used ({reason_of(error)}): mend it, or say "
            "`chat: [false]` in each family"
        ) from error


def _check_turns(config: BaseModelConfig, tokenizer: Any, where: str, families: Families) -> None:
    """Check that the chat template takes turns, if a candidate may have some."""
    from kilobit.evaluators.model.generate import check_turns

    for name, family in families.named().items():
        if True in family.chats and family.turns and max(family.demonstrations):
            try:
                check_turns(tokenizer, config.today)
            except ValueError as error:
                raise InputError(
                    f"families.{name}.turns: the chat template of {where} takes no earlier turns "
                    f"({error}): set it to false, or `chat: [false]`"
                ) from error


def check_folders(sweep: Sweep, folder: Path) -> None:
    """Check the folders of all base models, before a library is loaded that reads them."""
    for index, config in enumerate(sweep.base_models):
        if config.path is None:
            continue
        field, place = f"base_models.{index}.path", folder / config.path
        if place.is_file():
            raise InputError(
                f"{field}: {place} is a file, not a model's folder; of a GGUF file, make one by "
                f"`{to_copy('model', place, 'DIR')}`"
            )
        if not place.is_dir():
            raise InputError(f"{field}: there is no folder {place}")
        if not (place / "config.json").is_file():
            raise InputError(f"{field}: {place} holds no model: config.json is missing")
        if config.weights == "trained" and not list(place.glob("*.safetensors")):
            raise InputError(f"{field}: {place} holds no weights (*.safetensors)")


def _is_cached(config: BaseModelConfig) -> bool:
    from huggingface_hub import try_to_load_from_cache

    assert config.hub is not None
    with wrong_input():
        found = try_to_load_from_cache(config.hub, "config.json", revision=config.revision)
    return isinstance(found, str)


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters of a model, by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
