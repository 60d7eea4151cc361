"""Results are read alike from run folders and from data sets, on a disk or on a store."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.runs.folder import reopen_run
from kilobit.cluster.runs.result_sources import conditions_of, open_sources
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.evaluators.merge.dataset import DATASET_TABLES
from kilobit.search.settings import InputError
from tests.support.cli.datasets import RIGHT, WRONG, aggregate, front, rows, said
from tests.support.recorded import candidate_of, program_of, record
from tests.support.rows import write_rows
from tests.support.runs import candidate, verification, write_run


def test_what_another_run_said_first_of_a_candidate_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The first proposed and verified it; only the second has its last rung.
    one = write_run(tmp_path / "one", {}, attempt_rows=False)
    with reopen_run(one) as run:
        write_rows(run.ledger, "candidates", "a", [candidate("a")])
        write_rows(run.ledger, "verifications", "a", [verification("a")])
    two = write_run(tmp_path / "two", {"a": RIGHT})
    aggregate(one, two, "-o", tmp_path / "all")
    (line,) = front(capsys, tmp_path / "all")
    assert (line["run"], line["candidate"], line["verified"]) == ("two", "a", True)
    (_, second), _ = open_sources([tmp_path / "all"])
    assert second.read("candidates", ["family"]).to_pylist() == [{"family": "prompt"}]
    # Whether its files do what they should is another question where the ladder is another.
    other = write_run(
        tmp_path / "other", {"a": RIGHT}, rungs={"examples": 4, "train_steps": 9, "count": 1}
    )
    aggregate(one, other, "-o", tmp_path / "apart")
    (line,) = front(capsys, tmp_path / "apart")
    assert line["verified"] is None


def test_runs_and_data_sets_on_a_store_are_read_as_they_lie(
    tmp_path: Path, folder: StoredPath, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", {"a": WRONG, "bb": RIGHT})
    aggregate(one, "-o", tmp_path / "here")
    for name in ("one", "here"):
        for path in (tmp_path / name).rglob("*"):
            if path.is_file():
                (folder / path.relative_to(tmp_path)).write_bytes(path.read_bytes())
    assert aggregate(folder / "one", "-o", tmp_path / "there") == 0
    assert aggregate(folder / "here", "-o", tmp_path / "again") == 0
    for table in DATASET_TABLES:
        for copy in ("there", "again"):
            assert said(tmp_path / copy, table) == said(tmp_path / "here", table), table
    found = front(capsys, folder / "here")
    assert found == front(capsys, one)
    assert len(found) == 2


def test_a_run_and_its_data_set_give_the_same_rows_and_programs(tmp_path: Path) -> None:
    run = record(tmp_path / "runs")
    assert aggregate(run, "-o", tmp_path / "all") == 0
    (own,), none = open_sources([run])
    (merged,), imported = open_sources([tmp_path / "all"])
    assert none == imported == []
    assert (own.name, own.sweep, own.home) == (merged.name, merged.sweep, merged.home)
    assert (own.place, merged.place) == (run, tmp_path / "all")
    columns = ["candidate", "rung", "score"]
    rows = [sorted(map(str, one.read("rungs", columns).to_pylist())) for one in (own, merged)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 20
    best = candidate_of("posttrained", "Number:").id
    expected = program_of("Number:").digest
    for source in (own, merged):
        program = source.programs([best])[best]
        assert not isinstance(program, ValueError)
        assert program.digest == expected


def test_programs_that_are_missing_are_named_and_hide_no_other(tmp_path: Path) -> None:
    run = record(tmp_path / "runs")
    assert aggregate(run, "-o", tmp_path / "all") == 0
    best = candidate_of("posttrained", "Number:").id
    for place in (run, tmp_path / "all"):
        (source,), _ = open_sources([place])
        found = source.programs([best, "gone"])
        assert isinstance(found["gone"], ValueError)
        assert "gone" in str(found["gone"])
        assert not isinstance(found[best], ValueError)


def test_what_lies_beside_the_ledger_is_found_or_is_none(tmp_path: Path) -> None:
    run = record(tmp_path / "runs")
    (source,), _ = open_sources([run])
    assert source.scorecard() is None
    (run / "scorecard.parquet").write_bytes(b"lines")
    assert source.scorecard() == b"lines"
    proved = candidate_of("posttrained", "Number:").id
    assert source.program_folder("posttrained", proved) == run / f"programs/posttrained-{proved}"
    assert source.program_folder("pretrained", proved) is None


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        open_sources([record(tmp_path / "runs"), tmp_path])


def test_a_damaged_sweep_in_a_data_set_is_named_with_its_run(tmp_path: Path) -> None:
    run = record(tmp_path / "runs")
    assert aggregate(run, "-o", tmp_path / "all") == 0
    manifest = tmp_path / "all" / "dataset.json"
    content = json.loads(manifest.read_text("utf-8"))
    content["sources"][0]["about"]["sweep"]["targets"] = [7]
    manifest.write_text(json.dumps(content), "utf-8")
    with pytest.raises(InputError, match=r"dataset\.json: the sweep of recorded: ") as caught:
        open_sources([tmp_path / "all"])
    assert len(str(caught.value).splitlines()) == 1


def test_conditions_are_the_task_and_the_ladder_but_not_its_height(
    write_sweep: Callable[..., Path],
) -> None:
    def conditions(**changes: Any) -> str:
        return conditions_of(load_sweep(write_sweep(**changes)))

    ladder = {"examples": 4, "train_steps": 2, "eta": 2, "count": 2}
    same = conditions()
    assert conditions(rungs={**ladder, "count": 3}, seed=5, targets=[0.1]) == same
    assert conditions(rungs={**ladder, "train_steps": 3}) != same
    assert conditions(rungs={**ladder, "eta": 3}) != same
    assert conditions(task={"kind": "miniature", "name": "numbers", "seed": 1}) != same


def loaded(run: Path, machine: dict[str, str] | None) -> Path:
    """Add a worker that loaded the base model on a machine, None for one that is not known."""
    about = {"worker": "w", "model": "tiny", "data": '{"search split": "s"}'}
    about |= {"parts": json.dumps(machine or {"weights": "w"}), "machine": machine and "m"}
    write_rows(Ledger(run / "ledger", 1), "workers", "w", [about])
    return run


OTHERS = (
    ({"weights": "w", "torch": "2"}, "the torch"),
    ({"weights": "v", "torch": "1"}, "the weights"),
    (None, "the machine of one of them, which is not known"),
)


@pytest.mark.parametrize(("machine", "words"), OTHERS)
def test_runs_of_different_machines_stand_apart(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    machine: dict[str, str] | None,
    words: str,
) -> None:
    honest = {"weights": "w", "torch": "1"}
    one = loaded(write_run(tmp_path / "one", {"a": RIGHT}), honest)
    # The same candidate and a worse one, which one front would not show.
    two = loaded(write_run(tmp_path / "two", {"a": WRONG, "bb": WRONG}), machine)
    same = loaded(write_run(tmp_path / "same", {"a": RIGHT}), honest)
    capsys.readouterr()
    for places in ([one, two], [tmp_path / "all"]):
        lines = front(capsys, *places)
        assert [(line["run"], line["candidate"]) for line in lines] == [("one", "a"), ("two", "a")]
        assert len({line["model"] for line in lines}) == 2
        assert launch.main(["front", *map(str, places)]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert (
            f"measured tiny on different machines, so they stand apart: what differs is {words}"
            in told
        )
        page = tmp_path / "page.html"
        assert launch.main(["report", *map(str, places), "-o", str(page)]) != 2
        assert f"what differs is {words}" in " ".join(capsys.readouterr().out.split())
        assert all(line["model"] in page.read_text("utf-8") for line in lines)
        if places == [one, two]:
            assert aggregate(one, two, "-o", tmp_path / "all") == 0
            told = " ".join(capsys.readouterr().out.split())
            assert f"so their rows are kept apart: what differs is {words}" in told
    assert aggregate(one, same, "-o", tmp_path / "together") == 0
    assert "different machines" not in capsys.readouterr().out
    assert len(rows(tmp_path / "together", "rungs")) == 1
    # Both stay, whatever is added again.
    assert aggregate(two, same, "-o", tmp_path / "all") == 0
    assert Counter(row["run"] for row in rows(tmp_path / "all", "rungs")) == {"one": 1, "two": 2}


def test_a_front_says_that_the_train_split_is_in_the_machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "one", {"a": RIGHT}, train_split_in_machine=True)
    assert launch.main(["front", str(run)]) == 0
    assert "one: the train split is part of the machine" in capsys.readouterr().out
