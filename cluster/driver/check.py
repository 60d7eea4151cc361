"""Checks of a sweep before anything starts: data, rungs, models, tokenizers, adapters.

A local model is built without memory from its config, so module names, layers and ranks are checked
in a second. A hub model that is not on this machine is checked by the workers and listed as
unchecked here.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kilobit.cluster.requests import wrong_input
from kilobit.cluster.runs.access import check_writable
from kilobit.cluster.sweep.placement import Node, Placements, cpus_here, needs_of, plan
from kilobit.cluster.sweep.sweep import Sweep, check_trackers
from kilobit.cluster.sweep.workers import SearchedModel, ShardsConfig
from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.evaluators.given_candidates import GivenFiles, given_on, read_given
from kilobit.evaluators.ledger.storage import under
from kilobit.evaluators.tasks.harness_task import HarnessTask
from kilobit.evaluators.tasks.jsonl import DatasetTask
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.adapter_methods import METHODS, AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import GIVEN, Candidate
from kilobit.search.programs.text import compress
from kilobit.search.search import make_proposer
from kilobit.search.settings import InputError, is_address, reason_of, to_copy
from kilobit.search.space import DataFamily, Families, TargetsFamily
from kilobit.search.task import Task

Shapes = Mapping[str, tuple[int, ...]]
_BITS_A_NUMBER = 16
# Entries of a configuration that don't decide what modules a model has.
_NO_SHAPE = ("_name_or_path", "architectures", "dtype")


@dataclass(frozen=True)
class Plan:
    """A checked sweep.

    Attributes:
        task: the task to solve.
        candidates: candidates of all models and families, as far as they are known beforehand,
            without those of `first`.
        shapes: parameter shapes of each base model that is on this machine.
        num_candidates: greatest number of candidates, None if only the time ends the run.
        unchecked: messages about what could not be checked here.
        ranks: memory, load time and tokens per pass of each base model's ranks, as text, and what
            is to be said of the model's files.
        warnings: messages about settings that are valid but rarely meant.
        first: candidates of all models that come first: those whose programs run without the
            model, then those that the sweep gives.
        templates: labels of the base models whose tokenizers have a chat template, as far as a
            family needs to know.
        sources: for the candidates that the sweep gives, by id, where they come from.
    """

    task: Task
    candidates: tuple[Candidate, ...]
    shapes: Mapping[str, Shapes]
    num_candidates: int | None
    unchecked: tuple[str, ...]
    ranks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    first: tuple[Candidate, ...] = ()
    templates: frozenset[str] = frozenset()
    sources: Mapping[str, str] = field(default_factory=dict)

    def bound_bits(self, candidate: Candidate) -> int | None:
        """Return an upper bound of a candidate's payload in bits, None if there is none yet."""
        return bound_bits(candidate, self.task, self.shapes.get(candidate.model))


def check_sweep(
    sweep: Sweep,
    sweep_folder: Path,
    *,
    local: bool = True,
    dry: bool = False,
    before_models: Callable[[], object] = lambda: None,
) -> Plan:
    """Check a sweep and return its plan.

    Args:
        sweep: the sweep to check.
        sweep_folder: the folder that its relative paths start from.
        local: the workers will run on this machine, so their models have to be here.
        dry: nothing is to begin, so they need not fit on it, and nothing is fetched.
        before_models: called before the models are looked at, which takes seconds, with all else
            checked.

    Raises:
        InputError: naming field and value, if the sweep can't run.
    """
    if local:
        _check_folders(sweep, sweep_folder)
    _check_hub(sweep)
    with wrong_input():
        task = load_task(sweep.task, sweep_folder)
    _check_rungs(sweep, task)
    _check_limits(sweep, task)
    with wrong_input():
        given = read_given(sweep.families.given, sweep_folder)
    if sweep.cache is not None:
        check_writable("cache", under(sweep_folder, sweep.cache))
    check_trackers(sweep.trackers)
    if local and not dry:
        plan_here(sweep)
    before_models()
    shapes, unchecked = check_models(sweep, sweep_folder, given, local=local)
    templates, unknown = _templates(sweep, sweep_folder, shapes, dry=dry)
    unchecked += unknown
    ranks = tuple(_check_ranks(sweep, sweep_folder, shapes))
    thinkers = _thinkers(sweep, sweep_folder, shapes, templates)
    _check_choice(sweep, task, thinkers)
    warnings = (
        *_thinking_warnings(task, thinkers),
        *_unused_template_warnings(sweep, templates),
        *_steps_warnings(sweep),
    )
    if local:
        from kilobit.cluster.shards.load import slowness

        warnings += tuple(filter(None, map(slowness, sweep.base_models)))
    labels = [model.label for model in sweep.base_models]
    first = [one for label in labels for one in sweep.model_free.candidates(task, label)]
    sources: dict[str, str] = {}
    for label in labels:
        made = given_on(given, task, label, shapes.get(label), template=label in templates)
        if made is None and not dry:
            raise InputError(
                f"families.given.adapters.0: {label} is not on this machine, so no adapter from "
                "elsewhere can be checked: fetch the model first"
            )
        sources |= {one.id: source for one, source in made or ()}
        first += [one for one, _ in made or ()]
        if made is None:
            unchecked.append(f"the adapters of families.given on {label}, which is not here")
    plan = Plan(
        task,
        (),
        shapes,
        None,
        tuple(unchecked),
        ranks,
        warnings,
        tuple(dict.fromkeys(first)),
        templates,
        sources,
    )
    most, candidates = sweep.budget.candidates, list[Candidate]()
    if sweep.proposer.kind in ("random", "grid"):
        candidates = list_candidates(sweep, task, templates)
        most = len(candidates)
    total = None if most is None else most + len(plan.first)
    return replace(plan, candidates=tuple(candidates), num_candidates=total)


