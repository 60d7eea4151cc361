"""Training by reward on a worker: the same whatever interrupts, shares or repeats it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kilobit.cluster.worker import scoring
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.worker.resident import Resident
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.metrics.metrics import ExactMatch
from kilobit.evaluators.proof.program_files import read_program
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.programs.program import decode
from kilobit.search.records import RungRecord
from kilobit.search.task import Example
from tests.support.driver.candidates import lora
from tests.support.fresh_process import printed
from tests.support.rows import rows_of

Make = Callable[..., RungEvaluator]
FIRST, SECOND = Rung(0, 4, 2), Rung(1, 8, 4)
SEARCH = {
    "program_batch_size": 8,
    "length": "payload",
    "rate_search": {"steps": [1.0], "keep": []},
}


def rewarded(**changes: Any) -> Candidate:
    usual = {"training": "reward", "population": 6, "learning_rate": 0.4, "batch_size": 3}
    return lora(**{**usual, "target_modules": ("lm_head",), **changes})


@pytest.fixture(autouse=True)
def _score_by_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each output have a score of its own, which the random model never has otherwise."""

    def scores(self: object, outputs: Sequence[str], examples: Sequence[Example]) -> list[float]:
        return [len(set(output)) / 64 for output in outputs]

    monkeypatch.setattr(ExactMatch, "scores", scores)


def run(evaluator: RungEvaluator, one: Candidate, rung: Rung) -> RungRecord:
    record = evaluator.run_rung(one.canonical(), rung).record
    assert record.error is None, record.error
    return record


def program_of(folder: Path, one: Candidate, rung: Rung) -> Any:
    return read_program(Ledger(folder / "ledger"), f"{one.id}-r{rung.index}")


def test_the_program_is_the_replay_and_its_numbers_are_those_trained(
    make_evaluator: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_folders: dict[str, Path],
) -> None:
    trained: list[list[np.ndarray]] = []
    learn = Resident.learn

    def noted(self: Resident, key: str, scores: Any) -> None:
        learn(self, key, scores)
        reward = self.adapter(key).reward
        assert reward is not None
        trained.append(reward.numbers())

    monkeypatch.setattr(Resident, "learn", noted)
    evaluator = make_evaluator(**SEARCH)
    record = run(evaluator, rewarded(), SECOND)
    program = program_of(tmp_path / "run", rewarded(), SECOND)
    assert program.codecs["adapter"] == "replay"
    assert record.payload_bits == 8 * len(program.payload) <= 8 * (4 + 2)
    assert len(trained) == 4
    assert any(tensor.any() for tensor in trained[-1])
    for mine, told in zip(
        trained[-1], decode(program.recipe, program.payload).tensors, strict=True
    ):
        assert np.array_equal(mine, told)
    assert record.rewards is not None
    assert len(record.rewards) == 4
    assert record.best_reward is not None
    assert record.best_reward >= record.rewards[-1] > 0
    assert record.num_generated == 4 * 6 * 3 + 8
    # Its files say in a process without this package what the search recorded.
    inputs = [example.input for example in evaluator._context.task.splits.search[:8]]
    rows = rows_of(Ledger(tmp_path / "run" / "ledger"), "predictions")
    outputs = [row["output"] for row in rows if row["candidate"] == rewarded().id]
    assert printed({"": program}, model_folders["llama"], inputs) == {"": outputs}


def test_a_training_goes_on_from_its_earlier_rung(make_evaluator: Make, tmp_path: Path) -> None:
    evaluator = make_evaluator("a", **SEARCH)
    run(evaluator, rewarded(), FIRST)
    run(evaluator, rewarded(), SECOND)
    run(make_evaluator("b", **SEARCH), rewarded(), SECOND)
    first, second = (program_of(tmp_path / name, rewarded(), SECOND) for name in "ab")
    assert first.digest == second.digest


