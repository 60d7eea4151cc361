"""The safetensors files of a base model, of which a rank reads no more than what it keeps.

transformers lays some weights out in another way than their files: experts that are stored one by
one are one tensor in the model. Its own operations are run once here, on stand-ins for the stored
tensors that remember where each number comes from. A part of a weight is then read by slices, one
stored tensor after the other, straight to its place: beside the part itself there is never more
in memory than what it needs of one stored tensor.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

_Box = tuple[slice, ...]


class Checkpoint:
    """Weights that are read in parts.

    Attributes:
        bytes_read: so far.
        largest_read: bytes of the largest slice so far.
    """

    def __init__(self) -> None:
        self.bytes_read = self.largest_read = 0
        self._stored: dict[str, _Stored] = {}
        self._types: dict[str, torch.dtype] = {}

    @classmethod
    def of(cls, bare: Any, source: str, options: Mapping[str, Any]) -> "Checkpoint | None":
        """Return the checkpoint of a model without weights.

        Weights of the model that transformers keeps in a longer type get that type.

        None if the files lack a weight, or transformers computes one from what is stored, so that
        it has to read the weights itself.
        """
        found = cls()
        _lengthen(bare)
        try:
            found._stored = _arranged(bare, found._files(source, options))
        except NotImplementedError:
            return None
        # Tied weights have several names there, of which the first is read.
        wanted = {**dict(bare.named_parameters()), **_kept_buffers(bare)}
        if any(name not in found._stored for name in wanted):
            return None
        found._types = {name: tensor.dtype for name, tensor in wanted.items()}
        return found

    def part(self, name: str, start: int, end: int) -> Tensor:
        """Return the numbers from `start` to `end` of a weight's numbers in their order."""
        out = torch.empty(end - start, dtype=self._types[name])
        _fill_range(self._stored[name], (), start, end, out)
        return out

    def fill_buffers(self, model: torch.nn.Module) -> None:
        """Read the buffers that are stored with the weights into a model, whole."""
        for name, buffer in _kept_buffers(model).items():
            owner, _, last = name.rpartition(".")
            whole = self.part(name, 0, buffer.numel()).view(buffer.shape)
            setattr(model.get_submodule(owner), last, whole)

    def _files(self, source: str, options: Mapping[str, Any]) -> "dict[str, _Stored]":
        """Return a stand-in for each tensor of the files."""
        from transformers.utils.hub import cached_file

        def file_of(name: str, **more: Any) -> Any:
            revision = options.get("revision", "main")
            return cached_file(source, name, revision=revision, **more)

        index = file_of("model.safetensors.index.json", _raise_exceptions_for_missing_entries=False)
        names = ["model.safetensors"]
        if index is not None:
            names = sorted(set(json.loads(Path(index).read_text("utf-8"))["weight_map"].values()))
        stored: dict[str, _Stored] = {}
        for path in map(file_of, names):
            file: Any = safe_open(path, "pt")
            for key in file.keys():  # noqa: SIM118 - not a mapping
                shape = torch.Size(file.get_slice(key).get_shape())
                stored[key] = _InFile(shape, file, key, self._count)
        return stored

    def _count(self, read: Tensor) -> None:
        self.bytes_read += read.nbytes
        self.largest_read = max(self.largest_read, read.nbytes)


def _lengthen(bare: Any) -> None:
    """Set the types in which transformers loads the weights, on a model without weights."""
    from transformers.core_model_loading import build_glob_alternation

    plan = bare._get_dtype_plan(bare.dtype)  # noqa: SLF001 - it has no other
    if not plan:
        return
    pattern, globs, _ = build_glob_alternation(list(plan))
    for name, tensor in (*bare.named_parameters(), *bare.named_buffers()):
        if (found := pattern.search(name)) is not None and found.lastgroup is not None:
            tensor.data = tensor.data.to(plan[globs[found.lastgroup]])


