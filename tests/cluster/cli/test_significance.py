"""The command `compare --score`: differences of scores on the same examples."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from kilobit.cluster.runs.folder import RunFolder
from kilobit.evaluators.tasks.registry import load_task
from tests.support.cli.sealed import Make, Say, add, writable
from tests.support.rows import rows_of, write_rows
from tests.support.tasks.records import write_jsonl


def compared(say: Say, *words: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(say("compare", *words, "--score", "--json"))
    return found


def test_fronts_are_paired_at_each_target_on_the_split_that_chose_nothing(
    make: Make, say: Say, ran: list[str]
) -> None:
    run = make()
    raw, tuned = f"{run.path}:raw", f"{run.path}:tuned"
    found = compared(say, raw, tuned)
    assert (found["split"], found["task"], found["metric"]) == ("search", "count", "exact_match")
    # 32 and 34 of 40, and what the first gets right the second does too.
    assert found["pairs"][0]["p"] == pytest.approx(binomtest(0, 2).pvalue)
    shown = say("compare", raw, tuned, "--score")
    assert "WARNING: these scores have chosen the programs" in shown
    say("certify", run.path)
    found = compared(say, raw, tuned)
    assert found["split"] == "sealed"
    assert [pair["target"] for pair in found["pairs"]] == [0.5, 0.7]
    for pair in found["pairs"]:
        assert (pair["one"], pair["two"], pair["test"]) == ("A", "B", "McNemar")
        assert (pair["program_one"], pair["program_two"]) == ("raw-16-90", "tuned-17-20")
        assert (pair["score_one"], pair["score_two"]) == (0.8, 0.85)
        assert pair["difference"] == pytest.approx(-0.05)
        assert pair["lower"] < -0.05 < pair["upper"]
        assert pair["p"] == pytest.approx(binomtest(0, 5).pvalue)
        # The same programs at both targets are one test.
        assert pair["p_holm"] == pair["p"]
    shown = say("compare", raw, tuned, "--score")
    assert "WARNING" not in shown
    assert "count: exact_match on 100 examples of the sealed split" in shown
    assert "0.800, 0.850" in shown
    assert "Holm: over all different pairs of programs: 1" in shown
    assert compared(say, raw, tuned, "--split", "search")["split"] == "search"


def test_a_target_that_one_does_not_reach_is_named(make: Make, say: Say) -> None:
    run = make(targets=[0.3, 0.82])
    found = compared(say, f"{run.path}:raw", f"{run.path}:tuned")
    assert [pair["target"] for pair in found["pairs"]] == [0.3]
    assert found["pairs"][0]["program_two"] == "tuned-8-0"
    assert found["missed"] == ["A reaches no 0.82 on the search split"]
    lone = make("lone", targets=[0.99])
    assert "no two of them can be compared" in say(
        "compare", f"{lone.path}:raw", f"{lone.path}:tuned", "--score"
    )


def test_each_pair_of_candidates_is_tested_once(make: Make, say: Say) -> None:
    run, other = make("a"), make("b", seed=1)
    words = [f"{run.path}:raw-4", f"{run.path}:tuned-8", f"{other.path}:tuned-17-20"]
    found = compared(say, *words[:2], "--split", "search", words[2])
    assert found["programs"] == dict(zip("ABC", words, strict=True))
    assert [(p["one"], p["two"]) for p in found["pairs"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert {p["target"] for p in found["pairs"]} == {None}
    ps = sorted(p["p"] for p in found["pairs"])
    adjusted = sorted(p["p_holm"] for p in found["pairs"])
    first = 3 * ps[0]
    assert adjusted == pytest.approx([first, max(first, 2 * ps[1]), max(first, 2 * ps[1], ps[2])])
    assert ps[2] < 0.01


def test_a_folder_of_a_verified_program_is_one_with_its_run_or_without(
    make: Make, say: Say, ran: list[str], tmp_path: Path
) -> None:
    run = make()
    say("verify", run.path)
    folder = Path(str(run.path)) / "programs" / "raw-raw-16-90"
    expected = compared(say, f"{run.path}:raw-16-90", f"{run.path}:tuned-17-20")["pairs"]
    for moved in (folder, shutil.copytree(folder, tmp_path / "elsewhere")):
        found = compared(say, moved, f"{run.path}:tuned-17-20")
        assert found["pairs"] == expected
        assert found["programs"]["A"] == str(moved)


def test_programs_of_other_data_metrics_or_lengths_are_not_paired(
    make: Make, say: Say, tmp_path: Path
) -> None:
    run, contains = make("a"), make("b", metric="contains", seed=1)
    words = (f"{run.path}:raw", f"{contains.path}:raw", "--score")
    refused = say("compare", *words, status=2)
    assert (
        f"{run.path}:raw and {contains.path}:raw can't be paired: the search split of one is of "
        "count (40 examples, exact_match), of the other of count (40 examples, contains), and "
        "these differ" in refused
    )
    rows = [row for row in rows_of(run.ledger, "predictions") if row["candidate"] == "raw-4-0"]
    write_rows(writable(run), "predictions", "raw-4-0-r0", rows[:16])
    words = (f"{run.path}:raw-4", f"{run.path}:tuned-8", "--score")
    refused = say("compare", *words, status=2)
    assert "has scores of 16 examples of the search split and" in refused
    assert "of 40, 16 of them the same" in refused


def in_passages(make: Make, tmp_path: Path) -> RunFolder:
    """Return a run on examples in passages of ten."""
    for split in ("train", "search", "sealed"):
        file = tmp_path / f"{split}.jsonl"
        lines = [json.loads(line) for line in file.read_text().split("\n")[:-1]]
        joined = [line | {"passage": f"{split} {int(line['input'][1:]) // 10}"} for line in lines]
        write_jsonl(file, joined)
    files = {split: f"{split}.jsonl" for split in ("train", "search", "sealed")}
    task = {"kind": "jsonl", "name": "count", "files": files, "metric": "exact_match"}
    return make(task=task | {"cluster_field": "passage"})


def test_examples_of_a_passage_are_tested_together(
    make: Make, say: Say, ran: list[str], tmp_path: Path
) -> None:
    run = in_passages(make, tmp_path)
    say("certify", run.path)
    (pair,) = compared(say, f"{run.path}:raw-16", f"{run.path}:tuned-8")["pairs"]
    assert (pair["num_examples"], pair["num_clusters"], pair["test"]) == (100, 10, "sign flips")
    # Of every second passage of ten examples 2 are different, of the others 6: all to one side.
    assert pair["p"] == pytest.approx(2 / 2**10)
    assert pair["lower"] < pair["difference"] == pytest.approx(0.4)
    shown = say("compare", f"{run.path}:raw-16", f"{run.path}:tuned-8", "--score")
    assert "on 100 examples of the sealed split in 10 clusters" in shown
    bounds = {row["candidate"]: row for row in rows_of(run.ledger, "certificates")}
    alone = make("alone", seed=1)
    say("certify", alone.path)
    narrow = {row["candidate"]: row for row in rows_of(alone.ledger, "certificates")}
    for candidate, row in bounds.items():
        assert row["score"] == narrow[candidate]["score"]
        assert row["lower"] < narrow[candidate]["lower"]


def test_scores_of_a_corpus_differ_by_their_own_score(make: Make, say: Say) -> None:
    run = make(metric="bleu")
    task = load_task(run.sweep.task, run.sweep_folder)
    (pair,) = compared(say, f"{run.path}:raw-4", f"{run.path}:tuned-17")["pairs"]
    outputs: dict[str, list[str]] = {"raw-4-0": [], "tuned-17-20": []}
    rows = rows_of(run.ledger, "predictions")
    known = {(row["candidate"], row["example"]): row["output"] for row in rows}
    for candidate, mine in outputs.items():
        mine += [known[candidate, example.id] for example in task.splits.search]
    for name, candidate in (("score_one", "raw-4-0"), ("score_two", "tuned-17-20")):
        expected = task.metric.corpus(outputs[candidate], task.splits.search).score
        assert pair[name] == pytest.approx(expected)
    assert pair["upper"] < 0
    assert pair["p"] < 0.001


def test_a_candidate_that_was_added_later_has_only_the_search_split(
    make: Make, say: Say, ran: list[str]
) -> None:
    run = make()
    say("certify", run.path)
    late = add(run, "tuned", 19, 30)
    assert compared(say, f"{run.path}:{late}", f"{run.path}:tuned-8")["split"] == "search"
    refused = say(
        "compare", f"{run.path}:{late}", f"{run.path}:tuned-8", "--score", "--split", "sealed",
        status=2,
    )  # fmt: skip
    assert f"{late} has no outputs on the sealed split" in refused
