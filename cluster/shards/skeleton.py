"""Models without weights, and weights in parts, for a base model that is spread over ranks.

The weights of a spread model have other shapes on a rank than in the whole model, or none. A
skeleton has the shapes of the whole model and takes no memory: every weight is one zero, repeated.
Methods that start from the base weights (SVD factors, norms) need those of the modules that they
change; these are gathered for one adapter at a time and released afterwards.

Checkpoints are read and random weights are drawn in parts: a rank has no more of them in memory
than its own part and one whole tensor.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
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


class Checkpoint:
    """The safetensors files of a base model, of which parts are read.

    Args:
        files: the file of each weight, and its name there, by its name in the model.
        dtype: type of what is returned.

    Attributes:
        bytes_read: so far.
    """

    def __init__(self, files: Mapping[str, tuple[str, str]], dtype: torch.dtype) -> None:
        self._files, self._dtype = files, dtype
        self.bytes_read = 0

    @classmethod
    def of(cls, bare: Any, source: str, options: Mapping[str, Any]) -> "Checkpoint | None":
        """Return the checkpoint of a model without weights.

        None if transformers would change what is stored, so that it has to read the weights itself.
        """
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, rename_source_key
        from transformers.utils.hub import cached_file

        changes: Any = get_model_conversion_mapping(bare)
        kept = ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")
        longer = any(getattr(bare, name, None) for name in kept) and bare.dtype != torch.float32
        if longer or any(isinstance(one, WeightConverter) for one in changes):
            return None

        def file_of(name: str, **more: Any) -> Any:
            revision = options.get("revision", "main")
            return cached_file(source, name, revision=revision, **more)

        index = file_of("model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        names = ["model.safetensors"]
        if index is not None:
            names = sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))
        wanted, files = bare.state_dict(), {}
        for path in map(file_of, names):
            with safe_open(path, "pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    name, _ = rename_source_key(key, changes, [], bare.base_model_prefix, wanted)
                    shape = list(wanted[name].shape) if name in wanted else None
                    if file.get_slice(key).get_shape() == shape:
                        files[name] = (str(path), key)
        if not all(name in files for name, _ in bare.named_parameters()):
            return None
        return cls(files, bare.dtype)

    def part(self, name: str, start: int, end: int) -> Tensor:
        """Return the numbers from `start` to `end` of a weight's numbers in their order."""
        path, key = self._files[name]
        with safe_open(path, "pt") as file:
            weight = file.get_slice(key)
            row = math.prod(weight.get_shape()[1:])
            first = start // row
            rows: Tensor = weight[first : -(-end // row)]
            self.bytes_read += rows.nbytes
            return rows.reshape(-1)[start - first * row : end - first * row].to(self._dtype)


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
        self._open: tuple[int, Tensor] | None = None

    def __enter__(self) -> "_Bare":
        self._register = nn.Module.register_parameter
        made = self

        def register(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
            made._register(module, name, weight)
            if weight is not None and not weight.is_meta:
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
        self.close()
        self._numbers[id(empty)] = len(self.weights)
        self._open = (len(self.weights), weight.detach())
        self.weights.append(empty)
        return empty

    def close(self) -> None:
        """Keep the part of the tensor that was initialised last."""
        if self._open is not None and self._keep is not None:
            self.kept[self._open[0]] = self._keep(*self._open)
        self._open = None

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run a function, on the whole tensor if it initialises a parameter."""
        kwargs = dict(kwargs or {})
        weight = args[0] if args else kwargs.get("tensor")
        number = self._numbers.get(id(weight))
        changes = re.fullmatch(r"(?!requires_grad)\w*[^_]_", func.__name__) is not None
        if number is None or not (changes or func is Tensor.__getitem__):
            if changes and self._keep is not None and isinstance(weight, Tensor) and weight.is_meta:
                raise NotImplementedError(f"what {func.__name__} changes can't be drawn in parts")
            return func(*args, **kwargs)
        if self._keep is None:
            return weight if changes else func(*args, **kwargs)
        assert isinstance(weight, nn.Parameter)
        if self._open is None or self._open[0] != number:
            if func.__name__ not in _FILLS and func.__module__ != "torch.nn.init":
                raise NotImplementedError(f"what {func.__name__} changes can't be drawn in parts")
            self.close()
            self._open = (number, torch.empty(weight.shape, dtype=weight.dtype))
        whole = self._open[1]
        with torch.no_grad():
            if args:
                found = func(whole, *args[1:], **kwargs)
            else:
                found = func(**{**kwargs, "tensor": whole})
        return weight if found is whole else found