def _check_ranks(sweep: Sweep, folder: Path, known: Mapping[str, Shapes]) -> list[str]:
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


def _templates(
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


def _thinking_warnings(task: Task, thinkers: Sequence[str]) -> list[str]:
    """Return a warning for each model that thinks where an empty line or line end is a stop."""
    stops = [stop for stop in task.stop if not stop.strip()]
    return [
        f"{label} thinks in its chat template, and the task {task.name} stops at "
        f"{' and '.join(map(repr, stops))}: the thinking does not end there, but an answer of "
        "several lines does; set the task's `stop`, or `enable_thinking: false`"
        for label in thinkers
        if stops
    ]


def _thinkers(
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


def _check_choice(sweep: Sweep, task: Task, thinkers: Sequence[str]) -> None:
    """Check that nothing asks a program that chooses its answer to generate one.

    Raises:
        InputError: naming the field, if something does.
    """
    if task.choice is None:
        return
    for name, family in sweep.families.named().items():
        for setting in ("max_new_tokens", "postprocess", "postprocess_combine"):
            if any(getattr(family, setting)):
                raise InputError(_generates(f"families.{name}.{setting}", task))
    given = sweep.families.given
    for place, one in given.each().items() if given else ():
        for setting in ("max_new_tokens", "postprocess"):
            if getattr(one, setting):
                raise InputError(_generates(f"families.given.{place}.{setting}", task))
    if thinkers:
        raise InputError(
            f"base_models: {thinkers[0]} thinks in its chat template, and programs of the task "
            f"{task.name} choose one of the answers that an input offers without any thinking: "
            "set its `enable_thinking: false`, or `chat: [false]` in all families"
        )


def _generates(field: str, task: Task) -> str:
    return (
        f"{field}: programs of the task {task.name} choose one of the answers that an input "
        "offers and generate nothing: leave it out"
    )


def _unused_template_warnings(sweep: Sweep, templates: frozenset[str]) -> list[str]:
    """Return a warning for each model with a chat template that no family puts a question into."""
    return [
        f"{config.label} has a chat template, and all families have `chat: [false]`: it is asked "
        "in another form than it was trained for; `chat: [true, false]` tries both"
        for config in sweep.base_models
        if config.label in templates and not sweep.families.on(template=True).use_chat
    ]


def _steps_warnings(sweep: Sweep) -> list[str]:
    """Return a warning for each family whose longest training the last rung does not reach."""
    most = sweep.rungs.ladder()[-1].train_steps
    longest = {
        name: max(getattr(family, "steps", ()), default=0)
        for name, family in sweep.families.named().items()
        if family.candidates
    }
    return [
        f"families.{name}.steps: {steps} steps are planned, and the last rung ends after {most} "
        "(rungs.train_steps, eta and count), so no training is finished"
        for name, steps in longest.items()
        if steps > most
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


def plan_here(sweep: Sweep) -> Placements:
    """Return the plan of the workers on this machine.

    Raises:
        InputError: if the fewest workers of a model do not fit on it.
    """
    settings, gpus = sweep.workers_by_model, 0
    if any(own.ranks(0).gpus_per_rank for own in settings.values()):
        import torch

        gpus = torch.cuda.device_count()
    kinds = {f"accelerator_type:{own.accelerator_type}": 1.0 for own in settings.values()}
    here = Node("this machine", {"CPU": cpus(), "GPU": gpus, **kinds})
    return plan([here], needs_of(settings, cpus_here(settings, cpus(), gpus)))


def list_candidates(sweep: Sweep, task: Task, templates: frozenset[str]) -> list[Candidate]:
    """Return all candidates of a finite proposer, alternating between the models."""
    waiting = [model.label for model in sweep.base_models]
    about = sweep.families, task, list(waiting), sweep.seed, templates
    proposer = make_proposer(sweep.proposer, *about)
    found: list[Candidate] = []
    most = sweep.budget.candidates
    while waiting and (most is None or len(found) < most):
        model = waiting.pop(0)
        proposal = proposer.propose(model)
        if proposal is not None:
            found.append(proposal.candidate)
            waiting.append(model)
    return found


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
        _check_folders(sweep, sweep_folder)
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


def _check_rungs(sweep: Sweep, task: Task) -> None:
    most, there = sweep.rungs.ladder()[-1].num_examples, len(task.splits.search)
    if most > there:
        raise InputError(
            f"rungs: the last rung scores {most} examples (examples {sweep.rungs.examples} x eta "
            f"{sweep.rungs.eta}^{sweep.rungs.count - 1}), but the search split of {task.name} "
            f"has {there}: lower `examples`, `eta` or `count`, or give more examples"
        )


def _check_limits(sweep: Sweep, task: Task) -> None:
    given = sweep.families.given.each() if sweep.families.given else {}
    limits = {name: family.max_new_tokens for name, family in sweep.families.named().items()}
    own_limits = {f"given.{place}": (one.max_new_tokens,) for place, one in given.items()}
    for name, own in (limits | own_limits).items():
        for limit in own:
            if limit is not None and limit > task.max_new_tokens:
                raise InputError(
                    f"families.{name}.max_new_tokens: {limit} is more than the task "
                    f"{task.name} allows ({task.max_new_tokens})"
                )
    for name, family in sweep.families.named().items():
        if max(family.demonstrations) > len(task.splits.train):
            raise InputError(
                f"families.{name}.demonstrations: {max(family.demonstrations)} are more than the "
                f"train split has ({len(task.splits.train)})"
            )
        if isinstance(family, DataFamily) and max(family.size) > len(task.splits.train):
            raise InputError(
                f"families.{name}.size: {max(family.size)} are more than the train split has "
                f"({len(task.splits.train)})"
            )


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


def _check_folders(sweep: Sweep, folder: Path) -> None:
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


def _check_hub(sweep: Sweep) -> None:
    """Check the address of a hub that stands in for Hugging Face's, if something is read there."""
    reads = isinstance(sweep.task, DatasetTask | HarnessTask) or any(
        m.hub for m in sweep.base_models
    )
    if reads and not is_address(os.environ.get("HF_ENDPOINT") or "https://default"):
        raise InputError(
            "the environment variable HF_ENDPOINT has to be an address such as https://HOST, or "
            "not to be set"
        )


def _is_cached(config: BaseModelConfig) -> bool:
    from huggingface_hub import try_to_load_from_cache

    assert config.hub is not None
    with wrong_input():
        found = try_to_load_from_cache(config.hub, "config.json", revision=config.revision)
    return isinstance(found, str)


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters of a model, by name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def bound_bits(candidate: Candidate, task: Task, shapes: Shapes | None) -> int | None:
    """Return an upper bound of a candidate's payload in bits, known before anything is trained.

    A prompt counts as coded by the best general codec; coded by the model it may be shorter.
    Numbers count 16 bits each: no coding that a search chooses takes more.

    Args:
        candidate: any candidate.
        task: the task to solve.
        shapes: shapes of its base model's parameters, None if unknown on this machine.

    Returns:
        The bound; None for an adapter if `shapes` is unknown.
    """
    text = (candidate.constant or candidate.prompt.render(task)).encode()
    bits = 8 * min(map(len, compress(text).values())) if text else 0
    spec = candidate.adapter
    if spec is None:
        return bits
    if spec.traits.examples:
        shown = task.splits.train[: spec.size]
        lesson = "".join(task.ask(e.input) + task.show(e.target) for e in shown).encode()
        return bits + 8 * min(map(len, compress(lesson).values()))
    return None if shapes is None else bits + _BITS_A_NUMBER * count_numbers(spec, shapes)


def count_numbers(spec: AdapterSpec, shapes: Shapes) -> int:
    """Return the number of numbers that an adapter trains."""
    method = spec.traits
    if method.once:
        width = max((shape[1] for name, shape in shapes.items() if "embed" in name), default=0)
        return method.numbers(spec, (width,))
    return sum(method.numbers(spec, s) for name, s in shapes.items() if _is_trained(name, spec))


def _is_trained(name: str, spec: AdapterSpec) -> bool:
    if spec.traits.place == "parameters":
        return any(target in name for target in spec.target_modules or ())
    module, _, kind = name.rpartition(".")
    return kind == "weight" and spec.targets(module)
