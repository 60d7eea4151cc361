"""Skeleton of a base model, on which PEFT builds adapters for a model spread over ranks.

The weights of a spread model have other shapes on a rank than in the whole model, or none. A
skeleton has the shapes of the whole model and takes no memory: every weight is one zero, repeated.
Methods that start from the base weights (SVD factors, norms) need those of the modules that they
change; these are gathered for one adapter at a time and released afterwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.search.adapter_methods import AdapterSpec


@contextmanager
def skeleton(
    frozen: FrozenModel, spec: AdapterSpec, whole: Callable[[Any], torch.Tensor]
) -> Iterator[FrozenModel]:
    """Yield a base model on which the adapter of `spec` can be built; all ranks have to enter this.

    Args:
        frozen: this rank's part of a base model.
        spec: of the adapter.
        whole: returns a whole copy of a weight of which every rank has a part.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(frozen.model.config)
    model.eval().requires_grad_(False)
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, _zeros(weight, frozen))
    filled = []
    if spec.traits.from_weights:
        filled = [name for name, _ in model.named_modules() if spec.targets(name)]
    for name in filled:
        for part, weight in frozen.model.get_submodule(name).named_parameters(recurse=False):
            filling = nn.Parameter(whole(weight), requires_grad=False)
            setattr(model.get_submodule(name), part, filling)
    yield replace(frozen, model=model)
    for name in filled:
        module = model.get_submodule(name)
        for part, weight in list(module.named_parameters(recurse=False)):
            setattr(module, part, _zeros(weight, frozen))


def _zeros(weight: torch.Tensor, frozen: FrozenModel) -> nn.Parameter:
    zero = torch.zeros((), dtype=frozen.model.dtype, device=frozen.model.device)
    return nn.Parameter(zero.expand(weight.shape), requires_grad=False)
