import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.worker.resident import Resident
from kilobit.evaluators.given_candidates import read_peft_folder
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.proof.program_files import read_program
from kilobit.search.candidate import Prompt, Rung
from kilobit.search.space import RateSearch
from tests.support.driver.candidates import candidate, lora
from tests.support.peft_folders import change_config, save_adapter
from tests.support.rows import rows_of

FIRST, SECOND = Rung(0, 4, 2), Rung(1, 8, 4)


def test_an_adapter_goes_on_from_its_earlier_rung(
    make_evaluator: Callable[..., RungEvaluator], tmp_path: Path
) -> None:
    evaluator = make_evaluator("a")
    evaluator.run_rung(lora().canonical(), FIRST).record.row()
    in_two = evaluator.run_rung(lora().canonical(), SECOND).record.row()
    at_once = make_evaluator("b").run_rung(lora().canonical(), SECOND).record.row()
    assert in_two["train_steps"] == at_once["train_steps"] == 4
    assert in_two["program"] == at_once["program"]
    assert 0 < in_two["train_tokens"] < at_once["train_tokens"]


def test_the_batch_of_a_program_is_not_that_of_the_search(
    make_evaluator: Callable[..., RungEvaluator], tmp_path: Path
) -> None:
    one = candidate(prompt=Prompt(instruction="Number:")).canonical()
    rows = {}
    for run, changes in (("own", {"program_batch_size": 3}), ("default", {})):
        make_evaluator(run, **changes).run_rung(one, SECOND)
        ledger = Ledger(tmp_path / run / "ledger")
        rows[run] = [(row["example"], row["output"]) for row in rows_of(ledger, "predictions")]
        name = f"{candidate(prompt=Prompt(instruction='Number:')).id}-r1"
        size = read_program(ledger, name).recipe.batch_size
        assert size == changes.get("program_batch_size", 64)
    assert rows["own"] == rows["default"]


