import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilobit.search.programs.coarsening import (
    Units,
    coarse,
    coarse_changes,
    kept_share,
    pruned,
    rotated,
)
from kilobit.search.programs.numbers import Tensor, step_of


def pair(rank: int, inputs: int, outputs: int, seed: int) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(rank, inputs)), 5 * rng.normal(size=(rank, outputs))
    return [first.astype(np.float32), second.astype(np.float32)]


def sizes(tensors: list[Tensor]) -> np.ndarray:
    norms: np.ndarray = np.prod([np.linalg.norm(t, axis=1) for t in tensors], axis=0)
    return norms


@given(st.integers(1, 6), st.integers(6, 20), st.integers(6, 20), st.integers(0, 9))
def test_rotation_keeps_the_product_and_orders_its_components(
    rank: int, inputs: int, outputs: int, seed: int
) -> None:
    a, b = pair(rank, inputs, outputs, seed)
    new_a, new_b = rotated([a, b], [(0, 1)])
    product = b.T @ a
    assert np.allclose(new_b.T @ new_a, product, atol=1e-5 * np.abs(product).max())
    found = sizes([new_a, new_b])
    assert np.all(np.diff(found) <= 1e-4 * found[0])
    # Balanced and orthogonal: the rows of both are as long, and stand upright on each other.
    for rows in (new_a, new_b):
        gram = rows @ rows.T
        assert np.allclose(np.diag(gram), found, rtol=1e-3, atol=1e-4 * found[0])
        assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-4 * found[0]


def test_what_is_no_pair_is_not_rotated() -> None:
    tensors = [*pair(2, 4, 4, 0), *pair(2, 3, 3, 1)]
    found = rotated(tensors, [(0,), (1,), (2, 3)])
    assert np.array_equal(found[0], tensors[0])
    assert np.array_equal(found[1], tensors[1])
    assert not np.array_equal(found[2], tensors[2])


@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 1.0])
def test_pruning_keeps_the_largest_components_of_all_units(keep: float) -> None:
    tensors = [*pair(4, 5, 6, 0), *pair(3, 5, 6, 1), *pair(5, 7, 7, 2)[:1]]
    units: Units = [(0, 1), (2, 3), (4,)]
    before = np.concatenate([sizes([tensors[i] for i in unit]) for unit in units])
    after = np.concatenate([sizes([pruned(tensors, units, keep)[i] for i in u]) for u in units])
    kept = int(np.ceil(keep * 12))
    assert np.count_nonzero(after) == kept
    assert set(np.argsort(before)[-kept:]) == set(np.flatnonzero(after))
    assert np.allclose(after[after > 0], before[after > 0])


def test_pruning_leaves_its_input_alone() -> None:
    tensors = pair(4, 5, 6, 0)
    copies = [t.copy() for t in tensors]
    pruned(tensors, [(0, 1)], 0.25)
    assert all(np.array_equal(t, c) for t, c in zip(tensors, copies, strict=True))


def test_a_step_is_in_units_of_the_root_mean_square() -> None:
    for size in (1e-3, 1.0, 50.0):
        tensors = [np.full((2, 8), size, np.float32)]
        code, (integers,) = coarse(tensors, [(0,)], 0.5, 1.0)
        assert step_of(code) == pytest.approx(size / 2, rel=0.05)
        assert np.all(integers == 2)


@pytest.mark.parametrize(("moved", "up"), [(0.05, 0.2), (0.5, 0.01), (0.01, 30.0)])
def test_changes_lose_as_much_as_balanced_factors_and_are_smaller(moved: float, up: float) -> None:
    rng, units = np.random.default_rng(0), [(0, 1), (2, 3)]
    starts, tensors = [], list[Tensor]()
    for inputs, outputs in ((64, 24), (32, 96)):
        start = rng.normal(size=(2, inputs)).astype(np.float32)
        starts += [start, np.zeros((2, outputs), np.float32)]
        change = moved * rng.normal(size=start.shape)
        tensors += [(start + change).astype(np.float32)]
        tensors += [(up * rng.normal(size=(2, outputs))).astype(np.float32)]
    for step in (0.125, 0.5):
        code, integers = coarse(tensors, units, step, 1.0)
        plain = [step_of(code) * i for i in integers]
        second, first, changes = coarse_changes(tensors, starts, units, step, 1.0)
        steps = [step_of(first[0]), step_of(second)] * 2
        near = [s + i * t for s, i, t in zip(starts, changes, steps, strict=True)]
        error, other = (
            sum(
                float(np.linalg.norm(q[j].T @ q[i] - tensors[j].T @ tensors[i]) ** 2)
                for i, j in units
            )
            for q in (plain, near)
        )
        assert other < 1.3 * error
        assert np.abs(changes[0]).sum() < 0.7 * np.abs(integers[0]).sum()


def test_what_differences_keep_is_their_projection_on_the_change() -> None:
    start, end = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    across = np.array([[1, -1, 0], [1, 0, -1]], np.float32)
    for near, share in ((end, 1), (end / 2, 0.5), (0 * end, 0), (across, 0), (end + across, 1)):
        assert kept_share([end], [start], [near]) == share
    assert kept_share([end, start], [start, start], [0 * end, end]) == 0
    for moved, share in ((0.1, 1), (0.2, 0)):
        assert kept_share([(1 + moved) * end], [end], [start]) == share
    assert kept_share([start], [start], [end]) == 1


def test_changes_of_components_without_effect_are_zero() -> None:
    first, second = pair(4, 5, 6, 0)
    second[1] = 0
    starts = [np.zeros_like(first), np.zeros_like(second)]
    for keep, left in ((1.0, 3), (0.5, 2)):
        _, _, (downs, ups) = coarse_changes([first, second], starts, [(0, 1)], 0.1, keep)
        assert np.array_equal(downs.any(1), ups.any(1))
        assert np.count_nonzero(ups.any(1)) == left
    nothing = [first, np.zeros_like(second)]
    _, _, changes = coarse_changes(nothing, [first, starts[1]], [(0, 1)], 0.1, 1.0)
    assert not any(change.any() for change in changes)


def test_changes_that_are_not_finite_are_refused() -> None:
    first, second = pair(2, 4, 4, 0)
    second[0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        coarse_changes([first, second], [first, 0 * first], [(0, 1)], 0.1, 1.0)


def test_a_finer_step_is_nearer_and_fewer_components_are_farther() -> None:
    tensors = pair(4, 16, 16, 3)
    product = tensors[1].T @ tensors[0]

    def error(step: float, keep: float) -> float:
        code, integers = coarse(tensors, [(0, 1)], step, keep)
        a, b = (i * step_of(code) for i in integers)
        return float(np.linalg.norm(b.T @ a - product))

    assert error(0.125, 1.0) < error(0.5, 1.0) < error(2.0, 1.0)
    assert error(0.125, 1.0) < error(0.125, 0.5) < error(0.125, 0.25)


def test_an_adapter_of_zeros_is_one_of_zeros() -> None:
    _, (integers,) = coarse([np.zeros((2, 3), np.float32)], [(0,)], 0.5, 1.0)
    assert not integers.any()


def test_numbers_that_are_not_finite_are_refused() -> None:
    for bad in (np.nan, np.inf):
        tensors = [np.full((1, 2), bad, np.float32), np.ones((1, 2), np.float32)]
        with pytest.raises(ValueError, match="not finite"):
            coarse(tensors, [(0, 1)], 0.5, 1.0)
