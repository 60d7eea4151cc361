"""A start that fails takes away what it made, and nothing else."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilobit import launch
from kilobit.cluster.messages import PoolError
from kilobit.cluster.runs.folder import (
    continue_run,
    create_run,
    discard_run,
    holds_run,
    open_run,
    reopen_run,
)
from kilobit.cluster.runs.lock import LockedError, lock_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.fencing import SupersededError
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.evaluators.tasks.jsonl import JsonlTask
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.settings import InputError
from kilobit.search.space import ModelFree
from tests.support.rows import rows_of, write_rows

Write = Callable[..., Path]


@pytest.mark.parametrize(
    "name",
    [
        "ledger/accounts-2025.csv",
        "ledger/attempts/notes.txt",
        "ledger/rungs/a-r0.a1.parquet",
        "draft.tmp",
        "ledger",
    ],
)
def test_a_folder_with_files_of_others_is_refused_and_left_as_it_is(
    write_sweep: Write, tmp_path: Path, name: str
) -> None:
    path, out = write_sweep(), tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("mine")
    before = sorted(out.rglob("*"))
    with (
        pytest.raises(InputError, match="is neither empty nor a run: it holds"),
        create_run(load_sweep(path), path, out),
    ):
        pass
    assert sorted(out.rglob("*")) == before
    assert (out / name).read_text() == "mine"


def test_a_discarded_run_leaves_the_folder_as_it_was(write_sweep: Write, tmp_path: Path) -> None:
    path = write_sweep()
    (tmp_path / "there").mkdir()
    for name in ("there", "new"):
        with create_run(load_sweep(path), path, tmp_path / name) as run:
            (run.path / "incumbents").mkdir()
            (run.path / "incumbents" / "x.json").write_text("[]")
            discard_run(run)
    assert list((tmp_path / "there").iterdir()) == []
    assert not (tmp_path / "new").exists()


def test_what_a_newer_attempt_has_taken_over_is_not_discarded(
    write_sweep: Write, tmp_path: Path
) -> None:
    path = write_sweep()
    with ExitStack() as stack:
        run = stack.enter_context(create_run(load_sweep(path), path, tmp_path / "run"))
        other = stack.enter_context(reopen_run(run.path, take_over=True))
        with pytest.raises(SupersededError, match="superseded by attempt 2"):
            discard_run(run)
        write_rows(other.ledger, "rungs", "x-r0", [{"candidate": "x"}])
        assert len(rows_of(other.ledger, "rungs")) == 1


def test_a_start_that_is_superseded_says_so_and_leaves_the_run(
    write_sweep: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, out = write_sweep(), tmp_path / "run"

    def superseded(*_: Any) -> None:
        with lock_run(out / "ledger", take_over=True):
            raise PoolError("worker llama-0 could not load llama: superseded")

    monkeypatch.setattr("kilobit.cluster.driver.attempt.execute", superseded)
    assert launch.main(["run", str(path), "--out", str(out)]) == 1
    assert "kilobit: attempt 1 at " in capsys.readouterr().err
    assert (out / "run.json").exists()
    assert (out / "ledger" / "attempts" / "0002.json").exists()


def test_a_run_is_gone_on_with_by_its_sweep_and_the_budget_that_has_now(
    write_sweep: Write, tmp_path: Path
) -> None:
    path, out = write_sweep(), tmp_path / "run"
    sweep = load_sweep(path)
    assert not holds_run(sweep, out)
    with create_run(sweep, path, out):
        pass
    assert holds_run(sweep, out)
    with continue_run(load_sweep(path, ["budget.candidates=2"]), out) as run:
        assert (run.attempt, run.sweep.budget.candidates) == (2, 2)
        with pytest.raises(LockedError, match="is locked by attempt 2"), continue_run(sweep, out):
            pass
        with continue_run(sweep, out, take_over=True) as newer:
            assert (newer.attempt, newer.sweep.budget.candidates) == (3, None)
            with pytest.raises(SupersededError):
                write_rows(run.ledger, "rungs", "x", [{"candidate": "x"}])
    other = load_sweep(path, ["seed=3", "workers.threads=2"])
    with (
        pytest.raises(InputError, match="holds the run of another sweep: workers, seed differs"),
        continue_run(other, out),
    ):
        pass


def test_programs_of_an_old_run_keep_the_batch_of_its_search(
    write_sweep: Write, tmp_path: Path
) -> None:
    path, out = write_sweep(rungs={"examples": 6, "train_steps": 2}), tmp_path / "run"
    with create_run(load_sweep(path), path, out):
        pass
    assert open_run(out).sweep.program_batch_size is None
    manifest = json.loads((out / "run.json").read_text("utf-8"))
    del manifest["sweep"]["program_batch_size"]
    (out / "run.json").write_text(json.dumps(manifest), "utf-8")
    with continue_run(load_sweep(path), out) as run:
        assert run.sweep.program_batch_size == run.sweep.batch_size == 6
    other = load_sweep(path, ["program_batch_size=7"])
    with pytest.raises(InputError, match="program_batch_size differs"), continue_run(other, out):
        pass


def test_a_search_goes_on_with_the_learning_rates_that_were_its_default(
    write_sweep: Write, tmp_path: Path
) -> None:
    rates = {"low": 1e-3, "high": 1e-2}
    families = {"lora": {"candidates": 2, "rank": [1]}, "prompt": {"candidates": 1}}
    path, out = write_sweep(families=families), tmp_path / "run"
    with create_run(
        load_sweep(path, [f"families.lora.learning_rate={json.dumps(rates)}"]), path, out
    ):
        pass
    with continue_run(load_sweep(path), out) as run:
        lora = run.sweep.families.named()["lora"]
        assert lora.model_dump()["learning_rate"] == rates
    other = load_sweep(path, ["families.lora.learning_rate={low: 0.002, high: 0.01}"])
    with pytest.raises(InputError, match="families differs"), continue_run(other, out):
        pass


def test_an_old_run_goes_on_without_what_needs_no_model(write_sweep: Write, tmp_path: Path) -> None:
    path, out = write_sweep(), tmp_path / "run"
    text = path.read_text("utf-8")
    settings = yaml.safe_load(text)
    del settings["model_free"]
    path.write_text(yaml.safe_dump(settings), "utf-8")
    with create_run(load_sweep(path), path, out):
        pass
    manifest = json.loads((out / "run.json").read_text("utf-8"))
    assert manifest["sweep"].pop("model_free") == {"constants": 8, "copy_input": True}
    (out / "run.json").write_text(json.dumps(manifest), "utf-8")
    with continue_run(load_sweep(path), out) as run:
        assert run.sweep.model_free == ModelFree(constants=0, copy_input=False)
    other = load_sweep(path, ["model_free.constants=1"])
    with pytest.raises(InputError, match="model_free differs"), continue_run(other, out):
        pass


def test_an_old_run_goes_on_with_the_order_of_its_examples(
    write_sweep: Write, tmp_path: Path
) -> None:
    task = {"kind": "jsonl", "name": "t", "data": "d.jsonl", "metric": "exact_match"}
    path, out = write_sweep(task=task), tmp_path / "run"
    with create_run(load_sweep(path), path, out):
        pass
    manifest = json.loads((out / "run.json").read_text("utf-8"))
    assert manifest["sweep"]["task"].pop("balance") is True
    (out / "run.json").write_text(json.dumps(manifest), "utf-8")
    with continue_run(load_sweep(path), out) as run:
        assert isinstance(run.sweep.task, JsonlTask)
        assert not run.sweep.task.balance
    other = load_sweep(path, ["task.balance=true"])
    with pytest.raises(InputError, match="task differs"), continue_run(other, out):
        pass


def test_an_old_run_goes_on_with_one_rate_for_both_factors(
    write_sweep: Write, tmp_path: Path
) -> None:
    path, out = write_sweep(families={"lora": {"candidates": 1}}), tmp_path / "run"
    with create_run(load_sweep(path), path, out):
        pass
    manifest = json.loads((out / "run.json").read_text("utf-8"))
    assert manifest["sweep"]["families"]["lora"].pop("ratio", 0) is None
    (out / "run.json").write_text(json.dumps(manifest), "utf-8")
    with continue_run(load_sweep(path), out) as run:
        assert run.sweep.families.named()["lora"].rate_ratio("lora") == 1.0
    other = load_sweep(path, ["families.lora.ratio=10"])
    with pytest.raises(InputError, match="families differs"), continue_run(other, out):
        pass


def test_what_needs_no_model_counts_for_no_budget(write_sweep: Write, tmp_path: Path) -> None:
    path, out = write_sweep(), tmp_path / "run"
    with create_run(load_sweep(path), path, out) as run:
        for position, family in enumerate(("copy", "constant", "prompt")):
            row = {"candidate": family, "family": family, "position": position}
            write_rows(run.ledger, "candidates", family, [row])
    with reopen_run(out, overrides=["budget.candidates=1"]) as run:
        assert run.sweep.budget.candidates == 1


def test_a_run_that_never_began_leaves_nothing_on_a_store(
    write_sweep: Write, folder: StoredPath
) -> None:
    path = write_sweep()
    (folder / "log.txt").write_bytes(b"mine")
    with (
        pytest.raises(InputError, match=r"is neither empty nor a run: it holds log\.txt"),
        create_run(load_sweep(path), path, folder),
    ):
        pass
    with create_run(load_sweep(path), path, folder / "run") as run:
        (run.path / "other.txt").write_bytes(b"mine")
        discard_run(run)
    assert [path.name for path in folder.rglob("*")] == ["log.txt", "other.txt"]


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("zho_Hans", "13a"),
        ("jpn_Jpan", "13a"),
        ("kor_Hang", "13a"),
        ("tha_Thai", "13a"),
        ("deu_Latn", None),
        ("rus_Cyrl", None),
    ],
)
def test_a_run_from_before_the_tokenizer_could_be_set_keeps_its_score(
    write_sweep: Write, tmp_path: Path, target: str, kept: str | None
) -> None:
    for split in ("dev", "devtest"):
        (tmp_path / split).mkdir()
        for language in ("eng_Latn", target):
            text = "".join(f"{split} {n}\n" for n in range(40))
            (tmp_path / split / f"{language}.{split}").write_text(text)
    task = {"kind": "flores", "source": "eng_Latn", "target": target, "folder": "."}
    path = write_sweep(task=task | {"tokenizer": "char"})
    with create_run(load_sweep(path), path, tmp_path / "out") as run:
        pass
    manifest = json.loads((run.path / "run.json").read_text())
    del manifest["sweep"]["task"]["tokenizer"]
    (run.path / "run.json").write_text(json.dumps(manifest))
    assert open_run(run.path).sweep.task.tokenizer == kept  # type: ignore[union-attr]
    for _ in range(2):
        with reopen_run(run.path) as again:
            metric = load_task(again.sweep.task, again.sweep_folder).metric
            assert metric.name == "bleu"
    recorded = json.loads((run.path / "run.json").read_text())["sweep"]["task"]
    assert recorded["tokenizer"] == kept
    # The sweep file now means another score, unless it names the tokenizer.
    path = write_sweep(task=task)
    if kept:
        with (
            pytest.raises(InputError, match="the run of another sweep: task differs"),
            continue_run(load_sweep(path), run.path),
        ):
            pass
        path = write_sweep(task=task | {"tokenizer": kept})
    with continue_run(load_sweep(path), run.path):
        pass


def test_an_old_run_goes_on_outside_of_the_chat_template(
    write_sweep: Write, tmp_path: Path
) -> None:
    path, out = write_sweep(), tmp_path / "run"
    with create_run(load_sweep(path), path, out):
        pass
    manifest = json.loads((out / "run.json").read_text("utf-8"))
    for family in filter(None, manifest["sweep"]["families"].values()):
        # The default of that time, and what could not be set.
        assert (family["chat"], family.pop("turns")) == (None, True)
        family["chat"] = [False]
    (out / "run.json").write_text(json.dumps(manifest), "utf-8")
    with continue_run(load_sweep(path), out) as run:
        families = run.sweep.families.named().values()
        assert {(family.chat, family.turns) for family in families} == {((False,), False)}
    for change in ("chat=[true]", "turns=true"):
        other = load_sweep(path, [f"families.prompt.{change}"])
        with pytest.raises(InputError, match="families differs"), continue_run(other, out):
            pass


def test_a_run_in_a_chat_is_not_that_of_the_default(write_sweep: Write, tmp_path: Path) -> None:
    path, out = write_sweep(), tmp_path / "run"
    chat = ["families.prompt.chat=[false]"]
    with create_run(load_sweep(path, chat), path, out):
        pass
    with continue_run(load_sweep(path, chat), out):
        pass
    with (
        pytest.raises(InputError, match="families differs"),
        continue_run(load_sweep(path), out),
    ):
        pass
