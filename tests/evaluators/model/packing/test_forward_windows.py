"""A shared prefix changes nothing in models that count windows, chunks or distances in slots."""

from pathlib import Path

import pytest
import torch

from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.packing.deltas import detached
from kilobit.evaluators.model.packing.forward import Reading
from kilobit.evaluators.model.packing.pack import Pack
from kilobit.evaluators.model.packing.passes import Planner
from kilobit.evaluators.model.packing.train import Job, train_pack
from kilobit.evaluators.model.training_batches import Lesson, training_batch
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import _tokenizer
from tests.support.models import ARCHITECTURES, build_model
from tests.support.packs import TASK, spec

START = tuple(range(20, 50))
# Two slots with prefixes of unequal lengths, rests of unequal lengths, and a slot without a prefix.
ROWS = [
    (0, (*START, 3)),
    (0, (*START, *range(60, 72))),
    (1, (*START[:20], 9, 8, 7)),
    (1, (*START[:20], 5)),
    (2, (11, 12, 13, 14)),
    (0, (*START, 4, 5, 6)),
]
ANSWERS = [[7], [8, 9, 10, 11, 12, 13, 14, 15, 16], [1, 2], [3], [4, 5, 6], [7] * 14]


WINDOWS = (
    "bloom", "cohere2", "deepseek_v3", "gemma2", "gemma3", "gpt_oss", "llama", "llama4", "mistral",
    "mpt", "olmo3", "qwen3",
)  # fmt: skip


@pytest.fixture(params=WINDOWS, scope="module")
def frozen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FrozenModel:
    folder = tmp_path_factory.mktemp(request.param)
    build_model(request.param, _tokenizer(bos=False, pad=False), folder)
    return load(BaseModelConfig(regime="r", path=folder), Path())


@torch.no_grad()
def test_logits_are_those_of_each_row_alone(frozen: FrozenModel) -> None:
    with Pack(frozen.model, [{}, {}, {}], frozen.shard) as pack:
        reading = Reading(pack, ROWS, 0, "cpu")
        rest = reading.begin(ANSWERS)
        assert max(map(len, rest)) < 32
        with pack.rows(reading.slots):
            found = reading.read(rest, 2)
            after = reading.next(torch.full((len(ROWS),), 7))
    for row, ((_, ids), answer) in enumerate(zip(ROWS, ANSWERS, strict=True)):
        alone = frozen.model(torch.tensor([[*ids, *answer, 7]])).logits[0]
        torch.testing.assert_close(found[row], alone[-3:-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(after[row], alone[-1], atol=1e-4, rtol=1e-4)


def test_training_has_the_losses_of_the_model_alone(frozen: FrozenModel) -> None:
    one = spec(learning_rate=1e-9, steps=1, batch_size=4)
    name = frozen.model.config.model_type
    target = next(a.attention for a in ARCHITECTURES.values() if a.kind == name)
    found = detached(frozen, one.model_copy(update={"target_modules": (target,)}))
    assert found is not None
    lesson = Lesson(TASK, "Answer with a number, please:\n", TASK.splits.train)
    with torch.no_grad():
        alone = float(frozen.model(**training_batch(frozen, lesson, one, 0)).loss)
    job = Job(*found, lesson, 1)
    train_pack(frozen, [job], Planner())
    assert job.error is None
    assert job.losses == pytest.approx([alone], abs=1e-5)