def test_neighbours_and_threads_change_nothing(make_evaluator: Make, tmp_path: Path) -> None:
    others = [lora(), rewarded(seed=2), rewarded(seed=3, population=4)]
    asked = [(one, SECOND) for one in (*others, rewarded())]
    for reply in make_evaluator("together", **SEARCH).run_rungs(asked):
        assert reply.record.error is None
    threads = torch.get_num_threads()
    try:
        run(make_evaluator("alone", **SEARCH, workers={"threads": 2}), rewarded(), SECOND)
    finally:
        torch.set_num_threads(threads)
    first, second = (
        program_of(tmp_path / name, rewarded(), SECOND) for name in ("together", "alone")
    )
    assert first.digest == second.digest


def test_a_repeated_training_generates_nothing_again(make_evaluator: Make, tmp_path: Path) -> None:
    cache = {"cache": str(tmp_path / "outputs")}
    first = run(make_evaluator("a", **SEARCH, **cache), rewarded(), SECOND)
    again = run(make_evaluator("b", **SEARCH, **cache), rewarded(), SECOND)
    assert (again.program, again.rewards) == (first.program, first.rewards)
    assert again.num_generated == 0
    other = run(make_evaluator("c", **SEARCH, **cache), rewarded(spread=3), SECOND)
    assert other.num_generated == first.num_generated


def test_a_killed_training_generates_only_what_is_not_in_the_cache(
    make_evaluator: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, calls = Resident.learn, []

    def killed(self: Resident, key: str, scores: Any) -> None:
        calls.append(key)
        if len(calls) == 3:
            raise OSError("killed")
        learn(self, key, scores)

    monkeypatch.setattr(Resident, "learn", killed)
    with pytest.raises(OSError, match="killed"):
        make_evaluator("a", **SEARCH).run_rung(rewarded().canonical(), SECOND)
    monkeypatch.setattr(Resident, "learn", learn)
    record = run(make_evaluator("a", **SEARCH), rewarded(), SECOND)
    assert record.num_generated == (4 - 3) * 6 * 3 + 8
    run(make_evaluator("b", **SEARCH), rewarded(), SECOND)
    first, second = (program_of(tmp_path / name, rewarded(), SECOND) for name in "ab")
    assert first.digest == second.digest


def test_members_answer_train_examples_alone(
    make_evaluator: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    draw = scoring.examples_of

    def noted(*arguments: Any) -> list[Example]:
        found = draw(*arguments)
        drawn.append([example.id for example in found])
        return found

    monkeypatch.setattr(scoring, "examples_of", noted)
    evaluator = make_evaluator(**SEARCH)
    run(evaluator, rewarded(), SECOND)
    train = {example.id for example in evaluator._context.task.splits.train}
    assert len(drawn) == 4
    assert all(set(ids) <= train and len(set(ids)) == 3 for ids in drawn)
    assert len({tuple(ids) for ids in drawn}) == 4


def test_an_adapter_in_the_model_learns_what_one_beside_it_learns(
    make_evaluator: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_evaluator("beside", **SEARCH), rewarded(), SECOND)
    monkeypatch.setattr(Resident, "adapt", lambda *_: False)
    run(make_evaluator("inside", **SEARCH), rewarded(), SECOND)
    first, second = (
        program_of(tmp_path / name, rewarded(), SECOND) for name in ("beside", "inside")
    )
    assert first.payload == second.payload


def test_the_log_tells_each_generation(
    make_evaluator: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "kilobit"):
        run(make_evaluator(**SEARCH), rewarded(), FIRST)
    told = [line for line in caplog.messages if "generation" in line]
    assert len(told) == 2
    assert "generation 2 of 2, mean reward 0." in told[1]


def test_training_by_reward_and_supervised_may_begin_from_one_another(
    make_evaluator: Make, tmp_path: Path
) -> None:
    evaluator = make_evaluator(**SEARCH)
    usual = lora(target_modules=("lm_head",), learning_rate=0.4)
    run(evaluator, usual, FIRST)
    run(evaluator, usual, SECOND)
    child = rewarded(start=usual.id)
    run(evaluator, child, FIRST)
    run(evaluator, child, SECOND)
    program = program_of(tmp_path / "run", child, SECOND)
    # Its numbers begin from another adapter's, so signs alone don't say what they are.
    assert program.codecs["adapter"] != "replay"
    grandchild = lora(target_modules=("lm_head",), learning_rate=0.4, start=child.id)
    assert run(evaluator, grandchild, SECOND).train_loss is not None
