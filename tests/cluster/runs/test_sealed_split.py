"""A sealed split serves one choice of programs; another is refused, or marked as repeated."""

import json
from pathlib import Path

from kilobit.cluster.runs.fronts import RunFront
from kilobit.cluster.sweep.recorded import data_parts
from kilobit.evaluators.tasks.registry import load_task
from tests.support.cli.sealed import (
    Make,
    Say,
    add,
    certificates,
    example,
    writable,
)
from tests.support.rows import rows_of, write_rows


def test_another_choice_is_refused_and_marked_where_it_is_forced(
    make: Make, say: Say, ran: list[str]
) -> None:
    run = make()
    say("certify", run.path)
    first = certificates(run)
    add(run, "raw", 18, 100)
    message = say("certify", run.path, status=2)
    assert "was opened on 20" in message
    assert "for another choice of 4 programs" in message
    assert "--again certifies all the same" in message
    assert len(ran) == 4
    assert len(rows_of(run.ledger, "openings")) == 1
    assert certificates(run) == first
    shown = say("certify", run.path, "--again")
    assert "repeated: the sealed split had been opened before for other programs" in shown
    assert len(ran) == 9
    assert {(row["repeated"], row["num_programs"]) for row in rows_of(run.ledger, "openings")} == {
        (False, 4),
        (True, 5),
    }
    points = {p.candidate: p for p in RunFront(run).points}
    assert {p.certificate.num_programs for p in points.values() if p.certificate} == {5}
    assert points["raw-18-100"].certificate is not None
    assert points["raw-18-100"].certificate.repeated
    # What was forced once goes on without force, and stays marked.
    assert "repeated" in say("certify", run.path)
    assert len(ran) == 9
    forced = next(row["opening"] for row in rows_of(run.ledger, "openings") if row["repeated"])
    for table in ("predictions", "certificates"):
        for part in (run.path / "ledger" / table).glob(f"{forced}-raw-18-100.a*.parquet"):
            part.unlink()
    say("certify", run.path)
    assert len(ran) == 10
    assert certificates(run)["raw-18-100"]["repeated"]


def test_a_sealed_split_that_is_not_that_of_the_search_is_not_opened(
    make: Make, say: Say, sealed_file: Path, ran: list[str]
) -> None:
    run = make()
    say("verify", run.path)
    data = data_parts(load_task(run.sweep.task, run.sweep_folder), run.sweep)
    load = {"worker": "raw-0", "model": "raw", "data": json.dumps(data)}
    write_rows(writable(run), "workers", "raw-0", [load])
    sealed = sealed_file.read_text()
    sealed_file.write_text(sealed.replace("exactly 2001", "exactly 2002"))
    assert "the sealed split changed since the run began" in say("certify", run.path, status=2)
    assert rows_of(run.ledger, "openings") == ran == []
    sealed_file.write_text(sealed)
    say("certify", run.path)
    for row in rows_of(run.ledger, "certificates"):
        model = row["candidate"].partition("-")[0]
        assert (row["machine"], row["data"]) == (f"machine of {model}", "the data")


def test_fewer_of_the_same_programs_are_no_other_choice(
    make: Make, say: Say, ran: list[str]
) -> None:
    run = make()
    say("certify", run.path)
    row = {"candidate": "raw-16-90", "verified": False}
    program = next(p.program for p in RunFront(run).points if p.candidate == "raw-16-90")
    write_rows(writable(run), "verifications", "raw-16-90", [row | {"program": program}])
    assert "the bounds of 4 programs" in say("certify", run.path)
    assert len(ran) == 4


def test_a_sealed_split_that_changed_is_refused(
    make: Make, say: Say, ran: list[str], sealed_file: Path
) -> None:
    run = make()
    say("certify", run.path)
    lines = sealed_file.read_text().splitlines(keepends=True)
    # The order of the lines is no change.
    sealed_file.write_text("".join(lines[::-1]))
    say("certify", run.path)
    sealed_file.write_text("".join([*lines, example(2999)]))
    message = say("certify", run.path, status=2)
    assert "has changed since it was opened on 20" in message
    assert len(ran) == 4
    shown = say("certify", run.path, "--again")
    assert "101 examples" in shown
    assert "repeated" in shown
    assert len(ran) == 8
    sealed_file.write_text("")
    assert "the file holds no examples" in say("certify", run.path, status=2)


def test_runs_that_were_opened_one_by_one_are_shown_together_but_no_new_one_is_added(
    make: Make, say: Say, ran: list[str]
) -> None:
    runs = [make(f"s{seed}", seed=seed) for seed in (0, 1, 2)]
    say("certify", runs[0].path)
    message = say("certify", runs[0].path, runs[1].path, status=2)
    assert f"the sealed split of {runs[0].path} was opened" in message
    assert rows_of(runs[1].ledger, "openings") == []
    say("certify", runs[1].path)
    assert len(ran) == 8
    assert "the bounds of 4 programs" in say("certify", runs[0].path, runs[1].path)
    assert len(ran) == 8
