"""Operators on an adapter, its training and coding, and the prompt that goes with it.

A change stays within the limits of the adapter's family: ranks, sizes and training steps move by
factors of two or to a listed neighbour, from 1 up to the largest that is listed; layers and modules
come from those that are listed; learning rates stay in their range, prices within a factor of ten
of the listed ones. Quantisation steps and kept fractions move by factors of two, within the range
of a rate search.
"""

import random
from collections.abc import Sequence
from typing import Any

from kilobit.search.adapter_methods import FINEST_STEP, PRICED, AdapterSpec
from kilobit.search.candidate import Candidate
from kilobit.search.proposers.grid import two_digits
from kilobit.search.proposers.operators_prompt import (
    Operator,
    Surroundings,
    all_steps,
    most_steps,
    most_words,
    with_prompt,
)
from kilobit.search.space import AdapterFamily, NoiseFamily

COARSEST_STEP, LEAST_KEPT = 2.0, 0.0625
_PRICE_REACH = 10.0


def near(value: int, listed: Sequence[int]) -> list[int]:
    """Return the numbers that `value` may move to: half, double, and its listed neighbours."""
    above = min((n for n in listed if n > value), default=value)
    below = max((n for n in listed if n < value), default=value)
    found = {value // 2, value * 2, above, below} - {value}
    return sorted(n for n in found if 1 <= n <= max(listed))


def _parts(
    candidate: Candidate, around: Surroundings
) -> tuple[AdapterSpec, AdapterFamily] | tuple[None, None]:
    family = around.families[candidate.family]
    if candidate.adapter is None or not isinstance(family, AdapterFamily):
        return None, None
    return candidate.adapter, family


def changed(candidate: Candidate, **changes: Any) -> Candidate | None:
    """Return the candidate with its adapter changed and validated again.

    None if there would be more examples of data than the training steps can use.
    """
    assert candidate.adapter is not None
    examples = candidate.adapter.traits.examples
    values = candidate.adapter.model_dump() | changes
    if examples and values["size"] > values["steps"] * values["batch_size"]:
        return None
    return candidate.model_copy(update={"adapter": AdapterSpec.model_validate(values)})


def _number(field: str) -> Operator:
    def operator(
        candidate: Candidate, around: Surroundings, rng: random.Random
    ) -> Candidate | None:
        spec, family = _parts(candidate, around)
        value = getattr(spec, field, None)
        if spec is None or value is None:
            return None
        options = near(value, getattr(family, field))
        return changed(candidate, **{field: rng.choice(options)}) if options else None

    operator.__doc__ = f"Change `{field}` by a factor of two or to a listed neighbour."
    return operator


def change_layers(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Add or drop one layer, or switch between all layers and a listed choice."""
    spec, family = _parts(candidate, around)
    listed = getattr(family, "layers", ())
    universe = sorted({layer for layers in listed for layer in layers or ()})
    if spec is None or not universe:
        return None
    options: list[tuple[int, ...] | None] = []
    if spec.layers is None:
        options += [layers for layers in listed if layers]
    else:
        sets = [set(spec.layers) ^ {layer} for layer in universe]
        options += [tuple(sorted(layers)) for layers in sets if layers]
        options += [None] if None in listed else []
    return changed(candidate, layers=rng.choice(options))


def change_modules(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Add or drop one of the listed modules."""
    spec, family = _parts(candidate, around)
    if spec is None or spec.target_modules is None:
        return None
    universe = sorted({m for modules in getattr(family, "target_modules", ()) for m in modules})
    sets = [set(spec.target_modules) ^ {module} for module in universe]
    options = [tuple(sorted(modules)) for modules in sets if modules]
    return changed(candidate, target_modules=rng.choice(options)) if options else None


def change_tokens(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Choose another of the listed groups of tokens."""
    spec, family = _parts(candidate, around)
    options = [t for t in getattr(family, "tokens", ()) if spec and t != spec.tokens]
    return changed(candidate, tokens=rng.choice(options)) if options else None


def change_draws(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Add, drop or replace a seed of the noise by one of the family's."""
    spec, family = _parts(candidate, around)
    if spec is None or spec.draws is None or not isinstance(family, NoiseFamily):
        return None
    listed = family.shapes()["draws"]
    most, least = max(map(len, listed)), min(map(len, listed))
    universe = sorted({seed for draws in listed for seed in draws} - {*spec.draws})
    sets = [(*spec.draws, seed) for seed in universe if len(spec.draws) < most]
    for at in range(len(spec.draws)):
        rest = spec.draws[:at] + spec.draws[at + 1 :]
        sets += [(*rest, seed) for seed in universe]
        sets += [rest] if len(rest) >= least else []
    return changed(candidate, draws=tuple(sorted(rng.choice(sets)))) if sets else None


def change_learning_rate(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Multiply or divide the learning rate by 1.3, 2 or 4."""
    spec, family = _parts(candidate, around)
    if spec is None or family is None:
        return None
    rate = spec.learning_rate * rng.choice((1.3, 2, 4)) ** rng.choice((-1, 1))
    within = family.rates(spec.method)
    rate = two_digits(min(max(rate, within.low), within.high))
    return None if rate == spec.learning_rate else changed(candidate, learning_rate=rate)


def change_training(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Choose another of the listed ways of training, with a listed price where it has one."""
    spec, family = _parts(candidate, around)
    if spec is None or family is None:
        return None
    others = [t for t in dict.fromkeys(family.training) if t != spec.training]
    if not others:
        return None
    training = rng.choice(others)
    price = spec.nats_per_kbit or rng.choice(family.nats_per_kbit)
    return changed(
        candidate, training=training, nats_per_kbit=price if training in PRICED else None
    )


def change_price(
    candidate: Candidate, around: Surroundings, rng: random.Random
) -> Candidate | None:
    """Multiply or divide the price of bits in training by 1.5 or 3."""
    spec, family = _parts(candidate, around)
    if spec is None or family is None or spec.nats_per_kbit is None:
        return None
    listed = family.nats_per_kbit
    price = two_digits(spec.nats_per_kbit * rng.choice((1.5, 3)) ** rng.choice((-1, 1)))
    if not min(listed) / _PRICE_REACH <= price <= max(listed) * _PRICE_REACH:
        return None
    return changed(candidate, nats_per_kbit=price)


def _doubled(field: str, least: float, most: float) -> Operator:
    def operator(
        candidate: Candidate, around: Surroundings, rng: random.Random
    ) -> Candidate | None:
        spec, _ = _parts(candidate, around)
        if spec is None or spec.traits.examples:
            return None
        value = getattr(spec, field)
        options = [v for v in (value / 2, value * 2) if least <= v <= most]
        return changed(candidate, **{field: rng.choice(options)}) if options else None

    operator.__doc__ = f"Double or halve `{field}`."
    return operator


def cross_over(candidate: Candidate, around: Surroundings, rng: random.Random) -> Candidate | None:
    """Combine this adapter with the mate's prompt and steps, as far as its family allows."""
    spec, family = _parts(candidate, around)
    mate = around.mate
    if spec is None or family is None or mate is None:
        return None
    shown, steps = mate.prompt.demonstrations, mate.postprocess
    words = len(mate.prompt.instruction.split(" ")) if mate.prompt.instruction else 0
    if not min(family.demonstrations) <= len(shown) <= max(family.demonstrations):
        shown = candidate.prompt.demonstrations
    if len(steps) > most_steps(family) or not set(steps) <= set(all_steps(family)):
        steps = candidate.postprocess
    keeps = words > most_words(family)
    child = with_prompt(
        candidate.model_copy(update={"postprocess": steps}),
        instruction=(candidate if keeps else mate).prompt.instruction,
        demonstrations=shown,
    )
    return None if child == candidate else child


_SHAPE_OPERATORS: dict[str, Operator] = {
    "change rank": _number("rank"),
    "change size": _number("size"),
    "change layers": change_layers,
    "change modules": change_modules,
}
_TRAINING_OPERATORS: dict[str, Operator] = {
    "change train steps": _number("steps"),
    "change learning rate": change_learning_rate,
    "change training": change_training,
    "change price": change_price,
}


def transfer(candidate: Candidate, around: Surroundings, rng: random.Random) -> Candidate | None:
    """Train a neighbour of this adapter, starting from its trained numbers.

    Where fixed random numbers depend on the shape, only the training settings change.
    """
    spec, _ = _parts(candidate, around)
    if spec is None or spec.traits.examples or not around.trained:
        return None
    operators = list(_TRAINING_OPERATORS.values())
    if spec.traits.keeps_meaning:
        operators += _SHAPE_OPERATORS.values()
    for operator in rng.sample(operators, len(operators)):
        child = operator(candidate, around, rng)
        if child is not None:
            return changed(child, start=candidate.id)
    return None


ADAPTER_OPERATORS: dict[str, Operator] = {
    **_SHAPE_OPERATORS,
    "change tokens": change_tokens,
    "change draws": change_draws,
    **_TRAINING_OPERATORS,
    "change coarseness": _doubled("step", FINEST_STEP, COARSEST_STEP),
    "change kept": _doubled("keep", LEAST_KEPT, 1),
    "transfer": transfer,
    "crossover": cross_over,
}
