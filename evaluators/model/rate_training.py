"""Training options that shorten an adapter's payload: transforms of its numbers and penalties.

In each step a transform turns the trained numbers into the values that the model computes with, and
a penalty in nats of loss. Gradients flow through both to the trained numbers and to the transform's
own tensors (gates, ranges).

`RatePenalty` is entropy-penalised training (Oktay et al. 2020, arXiv 1906.06624, after Ballé):
uniform noise of one quantisation step simulates rounding, and the penalty is the length of the
numbers under a Laplace model of each row. Rows that are not worth their bits shrink to zero.

`LearnedBits` is B-LoRA (Meo et al. 2024, arXiv 2406.13046, after Bayesian Bits, arXiv 2005.07093):
hard-concrete gates choose 2, 4, 8 or 16 bits for each tensor and whether each rank stays.

`Signs` is sign training (BinaryConnect, Courbariaux et al. 2015, arXiv 1511.00363, with the scales
of XNOR-Net, arXiv 1603.05279): a tensor's numbers are their signs times their mean size.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import torch

from kilobit.search.adapter_methods import AdapterSpec

Tensors = dict[str, torch.Tensor]
# Limits of the hard-concrete distribution and its temperature (Louizos et al. 2018).
_STRETCH_LOW, _STRETCH_HIGH, _TEMPERATURE = -0.1, 1.1, 2 / 3
_OPEN_GATE = 3.0
# Width of the noise that simulates rounding, in units of the root mean square of the numbers.
_NOISE_STEP = 0.5
_LEAST_SIZE = 1e-6
BIT_WIDTHS = (2, 4, 8, 16)


class Transform(Protocol):
    """Differentiable transform of an adapter's numbers during training.

    Attributes:
        learned: the transform's own trained tensors, by name.
    """

    learned: Tensors

    def __call__(
        self, weights: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return the values to compute with and the penalty, both differentiable."""
        ...

    def final(self, weights: Mapping[str, torch.Tensor]) -> Tensors:
        """Return the values that a program is built from."""
        ...