def _kept_buffers(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are stored with the weights."""
    state = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in state}


def _arranged(bare: Any, stored: "Mapping[str, _Stored]") -> "dict[str, _Stored]":
    """Return a stand-in for each weight of a model, arranged as transformers would.

    Source: `convert_and_load_state_dict_in_model` of transformers.

    Raises:
        NotImplementedError: if it computes more than an arrangement.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    changes = get_model_conversion_mapping(bare)
    renamings = [one for one in changes if isinstance(one, WeightRenaming)]
    converters = [one for one in changes if isinstance(one, WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    wanted, prefix = bare.state_dict(), bare.base_model_prefix
    arranged: dict[str, _Stored] = {}
    started: dict[str, Any] = {}
    for key in sorted(stored, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:
            name, pattern = key, None
        if name not in wanted:
            continue
        if pattern is None:
            arranged[name] = stored[key]
        else:
            converter = started.setdefault(name, deepcopy(by_pattern[pattern]))
            converter.add_tensor(name, key, pattern, stored[key])
    for first, converter in started.items():
        arranged |= converter.convert(first, model=bare, config=bare.config)
    return {
        name: one
        for name, one in arranged.items()
        if name in wanted and one.shape == wanted[name].shape
    }


class _Stored:
    """Stand-in for a tensor: torch's functions rearrange it without reading it."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = torch.Size(shape)

    def fill(self, box: _Box, out: Tensor) -> None:
        """Read the numbers of a box, which has a slice for each dimension, into `out`."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(f"{name} of a stored tensor is not known before it is read")

    def contiguous(self) -> "_Stored":
        """Return itself: it has no strides."""
        return self

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func not in _ARRANGEMENTS:
            raise NotImplementedError(f"{func.__name__} is no arrangement of stored tensors")
        return _ARRANGEMENTS[func](*args, **(kwargs or {}))


class _InFile(_Stored):
    """A tensor of a file."""

    def __init__(
        self, shape: Sequence[int], file: Any, key: str, count: Callable[[Tensor], None]
    ) -> None:
        super().__init__(shape)
        self._file, self._key, self._count = file, key, count

    def fill(self, box: _Box, out: Tensor) -> None:
        """See `_Stored.fill`."""
        found = self._file.get_slice(self._key)[box] if box else self._file.get_tensor(self._key)
        self._count(found)
        out.copy_(found)


class _Joined(_Stored):
    """Tensors one after the other along a dimension."""

    def __init__(self, parts: Sequence[_Stored], dim: int = 0) -> None:
        shape = list(parts[0].shape)
        self._parts, self._dim = parts, dim % len(shape)
        sizes = [part.shape[self._dim] for part in parts]
        self._bounds = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        shape[self._dim] = self._bounds[-1]
        super().__init__(shape)

    def fill(self, box: _Box, out: Tensor) -> None:
        """See `_Stored.fill`."""
        asked = box[self._dim]
        for part, (first, last) in zip(self._parts, pairwise(self._bounds), strict=True):
            start, stop = max(asked.start, first), min(asked.stop, last)
            if start < stop:
                own = slice(start - first, stop - first)
                place = out.narrow(self._dim, start - asked.start, stop - start)
                part.fill((*box[: self._dim], own, *box[self._dim + 1 :]), place)


class _Stacked(_Stored):
    """Tensors of one shape along a new dimension."""

    def __init__(self, parts: Sequence[_Stored], dim: int = 0) -> None:
        if len({part.shape for part in parts}) != 1:
            raise NotImplementedError("stored tensors of several shapes can't be stacked")
        shape = list(parts[0].shape)
        self._parts, self._dim = parts, dim % (len(shape) + 1)
        super().__init__((*shape[: self._dim], len(parts), *shape[self._dim :]))

    def fill(self, box: _Box, out: Tensor) -> None:
        """See `_Stored.fill`."""
        asked, rest = box[self._dim], (*box[: self._dim], *box[self._dim + 1 :])
        for at in range(asked.start, asked.stop):
            self._parts[at].fill(rest, out.select(self._dim, at - asked.start))


class _Transposed(_Stored):
    """A tensor with two dimensions swapped."""

    def __init__(self, one: _Stored, dim0: int, dim1: int) -> None:
        self._one, self._dims = one, (dim0 % len(one.shape), dim1 % len(one.shape))
        super().__init__(self._swap(one.shape))

    def _swap(self, values: Sequence[Any]) -> tuple[Any, ...]:
        swapped = list(values)
        first, second = self._dims
        swapped[first], swapped[second] = swapped[second], swapped[first]
        return tuple(swapped)

    def fill(self, box: _Box, out: Tensor) -> None:
        """See `_Stored.fill`."""
        self._one.fill(self._swap(box), out.transpose(*self._dims))


class _Cut(_Stored):
    """Tensor between two bounds of a dimension of another."""

    def __init__(self, one: _Stored, dim: int, start: int, stop: int) -> None:
        self._one, self._dim, self._start = one, dim, start
        super().__init__((*one.shape[:dim], stop - start, *one.shape[dim + 1 :]))

    def fill(self, box: _Box, out: Tensor) -> None:
        """See `_Stored.fill`."""
        asked = box[self._dim]
        moved = slice(asked.start + self._start, asked.stop + self._start)
        self._one.fill((*box[: self._dim], moved, *box[self._dim + 1 :]), out)


def _split(one: _Stored, sizes: int | Sequence[int], dim: int = 0) -> tuple[_Stored, ...]:
    """Cut a tensor as `torch.split` does."""
    dim %= len(one.shape)
    whole = one.shape[dim]
    if isinstance(sizes, int):
        bounds = [*range(0, whole, sizes), whole]
    else:
        bounds = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
    return tuple(_Cut(one, dim, start, stop) for start, stop in pairwise(bounds))


def _chunk(one: _Stored, chunks: int, dim: int = 0) -> tuple[_Stored, ...]:
    """Cut a tensor as `torch.chunk` does."""
    return _split(one, -(-one.shape[dim] // chunks), dim)


_ARRANGEMENTS: Mapping[Any, Callable[..., Any]] = {
    torch.cat: _Joined,
    torch.stack: _Stacked,
    torch.transpose: _Transposed,
    torch.chunk: _chunk,
    torch.split: _split,
}


def _fill_range(stored: _Stored, at: tuple[int, ...], start: int, end: int, out: Tensor) -> None:
    """Read numbers from `start` to `end` of a tensor's numbers, or of those at leading indices."""
    shape = stored.shape[len(at) :]
    fixed = tuple(slice(index, index + 1) for index in at)
    if len(shape) < 2:
        box = (*fixed, slice(start, end)) if shape else fixed
        stored.fill(box, out.view([1] * len(fixed) + [end - start] * len(shape)))
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), end // row
    if first > last:
        _fill_range(stored, (*at, last), start - last * row, end - last * row, out)
        return
    head, tail = first * row - start, end - last * row
    if head:
        _fill_range(stored, (*at, first - 1), row - head, row, out[:head])
    if first < last:
        box = (*fixed, slice(first, last), *(slice(0, size) for size in shape[1:]))
        whole = out[head : len(out) - tail]
        stored.fill(box, whole.view([1] * len(fixed) + [last - first, *shape[1:]]))
    if tail:
        _fill_range(stored, (*at, last), 0, tail, out[len(out) - tail :])
