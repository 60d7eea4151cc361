"""Runs become one data set: nothing twice, nothing lost, nothing half there."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from kilobit import launch
from kilobit.cluster.runs.folder import reopen_run
from kilobit.cluster.runs.result_sources import open_sources
from kilobit.evaluators.merge.dataset import DATASET_TABLES
from tests.conftest import REPOSITORY
from tests.support.cli.datasets import RIGHT, WRONG, aggregate, front, rows, said
from tests.support.published import SCRIPT_BITS, TASKS, write_published
from tests.support.rows import write_rows
from tests.support.runs import NUM_EXAMPLES, candidate, rung, write_run

LONGER = {"examples": NUM_EXAMPLES, "train_steps": 9, "count": 1}


def test_a_conflict_keeps_the_first_and_lists_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", {"a": RIGHT, "b": RIGHT})
    two = write_run(tmp_path / "two", {"a": (1.0, 1.0, 1.0, 1.0), "b": RIGHT})
    capsys.readouterr()
    assert aggregate(one, two, "-o", tmp_path / "all") == 0
    assert "3 values conflict" in capsys.readouterr().out
    found = rows(tmp_path / "all", "conflicts")
    assert sorted((r["table"], r["column"], r["kept"], r["other"]) for r in found) == [
        ("predictions", "output", "scores 0.0", "scores 1.0"),
        ("predictions", "score", "0", "1"),
        ("rungs", "score", "0.75", "1"),
    ]
    assert {(r["kept_run"], r["run"], r["candidate"], r["rung"]) for r in found} == {
        ("one", "two", "a", 0)
    }
    assert {r["example"] for r in found if r["table"] == "predictions"} == {"example 3"}
    scores = {r["candidate"]: r["score"] for r in rows(tmp_path / "all", "rungs")}
    assert scores == {"a": 0.75, "b": 0.75}
    assert len(rows(tmp_path / "all", "predictions")) == 2 * NUM_EXAMPLES


def test_what_differs_by_nature_is_no_conflict(tmp_path: Path) -> None:
    paths = []
    for name, seconds in (("one", 1.0), ("two", 2.0)):
        paths.append(write_run(tmp_path / name, {}, attempt_rows=False))
        with reopen_run(paths[-1]) as run:
            row = rung("a", 0.5, seconds=seconds, worker=f"{name}-0", attempt=len(paths))
            write_rows(run.ledger, "rungs", "a-r0", [row])
    aggregate(*paths, "-o", tmp_path / "all")
    assert [row["worker"] for row in rows(tmp_path / "all", "rungs")] == ["one-0"]
    assert not rows(tmp_path / "all", "conflicts")


def test_a_failure_hides_no_result_and_another_ladder_or_task_is_another_claim(
    tmp_path: Path,
) -> None:
    others = []
    for name, error in (("failed", "out of memory"), ("also", "Traceback: out of memory")):
        others.append(write_run(tmp_path / name, {}, attempt_rows=False))
        with reopen_run(others[-1]) as run:
            nothing = rung("a", None, program_bits=None, program=None, error=error)
            write_rows(run.ledger, "rungs", "a-r0", [nothing])
    others += [
        write_run(tmp_path / "worked", {"a": RIGHT}),
        write_run(tmp_path / "longer", {"a": WRONG}, rungs=LONGER),
        write_run(tmp_path / "other", {"a": WRONG},
                  task={"kind": "miniature", "name": "numbers", "seed": 1}),
    ]  # fmt: skip
    aggregate(*others, "-o", tmp_path / "all")
    found = {row["run"]: row["score"] for row in rows(tmp_path / "all", "rungs")}
    assert found == {"failed": None, "worked": 0.75, "longer": 0.25, "other": 0.25}
    assert not rows(tmp_path / "all", "conflicts")


def test_net_bits_are_those_of_each_run_also_where_a_row_stands_under_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = json.dumps({"task": "numbers", "model": "tiny"})
    paths = []
    for name, own in (("one", "a"), ("two", "b")):
        paths.append(write_run(tmp_path / name, {}))
        with reopen_run(paths[-1]) as run:
            about = [candidate(own), candidate("q") | {"spec": bare}]
            write_rows(run.ledger, "candidates", "q", about)
            asked = rung("q", 0.1, program_bits=900, payload_bits=0)
            write_rows(run.ledger, "rungs", f"{own}-r0", [rung(own, 0.75), asked])
    aggregate(*paths, "-o", tmp_path / "all")
    # The bare question of both is one row of `rungs`, and is said of each run.
    assert sum(row["candidate"] == "q" for row in rows(tmp_path / "all", "rungs")) == 1
    found = rows(tmp_path / "all", "bare")
    assert [(r["run"], r["task"], r["model"], r["program_bits"]) for r in found] == [
        ("one", "numbers", "tiny", 900), ("two", "numbers", "tiny", 900)
    ]  # fmt: skip
    for source in open_sources([tmp_path / "all"])[0]:
        points = {point.candidate: point.net_bits for point in source.points("net")}
        own = {"one": {"a": 108, "q": 0}, "two": {"b": 108}}
        assert points == own[source.name]
    # In another data set, and in a data set of a version without this table.
    aggregate(tmp_path / "all", "-o", tmp_path / "again")
    assert rows(tmp_path / "again", "bare") == found
    shutil.rmtree(tmp_path / "all" / "bare")
    (one, two) = open_sources([tmp_path / "all"])[0]
    assert {point.net_bits for point in one.points("net")} == {108, 0}
    assert [point.net_bits for point in two.points("net")] == [None]
    capsys.readouterr()
    assert launch.main(["front", str(paths[0]), "--length", "net"]) == 0
    assert "at most 108 net bits" in capsys.readouterr().out
    unasked = write_run(tmp_path / "unasked", {"a": RIGHT})
    assert launch.main(["front", str(unasked), "--length", "net"]) == 0
    shown = capsys.readouterr().out
    assert "net bits are unknown: the ledger has no program of the bare question" in shown
    assert "at most 1008 program bits" in shown


def test_runs_of_one_name_are_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "x" / "search", {"a": WRONG})
    two = write_run(tmp_path / "y" / "search", {"b": RIGHT, "cc": (1.0,) * 4})
    odd = write_run(tmp_path / "odd", {"ddd": (1.0,) * 4})
    odd = odd.rename(tmp_path / "_odd [1]*")
    aggregate(one, two, odd, "-o", tmp_path / "all")
    found = [row["run"] for row in rows(tmp_path / "all", "rungs")]
    assert sorted(found) == ["odd--1--", "search", "search-2", "search-2"]
    assert {line["run"] for line in front(capsys, tmp_path / "all")} == {"search-2"}
    assert {source.name for source in open_sources([tmp_path / "all"])[0]} == {
        "search", "search-2", "odd--1--"
    }  # fmt: skip


def test_conflicts_know_their_runs_by_the_names_that_these_have_now(tmp_path: Path) -> None:
    for number in "12":
        runs = [
            write_run(tmp_path / number / name, {f"c{number}": scores})
            for name, scores in (("one", RIGHT), ("two", WRONG))
        ]
        aggregate(*runs, "-o", tmp_path / f"set{number}")
    aggregate(tmp_path / "set1", tmp_path / "set2", "-o", tmp_path / "all")
    found = {(r["candidate"], r["kept_run"], r["run"]) for r in rows(tmp_path / "all", "conflicts")}
    assert found == {("c1", "one", "two"), ("c2", "one-2", "two-2")}


def test_a_data_set_is_added_to_and_adding_again_changes_nothing(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", {"a": RIGHT, "b": RIGHT})
    two = write_run(tmp_path / "two", {"a": WRONG, "c": RIGHT})
    three = write_run(tmp_path / "three", {"c": WRONG, "d": RIGHT})
    aggregate(one, two, three, "-o", tmp_path / "at-once")
    aggregate(one, two, "-o", tmp_path / "steps")
    aggregate(three, "-o", tmp_path / "steps")
    aggregate(tmp_path / "steps", two, one, "-o", tmp_path / "steps")
    aggregate(two, three, "-o", tmp_path / "half")
    aggregate(tmp_path / "at-once", tmp_path / "half", "-o", tmp_path / "both")
    for folder in ("steps", "both"):
        for table in DATASET_TABLES:
            assert said(tmp_path / folder, table) == said(tmp_path / "at-once", table), table
        about = json.loads((tmp_path / folder / "dataset.json").read_bytes())
        assert [source["name"] for source in about["sources"]] == ["one", "two", "three"]
    assert said(tmp_path / "at-once", "conflicts")
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_went_on_adds_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write_run(tmp_path / "one", {"a": WRONG})
    aggregate(one, "-o", tmp_path / "all")
    with reopen_run(one) as run:
        write_rows(run.ledger, "candidates", "bb", [candidate("bb")])
        write_rows(run.ledger, "rungs", "bb-r0", [rung("bb", 0.9)])
    aggregate(one, "-o", tmp_path / "all")
    assert [(r["run"], r["candidate"]) for r in rows(tmp_path / "all", "rungs")] == [
        ("one", "a"), ("one", "bb")
    ]  # fmt: skip
    (source,) = json.loads((tmp_path / "all" / "dataset.json").read_bytes())["sources"]
    assert (source["attempts"], source["rows"]["rungs"]) == (2, 2)
    assert [line["candidate"] for line in front(capsys, tmp_path / "all")] == ["a", "bb"]


def test_large_payloads_come_along(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", {"a": RIGHT})
    row = {"candidate": "a", "rung": 0, "program": "0123456789abcdef", "script": b"1"}
    with reopen_run(one) as run:
        (one / "ledger" / "payloads").mkdir()
        (one / "ledger" / "payloads" / "0123456789abcdef.bin").write_bytes(b"large")
        file = {"payload_file": "payloads/0123456789abcdef.bin"}
        write_rows(run.ledger, "programs", "a-r0", [row | file])
    aggregate(one, "-o", tmp_path / "all")
    shutil.rmtree(one)
    aggregate(tmp_path / "all", "-o", tmp_path / "copy")
    (found,) = rows(tmp_path / "copy", "programs")
    assert (tmp_path / "copy" / found["payload_file"]).read_bytes() == b"large"


def test_a_million_rows_of_lower_rungs_do_not_become_objects(tmp_path: Path) -> None:
    from kilobit.search.candidate import Rung
    from kilobit.search.front.points import at_last_rung

    one = write_run(tmp_path / "one", {"a": RIGHT, "b": RIGHT})
    (source,), _ = open_sources([one])
    about, found = at_last_rung(source.read("candidates"), source.read("rungs"), Rung(0, 4, 1))
    assert [one.candidate for one in about] == [one.candidate for one in found] == ["a", "b"]
    for rung_number, num_examples in ((1, 4), (0, 5)):
        last = Rung(rung_number, num_examples, 1)
        assert at_last_rung(source.read("candidates"), source.read("rungs"), last) == ([], [])


def test_the_command_of_the_page_imports_a_published_table_and_reports_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published = write_published(tmp_path / "published.csv")
    assert len(published) == 1389
    page = (REPOSITORY / "docs" / "aggregate.md").read_text("utf-8")
    block = re.search(r"```bash\n(kilobit aggregate --import published.csv -o .*?)```", page, re.S)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    for line in block[1].replace("\\\n", " ").splitlines():
        assert launch.main(shlex.split(line)[1:]) == 0
    assert "left out" not in capsys.readouterr().out
    groups: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for task, model, _, bits, score in published:
        groups.setdefault((task, model), []).append((bits, score))
    assert len(groups) == 51

    def front_of(points: list[tuple[int, float]]) -> set[tuple[int, float]]:
        """Return the points that no other point beats."""
        return {
            (bits, score)
            for bits, score in points
            if not any(b <= bits and s >= score and (b, s) != (bits, score) for b, s in points)
        }

    expected = {key: front_of(points) for key, points in groups.items()}
    lines = front(capsys, tmp_path / "theirs", "--length", "payload")
    found: dict[tuple[str, str], set[tuple[int, float]]] = {}
    for one in lines:
        found.setdefault((one["task"], one["model"]), set()).add(
            (one["payload_bits"], one["score"])
        )
        assert one["program_bits"] == one["payload_bits"] + SCRIPT_BITS[one["family"]]
    assert found == expected
    html = (tmp_path / "theirs.html").read_text("utf-8")
    data = json.loads(html.split('id="data">', 1)[1].split("</script", 1)[0])
    assert [task["name"] for task in data["tasks"]] == list(TASKS)
    drawn: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for one in data["overlay"]:
        key = one["task"], one["label"].removesuffix(" (imported)")
        drawn.setdefault(key, set()).add((one["bits"], one["score"]))
    assert drawn == expected
    assert (data["programs"], data["origins"], data["results"][1:]) == ([], [], [])
    # A condition leaves rows out, and their number is said.
    words = ["--map", "benchmark==ifeval,score=result,payload_bits=bits", "-o", tmp_path / "some"]
    assert aggregate("--import", "published.csv", *words) == 0
    assert "published: no --map takes 926 rows, which are left out" in capsys.readouterr().out


def test_the_commands_of_the_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "aggregate.md").read_text("utf-8")
    write_run(tmp_path / "runs" / "monday", {"a": RIGHT, "b": WRONG})
    write_run(tmp_path / "runs" / "tuesday", {"a": (1.0,) * 4, "c": RIGHT})
    write_run(tmp_path / "runs" / "wednesday", {"d": RIGHT})
    (tmp_path / "published.csv").write_text("accuracy,bits\n0.5,800\n")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0]
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        assert program == "kilobit"
        assert launch.main(words) == 0, line
