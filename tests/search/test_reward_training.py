from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kilobit.evaluators.model.adapters import Adapter, installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.numbers import NumbersCode, decode_numbers, step_of
from kilobit.search.reward_training import Rewards, RewardTraining, examples_of
from kilobit.search.streams import noise_signs, stream
from tests.support.recipes import NUMBER_METHODS, adapter_spec

SHAPES = [(2, 5), (1, 3)]


def spec(method: str = "tinylora", **changes: Any) -> AdapterSpec:
    return adapter_spec(method, **{"training": "reward", "population": 6, "step": 0.125, **changes})


def training(**changes: Any) -> RewardTraining:
    return RewardTraining(spec(**changes), SHAPES, 0.1)


def flat(tensors: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([tensor.reshape(-1) for tensor in tensors])


@pytest.fixture(scope="module")
def frozen(model_folders: dict[str, Path]) -> FrozenModel:
    return load(BaseModelConfig(regime="r", path=model_folders["llama"]), Path())


def test_members_are_antithetic_pairs_around_the_middle() -> None:
    reward = training(spread=2.0)
    reward.learn([[1.0], [0.0]] * 3)
    members = [flat(member) for member in reward.members()]
    middle, step = flat(reward.numbers()), np.float32(step_of(reward.code))
    assert len(members) == 6
    away = {round(float(x)) for member in members for x in np.abs(member - middle) / step}
    assert away == {round(2 * 3**0.5)}
    for plus, minus in zip(members[::2], members[1::2], strict=True):
        assert np.allclose(plus - middle, middle - minus)
    assert len({member.tobytes() for member in members}) == 6


def test_numbers_move_to_the_better_member_of_each_pair() -> None:
    reward = training()
    noise = [noise_signs(reward.replay.seed, i, 16)[:13].astype(int) for i in range(3)]
    reward.learn([[0.5, 0.2], [0.2, 0.2], [0.1, 0.4], [0.9, 0.1], [0.3, 0.3], [0.3, 0.3]])
    assert reward.replay.signs == [1, -1, 0]
    assert reward.replay.sums.tolist() == (noise[0] - noise[1]).tolist()
    assert np.array_equal(
        flat(reward.numbers()), (noise[0] - noise[1]).astype(np.float32) * step_of(reward.code)
    )


def test_a_generation_moves_a_number_about_as_far_as_the_learning_rate() -> None:
    reward, rng = RewardTraining(spec(population=16), [(1, 4000)], 0.1), stream(0, "scores")
    reward.learn([[rng.random()] for _ in range(16)])
    moved = float(np.sqrt((flat(reward.numbers()) ** 2).mean()))
    assert moved == pytest.approx(0.1, rel=0.1)


def test_an_example_without_a_score_counts_for_neither_member_of_its_pair() -> None:
    reward = training(population=2)
    reward.learn([[None, 0.2], [0.0, 0.4]])
    reward.learn([[None, 0.2], [0.9, None]])
    assert reward.replay.signs == [-1, 0]
    rewards = Rewards()
    rewards.add([[None, 0.2], [0.0, 0.4], [None, None]])
    assert rewards.means == [pytest.approx(0.2)]
    assert rewards.bests == [pytest.approx(0.2)]
    rewards.add([[None], [None]])
    assert len(rewards.means) == 1


def test_it_finds_the_numbers_that_a_reward_asks_for() -> None:
    # A reward that rises towards some numbers, in steps as those of an exact match are.
    wanted = np.array([0.5, -0.5, 0.3, 0.0, -0.2] * 2 + [0.4, 0.1, -0.4], np.float32)
    reward = RewardTraining(spec(population=12, spread=1.0), SHAPES, 0.05)
    first = float(np.abs(wanted).sum())
    for _ in range(60):
        gaps = [float(np.abs(flat(member) - wanted).sum()) for member in reward.members()]
        reward.learn([[round(1 - gap / 8, 2)] for gap in gaps])
    assert float(np.abs(flat(reward.numbers()) - wanted).sum()) < first / 2


def test_the_default_population_grows_with_the_numbers() -> None:
    found = [spec(population=None).num_pairs(count) for count in (1, 13, 64, 1000, 100_000)]
    assert found == [2, 6, 8, 12, 19]


def test_examples_are_common_distinct_and_others_in_each_generation() -> None:
    train = load_miniature("numbers", 0).splits.train
    drawn = [[e.id for e in examples_of(spec(batch_size=8), train, g)] for g in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 8
    assert len(examples_of(spec(batch_size=8), train[:5], 0)) == 5


def learned(adapter: Adapter, generations: int) -> None:
    assert adapter.reward is not None
    for generation in range(generations):
        rng = stream(generation, "scores")
        members = 2 * adapter.reward.num_pairs
        adapter.learn([[round(rng.random(), 1)] for _ in range(members)])


def weights_of(adapter: Adapter) -> list[torch.Tensor]:
    return [weight.detach().clone() for weight in adapter.weights.values()]


@pytest.mark.parametrize("method", NUMBER_METHODS)
def test_a_replay_has_the_numbers_that_were_trained(frozen: FrozenModel, method: str) -> None:
    with installed(frozen, spec(method)) as adapter:
        learned(adapter, 3)
        reward = adapter.reward
        assert reward is not None
        trained, state = weights_of(adapter), adapter.state()
        way = NumbersCode(coder="replay", signs=len(reward.replay.signs))
        part = adapter.part(way, from_seed=adapter.pairs_from_seed)
        section = bytes([reward.code]) + reward.replay.section()
        adapter.assign([])
        adapter.assign(decode_numbers(section, part.shapes, way), part.delta)
        for mine, told in zip(trained, weights_of(adapter), strict=True):
            assert torch.equal(mine, told)
    # A checkpoint goes on where it was written.
    with installed(frozen, spec(method)) as at_once, torch.no_grad():
        learned(at_once, 3)
        expected = at_once.state()
    assert expected == state
    with installed(frozen, spec(method)) as again:
        again.restore(state)
        assert again.steps == 3
        assert all(map(torch.equal, weights_of(again), trained))
        assert again.state() == state


def test_another_adapters_numbers_are_where_it_begins(frozen: FrozenModel) -> None:
    with installed(frozen, spec("lora")) as adapter:
        assert adapter.reward is not None
        adapter.reward.base = [tensor + 1 for tensor in adapter.tensors()]
        learned(adapter, 2)
        trained, state = adapter.tensors(), adapter.state()
        moved = adapter.reward.replay.sums * step_of(adapter.reward.code)
        assert moved.any()
        assert np.allclose(flat(trained) - flat(adapter.reward.base), moved, atol=1e-6)
    with installed(frozen, spec("lora")) as again:
        again.restore(state)
        assert again.reward is not None
        assert again.reward.base is not None
        assert all(map(np.array_equal, again.tensors(), trained))
        assert again.state() == state
