"""Checks of a sweep before anything starts, and the plan of what will be tried.

What base models allow is checked in `kilobit.cluster.driver.check_models`; the plan lists what this
machine can't check.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kilobit.cluster.driver.check_models import (
    Shapes,
    check_folders,
    check_models,
    check_ranks,
    templates_of,
    thinking_models,
)
from kilobit.cluster.requests import wrong_input
from kilobit.cluster.runs.access import check_writable
from kilobit.cluster.sweep.placement import Node, Placements, cpus_here, needs_of, plan
from kilobit.cluster.sweep.sweep import Sweep, check_trackers
from kilobit.evaluators.cpus_and_memory import cpus
from kilobit.evaluators.given_candidates import given_on, read_given
from kilobit.evaluators.ledger.storage import under
from kilobit.evaluators.tasks.harness_task import HarnessTask
from kilobit.evaluators.tasks.jsonl import DatasetTask
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate
from kilobit.search.programs.text import compress
from kilobit.search.search import make_proposer
from kilobit.search.settings import InputError, is_address
from kilobit.search.space import DataFamily
from kilobit.search.task import Task

_BITS_A_NUMBER = 16


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
        check_folders(sweep, sweep_folder)
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
    templates, unknown = templates_of(sweep, sweep_folder, shapes, dry=dry)
    unchecked += unknown
    ranks = tuple(check_ranks(sweep, sweep_folder, shapes))
    thinkers = thinking_models(sweep, sweep_folder, shapes, templates)
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
        "(rungs.train_steps, eta and count), so such a training is never finished"
        for name, steps in longest.items()
        if steps > most
    ]


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
