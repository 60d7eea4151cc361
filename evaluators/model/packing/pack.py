"""Several adapters on one base model at once, each on rows of its own.

Forward hooks on the base modules change their outputs row by row. The base weights are not
modified, and leaving the pack removes the hooks, after an error too.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from kilobit.evaluators.model.base_model import ALONE, Shard
from kilobit.evaluators.model.packing.deltas import (
    Changes,
    LowRank,
    Replaced,
    Scaling,
    Shift,
    SoftPrompt,
)

_Stack = tuple[torch.Tensor, ...]


class Pack:
    """Adapters on one base model; a context manager.

    Args:
        model: the base model.
        slots: each adapter's changes; empty for a candidate without an adapter.
        shard: this rank's view of the model.
    """

    def __init__(self, model: Any, slots: Sequence[Changes], shard: Shard = ALONE) -> None:
        self._model, self._slots, self._shard = model, slots, shard
        self._rows = torch.zeros(0, dtype=torch.long)
        self._soft = torch.zeros(0, 0, dtype=torch.long)
        self._stacks: dict[str, _Stack] = {}
        self._indices: dict[str, torch.Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> "Pack":
        names = dict.fromkeys(name for changes in self._slots for name in changes if name)
        try:
            for name in names:
                self._hook(name, self._model.get_submodule(name))
            if any("" in changes for changes in self._slots):
                embeddings = self._model.get_input_embeddings()
                self._handles.append(embeddings.register_forward_hook(self._softly))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget()

    @contextmanager
    def rows(self, slots: torch.Tensor) -> Iterator[None]:
        """Assign the rows of the next forward passes to slots; `slots` has shape [rows]."""
        self._rows = slots
        try:
            yield
        finally:
            self._forget()

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> Any:
        """Run the model on `input_ids` and return its output.

        A negative id, -1 - i, is a soft token: vector i of its row's slot.
        """
        self._soft = (-1 - input_ids).clamp(min=-1)
        return self._model(input_ids=input_ids.clamp(min=0), **options)

    def select(self, rows: torch.Tensor) -> None:
        """Keep only the given rows."""
        self._rows = self._rows[rows]
        self._indices.clear()

    def _forget(self) -> None:
        # Stacked factors are reused only by passes with the same numbers and rows.
        self._stacks.clear()
        self._indices.clear()

    def _hook(self, name: str, module: nn.Module) -> None:
        kinds = {type(c[name]) for c in self._slots if name in c}
        # Hooks run in this order: first the replacement, then the changes of its output.
        if Replaced in kinds:
            self._handles.append(module.register_forward_hook(partial(self._replaced, name)))
        if LowRank in kinds:
            self._handles.append(module.register_forward_hook(partial(self._low_rank, name)))
        if Shift in kinds:
            self._handles.append(module.register_forward_hook(partial(self._shifted, name)))
        if Scaling in kinds:
            self._handles.append(module.register_forward_hook(partial(self._scaled, name)))

    def _low_rank(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        stack, index = self._stacked(name, LowRank)
        down, up = (part.index_select(0, index) for part in stack)
        x = self._checked(name, args[0]).to(down.dtype)
        return (output + self._shard.low_rank(name, x, down, up)).to(output.dtype)

    def _scaled(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        stack, index = self._stacked(name, Scaling)
        self._checked(name, output)
        factors = self._shard.part_of_output(name, stack[0].index_select(0, index))
        return (output * factors[:, None]).to(output.dtype)

    def _shifted(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        stack, index = self._stacked(name, Shift)
        self._checked(name, output)
        vectors = self._shard.part_of_output(name, stack[0].index_select(0, index))
        return (output + vectors[:, None]).to(output.dtype)

    def _replaced(self, name: str, module: nn.Module, args: Any, output: Any) -> Any:
        """Run each replacement module on its slot's rows."""
        x, parts = self._checked(name, args[0]), output
        for slot, changes in enumerate(self._slots):
            change = changes.get(name)
            if isinstance(change, Replaced):
                of = (self._rows == slot).nonzero()[:, 0]
                if len(of):
                    own = {
                        key: self._shard.part_of_output(name, weight)
                        for key, weight in change.module.named_parameters()
                    }
                    made = torch.func.functional_call(change.module, own, (x[of],))
                    parts = parts.index_copy(0, of, made.to(parts.dtype))
        return parts

    def _softly(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not bool((self._soft >= 0).any()):
            return output
        stack, index = self._stacked("", SoftPrompt)
        vectors = stack[0][index[:, None], self._soft.clamp(min=0)]
        return torch.where(self._soft[..., None] >= 0, vectors.to(output.dtype), output)

    def _checked(self, name: str, x: torch.Tensor) -> torch.Tensor:
        if len(x) != len(self._rows):
            raise ValueError(
                f"{name} gets {len(x)} rows, expected {len(self._rows)}: the model mixes rows "
                "there, so adapters can't share a pass"
            )
        return x

    def _stacked(self, name: str, kind: type) -> tuple[_Stack, torch.Tensor]:
        """Return the stacked numbers of all slots that have any, and each row's index into them."""
        key = f"{kind.__name__} {name}"
        if key not in self._indices:
            positions = [i for i, c in enumerate(self._slots) if isinstance(c.get(name), kind)]
            lookup = torch.full((len(self._slots),), len(positions), device=self._rows.device)
            lookup[positions] = torch.arange(len(positions), device=self._rows.device)
            self._indices[key] = lookup[self._rows]
            if key not in self._stacks:
                self._stacks[key] = self._stack(name, positions, len(positions) < len(self._slots))
        return self._stacks[key], self._indices[key]

    def _stack(self, name: str, positions: Sequence[int], neutral: bool) -> _Stack:
        """Stack the numbers of these slots; `neutral` adds ones that change nothing."""
        changes: list[Any] = [self._slots[i][name] for i in positions]
        if isinstance(changes[0], Scaling):
            factors = [change.factor() for change in changes]
            return (torch.stack(factors + [torch.ones_like(factors[0])] * neutral),)
        if isinstance(changes[0], Shift):
            vectors = [change.vector() for change in changes]
            return (torch.stack(vectors + [torch.zeros_like(vectors[0])] * neutral),)
        if isinstance(changes[0], SoftPrompt):
            return (_padded([change.vectors() for change in changes], 0, neutral),)
        downs, ups = zip(*(change.factors() for change in changes), strict=True)
        return _padded(downs, 0, neutral), _padded(ups, 1, neutral)


def _padded(parts: Sequence[torch.Tensor], dim: int, neutral: bool) -> torch.Tensor:
    """Stack matrices, padded with zeros along `dim`; `neutral` adds a matrix of zeros."""
    longest = max(part.shape[dim] for part in parts)
    padded = []
    for part in parts:
        gap = longest - part.shape[dim]
        padded.append(nn.functional.pad(part, (0, 0, 0, gap) if dim == 0 else (0, gap)))
    return torch.stack(padded + [torch.zeros_like(padded[0])] * neutral)
