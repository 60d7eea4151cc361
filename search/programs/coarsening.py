"""Coarser programs from one trained adapter: the steps of a rate search.

A coarsening has fewer and coarser numbers than the trained adapter.

Low-rank pairs are rotated first, so that the components of a product are ordered and both factors
are of equal size; the product stays what it was. Only the encoder runs this code, so its results
need not agree between machines.

A rate search makes many programs from one trained adapter, because training takes most of the time;
each of these programs only has to be scored on the same examples.
"""

import math
from collections.abc import Sequence

import numpy as np

from kilobit.search.programs.numbers import Integers, Tensor, quantise, quantise_each

# Positions of tensors whose rows belong together: (A, B) of a low-rank product, or one alone.
Units = Sequence[tuple[int, ...]]

# Share of a start's squared size below which a change of it says nothing yet.
_NOTHING = 0.02


def rotated(tensors: Sequence[Tensor], units: Units) -> list[Tensor]:
    """Return the same products from balanced factors with orthogonal, ordered components.

    A pair (A, B) holds A of shape [rank, inputs] and B of shape [rank, outputs]; the product is
    B^T A.
    """
    found = list(tensors)
    for unit in units:
        if len(unit) != 2:
            continue
        first, second = (tensors[i].astype(np.float64) for i in unit)
        left, right = np.linalg.qr(second.T), np.linalg.qr(first.T)
        u, s, vt = np.linalg.svd(left.R @ right.R.T, full_matrices=False)
        root = np.sqrt(s)[:, None]
        # A rank above a layer's side has components that are zero.
        more = ((0, len(first) - len(s)), (0, 0))
        found[unit[0]] = np.pad((root * (right.Q @ vt.T).T).astype(np.float32), more)
        found[unit[1]] = np.pad((root * (left.Q @ u).T).astype(np.float32), more)
    return found


def pruned(tensors: Sequence[Tensor], units: Units, keep: float) -> list[Tensor]:
    """Return the tensors with only the largest fraction `keep` of their components.

    A component is a row, for a pair the rows of both; its size is the product of their norms.
    """
    components = [
        (math.prod(float(np.linalg.norm(tensors[i][row])) for i in unit), unit, row)
        for unit in units
        for row in range(len(tensors[unit[0]]))
    ]
    components.sort(key=lambda component: component[0], reverse=True)
    found = [tensor.copy() for tensor in tensors]
    for _, unit, row in components[math.ceil(keep * len(components)) :]:
        for i in unit:
            found[i][row] = 0
    return found


def coarse(
    tensors: Sequence[Tensor], units: Units, step: float, keep: float
) -> tuple[int, list[Integers]]:
    """Return the step byte and the integers of an adapter that is pruned and quantised.

    Args:
        tensors: the trained numbers, each of shape [rows, columns].
        units: which tensors belong together.
        step: in units of the root mean square of all numbers before pruning.
        keep: fraction of the components that stay.

    Raises:
        ValueError: if a number is not finite.
    """
    total = sum(tensor.size for tensor in tensors)
    power = sum(map(_power, tensors)) / max(1, total)
    if not math.isfinite(power):
        raise ValueError("the adapter holds numbers that are not finite")
    small = pruned(rotated(tensors, units), units, keep)
    return quantise(small, step * math.sqrt(power) if power > 0 else 1.0)


def coarse_changes(
    tensors: Sequence[Tensor], starts: Sequence[Tensor], units: Units, step: float, keep: float
) -> tuple[int, bytes, list[Integers]]:
    """Return a low-rank adapter as integer differences from the numbers that it began with.

    Its factors are not balanced first, as that would change A everywhere. Instead each has a step
    of its own, by which the product loses as much as by the common step of balanced factors.

    Args:
        tensors: the trained numbers, pairs of A [rank, inputs] and B [rank, outputs].
        starts: those of the beginning, zero for B.
        units: the pairs, each an even position and the next one.
        step: in units of the root mean square of all numbers before pruning.
        keep: fraction of the components that stay.

    Returns:
        The step byte of the second factors, that of the first ones, and the integers.

    Raises:
        ValueError: if a number is not finite.
    """
    kept = pruned(tensors, units, keep)
    norms = [math.sqrt(sum(_power(tensors[unit[i]]) for unit in units)) for i in (0, 1)]
    if not all(map(math.isfinite, norms)):
        raise ValueError("the adapter holds numbers that are not finite")
    size = step * math.hypot(*norms) / math.sqrt(sum(tensor.size for tensor in tensors))
    # Without any product every step is fine enough.
    ratio = math.sqrt(norms[0] / norms[1]) if all(norms) else 1.0
    second, ups = quantise([kept[j] for _, j in units], size / ratio or 1.0)
    changes = [
        # A component whose B is zero adds nothing, whatever its A is.
        np.where(up.any(1, keepdims=True), kept[i] - starts[i], np.float32(0))
        for (i, _), up in zip(units, ups, strict=True)
    ]
    first, downs = quantise(changes, size * ratio or 1.0)
    pairs = zip(downs, ups, strict=True)
    return second, bytes([first]), [factor for pair in pairs for factor in pair]


def kept_share(
    tensors: Sequence[Tensor], starts: Sequence[Tensor], near: Sequence[Tensor]
) -> float:
    """Return how much of the change from `starts` to `tensors` is in the differences `near`.

    It is their projection on the change, as a share of the change; 1 where this is nothing beside
    the start, as after a very short training.
    """
    pairs = [(np.float64(t) - s, n) for t, s, n in zip(tensors, starts, near, strict=True)]
    whole = sum(float((change**2).sum()) for change, _ in pairs)
    if whole <= _NOTHING * sum(map(_power, starts)):
        return 1.0
    return sum(float((change * n).sum()) for change, n in pairs) / whole


def _power(tensor: Tensor) -> float:
    return float((tensor.astype(np.float64) ** 2).sum())


def coarse_each(
    tensors: Sequence[Tensor], units: Units, steps: Sequence[float], factor: float, keep: float
) -> tuple[int, bytes, list[Integers]]:
    """Return the step byte, each tensor's addition to it, and the integers, for learned steps.

    The adapter has learned a step for each tensor. The tensors lie on grids of their steps already,
    so they are not rotated.

    Args:
        tensors: the trained numbers, each of shape [rows, columns].
        units: which tensors belong together.
        steps: the learned steps.
        factor: multiplier of the learned steps.
        keep: fraction of the components that stay.

    Raises:
        ValueError: if a number is not finite.
    """
    return quantise_each(pruned(tensors, units, keep), [factor * step for step in steps])