def test_the_last_rung_also_scores_coarser_codings_of_the_same_adapter(
    evaluator: RungEvaluator, tmp_path: Path
) -> None:
    # The output matrix at a large rate: what changes no output is written without an adapter.
    one = lora(rank=2, target_modules=("lm_head",), learning_rate=0.3)
    evaluator.run_rung(one.canonical(), FIRST).record.row()
    ledger = Ledger(tmp_path / "run" / "ledger")
    assert rows_of(ledger, "candidates") == []
    row = evaluator.run_rung(one.canonical(), SECOND).record.row()
    variants = {v.id: v for v in RateSearch().variants(one)}
    about = {r["candidate"]: r for r in rows_of(ledger, "candidates")}
    assert set(about) == set(variants)
    assert {r["parent"] for r in about.values()} == {one.id}
    rows = {r["candidate"]: r for r in rows_of(ledger, "rungs") if r["rung"] == 1}
    assert set(rows) == {one.id, *variants}
    for name, variant in variants.items():
        assert about[name]["spec"] == variant.canonical()
        assert rows[name]["payload_bits"] < row["payload_bits"]
        assert (rows[name]["num_examples"], rows[name]["error"]) == (8, None)
        assert read_program(ledger, f"{name}-r1").digest == rows[name]["program"]
    # A coarser program is a program of its own: it is scored by what its own numbers say.
    assert len({r["program"] for r in rows.values()}) > 5


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_an_adapter_with_the_outputs_of_its_prompt_alone_is_left_out(
    make_evaluator: Callable[..., RungEvaluator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    alone: bool,
) -> None:
    if alone:
        monkeypatch.setattr(Resident, "adapt", lambda *_: False)
    # Large enough to be written, too small for other outputs.
    weak = lora(method=method, learning_rate=1e-3, rank=1 if method == "lora" else None)
    one = weak.model_copy(update={"prompt": Prompt(instruction="Number:")})
    bare = one.model_copy(update={"adapter": None})
    evaluator, ledger = make_evaluator("run"), Ledger(tmp_path / "run" / "ledger")
    caplog.set_level(logging.INFO, "kilobit")
    first, second = (evaluator.run_rung(one.canonical(), rung).record for rung in (FIRST, SECOND))
    plain = evaluator.run_rung(bare.canonical(), SECOND).record
    # An adapter in training is not judged by its outputs.
    assert read_program(ledger, f"{one.id}-r0").recipe.adapter is not None
    assert (second.error, second.train_steps) == (None, 4)
    assert (second.program, second.program_bits) == (plain.program, plain.program_bits)
    assert first.program_bits is not None
    assert first.program_bits > plain.program_bits
    # Coarser codings of it would be the same program.
    assert {row["candidate"] for row in rows_of(ledger, "rungs")} == {one.id, bare.id}
    said = [r.getMessage() for r in caplog.records if "without its adapter" in r.getMessage()]
    assert said[0].startswith(f"{one.id} at rung 1: its 8 outputs are those without its adapter")
    assert second.num_generated > 0
    assert not plain.num_generated
    # With a candidate that changes what the model says it stays.
    strong = lora(learning_rate=0.5, target_modules=("lm_head",))
    evaluator.run_rung(strong.canonical(), SECOND)
    assert read_program(ledger, f"{strong.id}-r1").recipe.adapter is not None


def test_a_pack_is_what_its_candidates_are_alone(
    make_evaluator: Callable[..., RungEvaluator], tmp_path: Path
) -> None:
    pack = [
        candidate(prompt=Prompt(instruction="Number:")),
        candidate(prompt=Prompt(instruction="Number:"), postprocess=("last_number",)),
        lora(rank=2),
        lora(rank=None, method="ia3", seed=3, steps=2),
        lora(rank=None, method="fourierft", size=4),
        lora(learning_rate=1e30, steps=40),
        lora(target_modules=("nosuch",)),
    ]
    together = make_evaluator("together").run_rungs([(one, SECOND) for one in pack])
    alone = make_evaluator("alone")
    columns = ("score", "program", "payload_bits", "train_steps", "train_tokens", "num_examples")
    for reply, one in zip(together, pack, strict=True):
        record, other = reply.record, alone.run_rung(one.canonical(), SECOND).record
        assert [getattr(record, c) for c in columns] == [getattr(other, c) for c in columns]
        assert (record.error is None) == (other.error is None)
        assert record.pack == together[0].record.pack != other.pack
        assert [each.candidate for each in reply.together] == [c.id for c in pack]
    assert [reply.record.error is None for reply in together] == [True] * 5 + [False] * 2
    outputs = [
        {
            (row["candidate"], row["example"]): row["output"]
            for row in rows_of(Ledger(tmp_path / run / "ledger"), "predictions")
        }
        for run in ("together", "alone")
    ]
    assert outputs[0] == outputs[1]
    # What generates the same is generated once.
    assert [reply.record.num_generated for reply in together[:2]] == [8, 0]


@pytest.mark.parametrize("alone", [False, True])
def test_an_adapter_from_elsewhere_is_coded_at_every_rate_without_training(
    make_evaluator: Callable[..., RungEvaluator],
    model_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: bool,
) -> None:
    if alone:
        monkeypatch.setattr(Resident, "adapt", lambda *_: False)
    folder = save_adapter(model_folders["llama"], tmp_path / "theirs", size=1.0)
    families = {"prompt": {"candidates": 1}, "given": {"adapters": ["theirs"]}}
    evaluator = make_evaluator("run", families=families)
    names = [name for name, _ in evaluator._frozen.model.named_parameters()]
    one = candidate(adapter=read_peft_folder(folder).spec(names))
    first, second = (evaluator.run_rung(one.canonical(), rung).record for rung in (FIRST, SECOND))
    for record in (first, second):
        assert (record.error, record.train_steps, record.train_tokens, record.left) == (
            *(None, 0, 0, 0),
        )
    # It is looked at for an effect at each rung, and the numbers do not change between them.
    assert first.program == second.program
    ledger = Ledger(tmp_path / "run" / "ledger")
    assert read_program(ledger, f"{one.id}-r1").recipe.adapter is not None
    rows = [row for row in rows_of(ledger, "rungs") if row["rung"] == 1]
    assert {row["candidate"] for row in rows} == {
        one.id,
        *(variant.id for variant in RateSearch().variants(one)),
    }
    assert len({row["program_bits"] for row in rows}) > 3
    change_config(folder, lora_alpha=1)
    other = one.model_copy(update={"prompt": Prompt(instruction="Number:")})
    error = evaluator.run_rung(other.canonical(), FIRST).record.error
    assert error is not None
    assert "has changed since the search began" in error


def test_an_adapter_from_elsewhere_that_changes_no_output_is_left_out(
    make_evaluator: Callable[..., RungEvaluator], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_adapter(model_folders["llama"], tmp_path / "theirs", size=1e-4)
    families = {"prompt": {"candidates": 1}, "given": {"adapters": ["theirs"]}}
    evaluator = make_evaluator("run", families=families)
    names = [name for name, _ in evaluator._frozen.model.named_parameters()]
    one = candidate(adapter=read_peft_folder(folder).spec(names))
    bare = evaluator.run_rung(candidate().canonical(), SECOND).record
    record = evaluator.run_rung(one.canonical(), SECOND).record
    assert (record.error, record.program) == (None, bare.program)
