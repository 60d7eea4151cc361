"""The work of a search, told before it begins, against what searches and workers really took."""

import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kilobit import launch
from kilobit.cluster.driver import estimate as module
from kilobit.cluster.driver.check import Plan, check_sweep
from kilobit.cluster.driver.estimate import (
    Estimate,
    Lengths,
    Work,
    computing,
    estimate,
    lines_of,
    speed_of,
    works_of,
)
from kilobit.cluster.shards.load import outline
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker.resident import Resident, Training
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.search.candidate import Candidate
from tests.conftest import REPOSITORY
from tests.support.rows import rows_of

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture(scope="module")
def quickstart() -> tuple[Sweep, Plan]:
    sweep = load_sweep(EXAMPLES / "quickstart.yaml")
    return sweep, check_sweep(sweep, EXAMPLES, dry=True)


def test_the_flop_of_the_quickstart_are_those_of_its_recorded_search(
    quickstart: tuple[Sweep, Plan], tmp_path: Path
) -> None:
    with tarfile.open(REPOSITORY / "tests" / "recordings" / "quickstart.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    ledger = Ledger(tmp_path / "quickstart" / "ledger")
    model_of = {row["candidate"]: row["model"] for row in rows_of(ledger, "candidates")}
    sweep, plan = quickstart
    found = {one.model: one for one in estimate(sweep, EXAMPLES, plan, local=False)}
    assert found.keys() == {"random", "pretrained", "posttrained"}
    for config in sweep.base_models:
        own = [
            row for row in rows_of(ledger, "rungs") if model_of[row["candidate"]] == config.label
        ]
        parameters = computing(outline(config, EXAMPLES))

        def flop(rows: list[dict[str, int]], parameters: int = parameters) -> float:
            trained = sum(row["train_tokens"] or 0 for row in rows)
            said = sum(row["input_tokens"] + row["output_tokens"] for row in rows)
            return parameters * (6 * trained + 2 * said)

        first = flop([row for row in own if row["rung"] == 0])
        assert first / 3 < found[config.label].first_flop < 3 * first
        assert flop(own) / 3 < found[config.label].flop < 3 * flop(own)


def test_the_seconds_of_a_rung_are_those_that_a_worker_takes(
    quickstart: tuple[Sweep, Plan],
) -> None:
    sweep, plan = quickstart
    config, task, rung = sweep.base_models[1], plan.task, sweep.rungs.ladder()[1]
    resident = Resident(RankAddress(), config, EXAMPLES, ShardsConfig(), task, 1)
    tokenizer = resident.frozen.tokenizer
    asked = [task.ask(example.input) for example in task.splits.search[: rung.num_examples]]

    def run(candidate: Candidate) -> None:
        prompt, spec = candidate.prompt.render(task), candidate.adapter
        if spec is not None:
            assert resident.adapt("a", spec, None, None)
            until = min(rung.train_steps, spec.steps)
            (end,) = resident.train([Training("a", prompt, candidate.chat, until)])
            assert end.error is None
            resident.fix("s", "a", resident.adapter("a").tensors())
        else:
            resident.fix("s", None, ())
        ids = [tuple(tokenizer(prompt + text)["input_ids"]) for text in asked]
        rows = [Asked(0, row, task.max_new_tokens, task.stop) for row in ids]
        resident.answer(["s"], rows)
        resident.forget()

    own = [c for c in plan.candidates if c.model == config.label]
    kinds = [[c for c in own if c.family == family][:3] for family in ("lora", "prompt")]
    # As if it were the first rung: all of its steps, and all of its examples.
    alone = sweep.model_copy(
        update={
            "rungs": sweep.rungs.model_copy(
                update={"examples": rung.num_examples, "train_steps": rung.train_steps, "count": 1}
            ),
            "rate_search": None,
        }
    )
    lengths = Lengths.of(task, tokenizer, own)
    speed = speed_of(config, EXAMPLES, outline(config, EXAMPLES), lengths)
    kept = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for candidates in kinds:
            run(candidates[0])
            began = time.process_time()
            for candidate in candidates:
                run(candidate)
            took = time.process_time() - began
            (work,) = works_of(alone, task, config, candidates, lengths, plan.shapes[config.label])
            assert took / 3 < speed.seconds(work) < 3 * took, candidates[0].family
    finally:
        torch.set_num_threads(kept)


def test_rollouts_of_training_by_reward_are_told_and_timed(
    quickstart: tuple[Sweep, Plan],
) -> None:
    sweep, plan = quickstart
    lora = next(c for c in plan.candidates if c.adapter and c.model == "pretrained")
    assert lora.adapter is not None
    changes = {
        "training": "reward", "nats_per_kbit": None, "ratio": 1.0, "population": 10, "steps": 30,
        "batch_size": 4,
    }  # fmt: skip
    one = lora.model_copy(update={"adapter": lora.adapter.model_copy(update=changes)})
    found = estimate(sweep, EXAMPLES, replace(plan, candidates=(one,)), local=False)
    line = next(e.line() for e in found if e.model == "pretrained")
    # 30 generations of 10 members on 4 examples, though the ladder goes on to 270 steps.
    assert ", at most 1,200 rollouts of training by reward;" in line
    supervised = estimate(sweep, EXAMPLES, replace(plan, candidates=(lora,)), local=False)
    assert "rollouts" not in next(e.line() for e in supervised if e.model == "pretrained")
    config, shapes = sweep.base_models[1], plan.shapes["pretrained"]
    lengths = Lengths(10.0, 2.0, {one.before(plan.task): 0})
    works = works_of(sweep, plan.task, config, [one], lengths, shapes)
    plain = works_of(
        sweep, plan.task, config, [one.model_copy(update={"adapter": None})], lengths, shapes
    )
    # The ladder has 10, 30, 90 and 270 steps: 400 rollouts, then 800 more, then none.
    assert works[0].read - plain[0].read == 400 * 10.0
    assert works[1].trained == 0
    assert works[0].passes - plain[0].passes == 10 * 2.0


def test_models_of_one_shape_are_measured_once(
    quickstart: tuple[Sweep, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(module, "speed_of", lambda *given: calls.append(given) or speed_of(*given))
    found = estimate(*(quickstart[0], EXAMPLES, quickstart[1]))
    assert len(calls) == 1
    for one in found:
        assert one.seconds is not None
        first, least, middle, most = one.seconds
        assert 0 < first < least < middle < most


def test_a_model_that_is_large_is_not_run(
    quickstart: tuple[Sweep, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quickstart[0].base_models[1]
    model = outline(config, EXAMPLES)
    lengths = Lengths(24.0, 3.0, {})
    monkeypatch.setattr(module, "_LARGEST", 1)
    monkeypatch.setattr(module, "from_config", lambda *_: pytest.fail("it was built"))
    speed = speed_of(config, EXAMPLES, model, lengths)
    assert "GFLOP/s of a matrix product" in speed.measured
    assert speed.trained == pytest.approx(3 * speed.read)
    assert speed.seconds(Work(read=10)) == pytest.approx(10 * speed.read)


def test_only_a_table_that_is_looked_up_does_not_compute(model_folders: dict[str, Path]) -> None:
    for name, tied in (("gpt2", True), ("llama", False)):
        config = load_sweep(EXAMPLES / "quickstart.yaml").base_models[1]
        model = outline(config.model_copy(update={"path": model_folders[name]}), Path())
        table = model.get_input_embeddings().weight
        assert (model.get_output_embeddings().weight is table) is tied
        whole = sum(p.numel() for p in model.parameters())
        assert computing(model) == whole - (0 if tied else table.numel())


def test_hours_are_warned_of_with_what_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpus", lambda: 2)
    day = Estimate("large", 2e15, 4e18, (3600.0, 8e3, 9e4, 2e5), 1, "measured")
    first, whole, warning = lines_of([day], None)
    assert first == (
        "large: first rung about 2.0 PFLOP and 60 min of a worker, whole search 4000.0 PFLOP and "
        "25.0 h (2.2 h to 55.6 h), measured"
    )
    assert whole.startswith("estimate: the search takes about 25.0 h on this machine")
    assert "warning: that is hours; without `budget.seconds` it goes on to its end" in warning
    assert "after `budget.seconds`, 30 min, no further rung" in lines_of([day], 1800.0)[-1]
    # Two workers share its candidates, and other models the processors.
    assert "about 12.5 h" in lines_of([replace(day, workers=2)], None)[1]
    assert "about 37.5 h" in lines_of([day] * 3, None)[3]
    short = replace(day, seconds=(1.0, 2.0, 3.0, 4.0))
    assert len(lines_of([short], None)) == 2
    unknown = lines_of([replace(day, seconds=None, measured="no GPU is here")], None)
    said = "large: first rung about 2.0 PFLOP, whole search 4000.0 PFLOP; no GPU is here"
    assert unknown == [said]


def test_a_dry_run_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["run", str(EXAMPLES / "quickstart.yaml"), "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "pretrained: first rung about 325.4 GFLOP and" in shown
    assert "estimate: the search takes about" in shown
