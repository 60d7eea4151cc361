"""Checks that a model can have the adapters of a sweep, without the model's weights."""

import re
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import peft
import torch

from kilobit.evaluators.model.adapters import remove_adapter
from kilobit.evaluators.model.packing.deltas import PACKED_METHODS
from kilobit.evaluators.model.packing.probe import Probe
from kilobit.search.adapter_methods import METHODS, AdapterSpec, is_called, peft_config
from kilobit.search.programs.recipe import weight_pattern
from kilobit.search.settings import InputError
from kilobit.search.space import (
    AdapterFamily,
    LayersFamily,
    PromptFamily,
    RankFamily,
    TargetsFamily,
    TokensFamily,
)


def runs(model: Any) -> bool:
    """Return whether a model on the meta device can be run there, which some models can't."""
    return _error_of_a_pass(model) is None


def check_family(name: str, family: PromptFamily, model: Any, where: str, *, run: bool) -> None:
    """Check that a model can have every adapter of a family.

    Targets, layers and tokens have to exist, ranks to fit the targets, and PEFT to build each
    distinct adapter.

    Args:
        name: name of the family.
        family: the family.
        model: the base model on the meta device, which takes no memory; it is left as it was.
        where: the model's path or name, for messages.
        run: run the adapted models too, see `runs`.

    Raises:
        InputError: naming the field, if something does not fit.
    """
    if isinstance(family, LayersFamily):
        _check_layers(name, family, int(model.config.num_hidden_layers), where)
    if isinstance(family, TargetsFamily):
        _check_targets(name, family, model, where)
    if isinstance(family, TokensFamily):
        vocabulary = int(model.config.vocab_size)
        outside = [t for group in family.tokens for t in group if not 0 <= t < vocabulary]
        if outside:
            raise InputError(
                f"families.{name}.tokens: there is no token {outside[0]}; {where} has {vocabulary}"
            )
    if isinstance(family, AdapterFamily) and METHODS[name].config is not None:
        _check_adapters(name, family, model, where, run=run)


def check_in_packs(name: str, family: PromptFamily, model: Any, packs: Probe, where: str) -> None:
    """Check that all candidates of a family can share passes, as split models need.

    Args:
        name: name of the family.
        family: the family.
        model: the base model on the meta device.
        packs: what is known of packs on the model.
        where: the model's path or name, for messages.

    Raises:
        InputError: if candidates would have to run alone.
    """
    why = packs.why_not
    if why is None and isinstance(family, AdapterFamily):
        if name not in PACKED_METHODS:
            why = f"an adapter of the method {name} has to be installed in the model"
        for spec in _specs(name, family):
            mixed = [n for n, _ in model.named_modules() if spec.targets(n)]
            mixed = [n for n in mixed if n not in packs.modules]
            if mixed and why is None:
                why = f"{mixed[0]} does not see a batch row by row"
    if why is not None:
        raise InputError(
            f"families.{name}: candidates would run alone on {where}, which a model that is split "
            f"over ranks can't do: {why}; use workers.shards.world_size 1"
        )


def _specs(name: str, family: AdapterFamily) -> Iterator[AdapterSpec]:
    """Yield an adapter of each distinct shape; rank and size make no difference to PEFT."""
    shapes = family.shapes()
    fewest = {field: (min(shapes[field]),) for field in ("rank", "size") if field in shapes}
    for values in product(*(shapes | fewest).values()):
        yield AdapterSpec(
            method=name,
            learning_rate=1.0,
            steps=max(family.steps),
            batch_size=family.batch_size,
            seed=0,
            **dict(zip(shapes, values, strict=True)),
        )


def _check_adapters(name: str, family: AdapterFamily, model: Any, where: str, *, run: bool) -> None:
    for spec in _specs(name, family):
        why = refusal(model, spec, run=run)
        if why is not None:
            targets = ", ".join(spec.target_modules or ())
            on = f" on {targets}" if targets else ""
            raise InputError(f"families.{name}: {where} can't have this adapter{on}: {why}")


def _check_layers(name: str, family: LayersFamily, layers: int, where: str) -> None:
    for group in family.layers:
        outside = [layer for layer in group or () if not 0 <= layer < layers]
        if outside:
            raise InputError(
                f"families.{name}.layers: there is no layer {outside[0]}; {where} has layers 0 to "
                f"{layers - 1}"
            )


def _check_targets(name: str, family: TargetsFamily, model: Any, where: str) -> None:
    field, method = f"families.{name}.target_modules", METHODS[name]
    targets = sorted({target for group in family.target_modules for target in group})
    if method.place in ("parameters", "noise"):
        parameters = [parameter for parameter, _ in model.named_parameters()]
        for target in targets:
            named = re.escape(target) if method.place == "parameters" else weight_pattern([target])
            if not any(re.search(named, parameter) for parameter in parameters):
                tied = " (lm_head is tied to the embeddings)" if target == "lm_head" else ""
                raise InputError(f"{field}: no weight of {where} is called {target!r}{tied}")
        return
    modules = _modules(model, norms=method.place == "norms")
    kinds = {module.split(".")[-1] for module in modules}
    for target in targets:
        shapes = [shape for module, shape in modules.items() if is_called(module, target)]
        if not shapes:
            raise InputError(
                f"{field}: {where} has no module {target!r}; it has {', '.join(sorted(kinds))}"
            )
        smallest = min(min(shape) for shape in shapes)
        # Two factors of full rank have more numbers than the matrix that they change.
        most = smallest if method.square else smallest - 1
        ranks = family.rank if isinstance(family, RankFamily) and not method.any_rank else ()
        if max(ranks, default=0) > most:
            raise InputError(
                f"families.{name}.rank: {max(ranks)} is too large for {target} of {where}, "
                f"whose smaller side is {smallest}; the largest is {most}"
            )


def _modules(model: Any, *, norms: bool) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the linear modules, or of the normalisation layers, by name."""
    return {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if getattr(module, "weight", None) is not None
        and module.weight.ndim == (1 if norms else 2)
        and not isinstance(module, torch.nn.Embedding)
    }


def refusal(model: Any, spec: AdapterSpec, *, run: bool) -> str | None:
    """Return the reason for which PEFT can't build the adapter of `spec`, None if it can.

    Args:
        model: the base model on the meta device, which takes no memory; it is left as it was.
        spec: the adapter; its method has a PEFT configuration.
        run: run the adapted model too, which finds modules whose output is no plain tensor.
    """
    found = peft_config(spec)
    assert found is not None
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            adapted = peft.get_peft_model(model, getattr(peft, found[0])(**found[1]))
        error = _error_of_a_pass(adapted) if run else None
    except NotImplementedError:
        # PEFT has accepted the targets, and the meta device lacks an operator of its set-up.
        return None
    except Exception as raised:  # noqa: BLE001 - PEFT raises many types here
        error = raised
    finally:
        remove_adapter(model)
    return None if error is None else _in_words(error)


def _error_of_a_pass(model: Any) -> Exception | None:
    ids = torch.zeros(1, 3, dtype=torch.long, device="meta")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(input_ids=ids)
    except Exception as error:  # noqa: BLE001 - models raise many types here
        return error
    return None


def _in_words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no linear module {error.args[0]!r}"
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return lines[0] if lines else type(error).__name__