class RatePenalty:
    """Entropy-penalised training: rounding noise of one step and a price for bits.

    Args:
        nats_per_kbit: price of a thousand bits of payload.
    """

    def __init__(self, nats_per_kbit: float) -> None:
        self._price = nats_per_kbit / 1000
        self.learned: Tensors = {}

    def __call__(
        self, weights: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return noisy values and the price of their bits."""
        flat = [w.detach().float() for w in weights.values()]
        power = sum(float((w**2).sum()) for w in flat) / sum(w.numel() for w in flat)
        step = _NOISE_STEP * math.sqrt(power)
        noisy, bits = {}, torch.zeros(())
        for name, weight in weights.items():
            noise = torch.rand(weight.shape, generator=generator) - 0.5
            noisy[name] = weight + noise.to(weight) * step
            rows = rows_of(weight)
            # Entropy of a Laplace model of the row, in steps; the added 1 keeps it above zero.
            spread = rows.abs().mean(1) / step
            bits = bits + (rows.shape[1] * torch.log2(1 + 2 * math.e * spread)).sum().cpu()
        return noisy, self._price * bits

    def final(self, weights: Mapping[str, torch.Tensor]) -> Tensors:
        """Return the numbers unchanged; they are rounded when the program is built."""
        return dict(weights)


class LearnedBits:
    """Training with learned gates for bit widths and ranks.

    Args:
        nats_per_kbit: price of a thousand bits.
        weights: the numbers at the beginning of training.
    """

    def __init__(self, nats_per_kbit: float, weights: Mapping[str, torch.Tensor]) -> None:
        self._price = nats_per_kbit / 1000
        self.learned: Tensors = {}
        for name, weight in weights.items():
            self.learned[f"range/{name}"] = torch.tensor(first_range(weight))
            self.learned[f"bits/{name}"] = torch.full((len(BIT_WIDTHS) - 1,), _OPEN_GATE)
            if "lora_B" in name:
                self.learned[f"rank/{name}"] = torch.full((rows_of(weight).shape[0],), _OPEN_GATE)
        for tensor in self.learned.values():
            tensor.requires_grad_()

    def __call__(
        self, weights: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return quantised values with sampled gates and the price of the expected bits."""
        values, bits = {}, torch.zeros(())
        for name, weight in weights.items():
            logits = self.learned[f"bits/{name}"]
            gates = _sampled(logits, generator)
            values[name] = self._quantised(name, weight, gates)
            ranks = self.learned.get(f"rank/{name.replace('lora_A', 'lora_B')}")
            alive = torch.ones(()) if ranks is None else open_probability(ranks).mean()
            if f"rank/{name}" in self.learned:
                assert ranks is not None
                values[name] = _scaled(values[name], _sampled(ranks, generator))
            chain = torch.cumprod(open_probability(logits), 0)
            width = BIT_WIDTHS[0] + sum(
                (wide - narrow) * chain[i] for i, (narrow, wide) in enumerate(pairwise(BIT_WIDTHS))
            )
            bits = bits + weight.numel() * alive * width
        return values, self._price * bits

    @torch.no_grad()
    def final(self, weights: Mapping[str, torch.Tensor]) -> Tensors:
        """Return the quantised values with every gate either open or closed."""
        values = {}
        for name, weight in weights.items():
            gates = (open_probability(self.learned[f"bits/{name}"]) > 0.5).float()
            values[name] = self._quantised(name, weight, gates)
            if f"rank/{name}" in self.learned:
                ranks = (open_probability(self.learned[f"rank/{name}"]) > 0.5).float()
                values[name] = _scaled(values[name], ranks)
        return values

    def bit_width(self, name: str) -> int:
        """Return the bit width of a tensor's numbers."""
        width = BIT_WIDTHS[0]
        for wide, gate in zip(
            BIT_WIDTHS[1:], open_probability(self.learned[f"bits/{name}"]), strict=True
        ):
            if float(gate) <= 0.5:
                break
            width = wide
        return width

    def step(self, name: str) -> float:
        """Return the quantisation step of a tensor."""
        limit = float(self.learned[f"range/{name}"].exp())
        return 2 * limit / float(2 ** self.bit_width(name) - 1)

    def _quantised(self, name: str, weight: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        limit = self.learned[f"range/{name}"].exp().to(weight)
        clipped = torch.minimum(torch.maximum(weight, -limit), limit)
        step = 2 * limit / (2 ** BIT_WIDTHS[0] - 1)
        value = _rounded(clipped, step)
        open_so_far: Any = 1.0
        for gate, narrow in zip(gates, BIT_WIDTHS, strict=False):
            step = step / (2**narrow + 1)
            open_so_far = open_so_far * gate
            value = value + open_so_far * _rounded(clipped - value.detach(), step)
        # Straight-through estimator: the clipped number gets its gradient as if it was not rounded.
        return value + (clipped - clipped.detach())


class Signs:
    """Training of signs, with one size for all numbers of a tensor.

    Args:
        initial: what the numbers are written as differences from, by name.
    """

    def __init__(self, initial: Mapping[str, torch.Tensor]) -> None:
        self._initial = initial
        self.learned: Tensors = {}

    def __call__(
        self, weights: Mapping[str, torch.Tensor], generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return signs times sizes, which give the numbers their gradients, and no penalty."""
        final = self.final(weights)
        # Straight-through estimator: a number gets the gradient of its sign.
        values = {name: final[name] + w - w.detach() for name, w in weights.items()}
        return values, torch.zeros((), requires_grad=True)

    @torch.no_grad()
    def final(self, weights: Mapping[str, torch.Tensor]) -> Tensors:
        """Return signs times sizes."""
        values = {}
        for name, weight in weights.items():
            change = weight - self._initial[name]
            signs = torch.where(change < 0, -1.0, 1.0).to(weight)
            values[name] = self._initial[name] + signs * change.abs().mean()
        return values

    @torch.no_grad()
    def size(self, name: str, weight: torch.Tensor) -> float:
        """Return the size of a tensor's numbers, at least a tiny one."""
        return max(float((weight - self._initial[name]).abs().mean()), _LEAST_SIZE)


def rows_of(weight: torch.Tensor) -> torch.Tensor:
    """Return a view of `weight` as rows along its longer side, shape [rows, columns].

    Raises:
        ValueError: if it has more than two dimensions.
    """
    rows: torch.Tensor = torch.atleast_2d(weight)  # type: ignore[no-untyped-call]
    if rows.dim() > 2:
        raise ValueError(f"a tensor of shape {tuple(weight.shape)} can't be part of an adapter")
    return rows.T if len(rows) > rows.shape[1] else rows


def first_range(weight: torch.Tensor) -> float:
    """Return the logarithm of the first range of learned bits; all numbers fit into it."""
    return math.log(1.5 * max(float(weight.detach().abs().max()), 0.05))


def transform_of(spec: AdapterSpec, weights: Mapping[str, torch.Tensor]) -> Transform | None:
    """Return the transform that a spec asks for, None for plain training."""
    if spec.training == "rate":
        return RatePenalty(spec.nats_per_kbit or 0.0)
    if spec.training == "bits":
        return LearnedBits(spec.nats_per_kbit or 0.0, weights)
    if spec.training == "signs":
        start = {name: w.detach().clone() for name, w in weights.items()}
        zeros = {name: torch.zeros_like(w) for name, w in start.items()}
        return Signs(start if spec.traits.delta else zeros)
    return None


def _rounded(value: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Round `value` to a multiple of `step`; the gradient reaches the step, not the value."""
    return torch.round((value / step).detach()) * step


def _scaled(value: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
    rows = rows_of(value) * gates[:, None].to(value)
    return rows if rows.shape == value.shape else rows.T


def _sampled(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid((noise.log() - (1 - noise).log() + logits) / _TEMPERATURE)
    return (soft * (_STRETCH_HIGH - _STRETCH_LOW) + _STRETCH_LOW).clamp(0, 1)


def open_probability(logits: torch.Tensor) -> torch.Tensor:
    """Return the probability that a gate is open."""
    return torch.sigmoid(logits - _TEMPERATURE * math.log(-_STRETCH_LOW / _STRETCH_HIGH))
