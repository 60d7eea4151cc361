"""Models without weights, and weights in parts, for a base model that is spread over ranks.

The weights of a spread model have other shapes on a rank than in the whole model, or none. A
skeleton has the shapes of the whole model and takes no memory: every weight is one zero, repeated.
Methods that start from the base weights (SVD factors, norms) need those of the modules that they
change; these are gathered for one adapter at a time and released afterwards.

Random weights are drawn in parts: a rank has no more of them in memory than its own part and one
whole tensor.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from kilobit.evaluators.model import base_model
from kilobit.evaluators.model.adapters import factored_rank
from kilobit.evaluators.model.base_model import FrozenModel, has_factors
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig

_LOG = logging.getLogger("kilobit")
# What gives a tensor all its numbers anew.
_FILLS = ("normal_", "uniform_", "zero_", "fill_", "copy_")


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
        # Weights whose factors are known are not read again.
        rank = factored_rank(spec)
        filled = [
            name
            for name, _ in model.named_modules()
            if spec.targets(name)
            and not (rank is not None and has_factors(frozen.factors, name, rank))
        ]
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


Keep = Callable[[str, Tensor], Tensor]


def registered(config: BaseModelConfig, folder: Path, dtype: torch.dtype) -> tuple[list[str], Any]:
    """Return a model without weights, its buffers computed, and the names of its parameters.

    They are in the order in which parameters are made; a name is empty if another weight takes the
    parameter's place.
    """
    with torch.random.fork_rng(), _Bare(None) as made:
        model = base_model.from_config(config, folder, dtype)
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [names.get(id(weight), "") for weight in made.weights], model


def draw(
    config: BaseModelConfig, folder: Path, dtype: torch.dtype, names: Sequence[str], keep: Keep
) -> tuple[Any, dict[str, Tensor]]:
    """Draw random weights as in one process, one whole tensor at a time.

    Args:
        config: the base model.
        folder: base of its relative path.
        dtype: type of its weights.
        names: of its parameters, as `registered` returns them.
        keep: returns the part of a whole tensor that is kept; it is called with its name.

    Returns:
        The model without its weights, and the kept parts by name.
    """

    def own(at: int, whole: Tensor) -> Tensor:
        return keep(names[at], whole) if names[at] else whole.new_empty(0)

    try:
        with torch.random.fork_rng(), _Bare(own) as made:
            torch.manual_seed(config.seed)
            model = base_model.from_config(config, folder, dtype)
            made.close()
    except NotImplementedError as error:
        _LOG.warning("%s: random weights are drawn whole: %s", config.label, error)
        weights = base_model.random_model(config, folder).named_parameters()
        _, model = registered(config, folder, dtype)
        return model, {name: keep(name, weight.detach()) for name, weight in weights}
    return model, {name: made.kept[at] for at, name in enumerate(names) if name}


class _Bare(TorchFunctionMode):
    """Keep the parameters of a model that is being made on the meta device.

    What initialises a parameter runs on a whole tensor in memory. It is dropped when the next one
    is initialised, but for the part that is kept; several times for one parameter, if need be.
    Vectors stay whole until the model is made: they take next to nothing, and architectures compute
    them from one another.

    Args:
        keep: returns the part to keep of the tensor of a parameter, by its number; None to
            initialise nothing.

    Attributes:
        weights: the parameters in the order in which they are made.
        kept: the parts by the parameter's number.
    """

    def __init__(self, keep: Callable[[int, Tensor], Tensor] | None) -> None:
        super().__init__()
        self._keep = keep
        self.weights: list[nn.Parameter] = []
        self.kept: dict[int, Tensor] = {}
        self._numbers: dict[int, int] = {}
        # By the parameter's number: all vectors, and one larger tensor.
        self._whole: dict[int, Tensor] = {}

    def __enter__(self) -> "_Bare":
        self._register = nn.Module.register_parameter
        made = self

        def register(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
            made._register(module, name, weight)
            if weight is not None and id(weight) not in made._numbers:
                setattr(module, name, made.take(weight))

        nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        nn.Module.register_parameter = self._register  # type: ignore[method-assign]

    def take(self, weight: nn.Parameter) -> nn.Parameter:
        """Return a parameter on the meta device that stands for one."""
        empty = nn.Parameter(weight.detach().to("meta"), requires_grad=weight.requires_grad)
        self._numbers[id(empty)] = len(self.weights)
        if self._keep is not None:
            self._open(len(self.weights), weight.detach())
        self.weights.append(empty)
        return empty

    def close(self) -> None:
        """Keep the parts of all tensors that are still whole."""
        for number in list(self._whole):
            self._cut(number)

    def _cut(self, number: int) -> None:
        assert self._keep is not None
        self.kept[number] = self._keep(number, self._whole.pop(number))

    def _open(self, number: int, whole: Tensor) -> Tensor:
        """Return a tensor that stays whole until the next one that is no vector."""
        if whole.ndim > 1:
            for other in [at for at, tensor in self._whole.items() if tensor.ndim > 1]:
                self._cut(other)
        self._whole[number] = whole
        return whole

    def _whole_of(self, parameter: Any, func: Any) -> Any:
        """Return the tensor of a parameter that a function reads or changes; others unchanged."""
        number = self._numbers.get(id(parameter))
        if number is None:
            return parameter
        if number in self._whole:
            return self._whole[number]
        empty = torch.empty(parameter.shape, dtype=parameter.dtype)
        if self._keep is None:
            return empty
        if func.__name__ not in _FILLS and not hasattr(nn.init, func.__name__):
            raise NotImplementedError(f"what {func.__name__} needs can't be drawn in parts")
        return self._open(number, empty)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run a function, on whole tensors if it needs the numbers of parameters."""
        kwargs = dict(kwargs or {})
        target = kwargs.get("out", args[0] if args else kwargs.get("tensor"))
        ours = any(id(one) in self._numbers for one in (*args, *kwargs.values()))
        if func == Tensor.device.__get__ and ours:
            # What is computed beside a parameter, to be copied into it, has numbers.
            return torch.get_default_device()
        if func == Tensor.is_meta.__get__ and ours:  # type: ignore[attr-defined]
            # Some functions do nothing on the meta device.
            return self._keep is None
        if not (_changes(func) or "out" in kwargs):
            try:
                found = func(*args, **kwargs)
            except RuntimeError:
                # Numbers that are not there can't be mixed with others.
                if not ours:
                    raise
            else:
                if not ours or not _on_meta(found) or id(found) in self._numbers:
                    return found
        elif self._keep is None and id(target) in self._numbers:
            return target
        elif self._keep is not None and id(target) not in self._numbers and _on_meta(target):
            raise NotImplementedError(f"what {func.__name__} changes can't be drawn in parts")
        whole = self._whole_of(target, func)
        with torch.no_grad():
            given = [self._whole_of(one, func) for one in args]
            found = func(*given, **{key: self._whole_of(one, func) for key, one in kwargs.items()})
        return target if found is whole else found


def _changes(func: Any) -> bool:
    """Return whether a function changes its first argument; torch calls `+=` too `add_`."""
    name: str = func.__name__
    if name.endswith("__"):
        return name == "__setitem__"
    return name.endswith("_") and name != "requires_grad_"


def _on_meta(one: Any) -> bool:
    return isinstance(one, Tensor) and one.is_meta
