"""Sealed certification through the command line, with programs that need no model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binom

import kilobit.cluster.cli.certify
import kilobit.cluster.driver.attempt
from kilobit.cluster.cli.run import _execute
from kilobit.cluster.driver.attempt import Outcome
from kilobit.cluster.runs.folder import RunFolder, reopen_run
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.proof.sandbox import Sandbox
from tests.support.cli.sealed import (
    Make,
    Say,
    add,
    certificates,
    writable,
)
from tests.support.rows import rows_of, write_rows


def test_programs_are_run_on_the_sealed_split_and_their_bounds_hold_at_once(
    make: Make, say: Say, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    assert "not certified" in say("front", run.path)
    seen_before: list[int] = []
    write = kilobit.cluster.cli.certify.open_sealed

    def open_sealed(*args: Any, **options: Any) -> Any:
        seen_before.append(len(ran))
        return write(*args, **options)

    monkeypatch.setattr(kilobit.cluster.cli.certify, "open_sealed", open_sealed)
    shown = say("certify", run.path)
    assert "certifying 4 programs on 100 sealed examples" in shown
    assert (seen_before, sorted(ran)) == ([0], ["0", "0", "20", "90"])
    found = certificates(run)
    assert {c: row["score"] for c, row in found.items()} == {
        "raw-4-0": 0.2, "raw-16-90": 0.8, "tuned-8-0": 0.4, "tuned-17-20": 0.85,
    }  # fmt: skip
    for row in found.values():
        right = round(100 * row["score"])
        assert binom.sf(right - 1, 100, row["lower"]) == pytest.approx(0.05 / 8)
        assert binom.cdf(right, 100, row["upper"]) == pytest.approx(0.05 / 8)
        assert (row["num_programs"], row["level"], row["num_examples"]) == (4, 0.95, 100)
        assert (row["repeated"], row["error"], row["split"]) == (False, None, "sealed")
    assert found["raw-16-90"]["base_digest"] == "weights of raw"
    (opening,) = rows_of(run.ledger, "openings")
    assert opening["num_programs"] == len(opening["selection"]) == 4
    assert opening["selection"] == sorted(opening["selection"])
    assert opening["targets"] == [0.5, 0.7]
    assert {row["opening"] for row in found.values()} == {opening["opening"]}
    # 0.85 was seen, 0.75 is certain: 0.7 is certified. 0.8 was seen, and 0.69 is certain.
    assert (
        "score ≥ 0.7 on the search split: at most 10160 program bits (certified: at most 10160)"
        in shown
    )
    assert "not certified: best lower bound 0.68" in shown
    lines = [json.loads(line) for line in say("front", run.path, "--json").splitlines()]
    assert {line["candidate"]: line["certified"] for line in lines} == {
        "raw-4-0": None, "raw-16-90": False, "tuned-8-0": None, "tuned-17-20": True,
    }  # fmt: skip
    assert lines[0]["certificate"]["num_programs"] == 4


def test_the_same_choice_again_runs_nothing_and_shows_the_same(
    make: Make, say: Say, ran: list[str]
) -> None:
    run = make()
    first, rows = say("certify", run.path), rows_of(run.ledger, "certificates")
    assert len(ran) == 4
    again = say("certify", run.path)
    assert len(ran) == 4
    assert again in first
    assert rows_of(run.ledger, "certificates") == rows
    say("certify", run.path, "--again")
    assert len(rows_of(run.ledger, "openings")) == 1


def test_an_interrupted_certification_goes_on_with_the_others(
    make: Make, say: Say, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = make("whole"), make("run")
    say("certify", whole.path)
    expected = {c: (r["lower"], r["upper"]) for c, r in certificates(whole).items()}
    ran.clear()
    real = Sandbox.run

    def interrupted(*args: Any, **more: Any) -> list[str]:
        if len(ran) == 2:
            raise KeyboardInterrupt
        return real(*args, **more)

    # Verified before, so that only certification is interrupted.
    say("verify", run.path)
    with monkeypatch.context() as patched:
        patched.setattr(Sandbox, "run", interrupted)
        shown = say("certify", run.path, status=130)
    assert f"Go on with:\n  kilobit certify {run.path}" in shown
    assert certificates(run) == {}
    assert [p.certified for p in RunFront(run).points] == [None] * 4
    done = set(ran)
    assert len(ran) == 2
    assert "certifying 2 programs" in say("certify", run.path)
    assert len(ran) == 4
    assert done & set(ran[2:]) <= {"0"}
    assert {c: (r["lower"], r["upper"]) for c, r in certificates(run).items()} == expected
    assert len(rows_of(run.ledger, "openings")) == 1


FAILURES = {
    "sealed and sys.exit(3)": "ended with status 3",
    "output = 7 if sealed else output": "is not a JSON string",
    "output = '\\ud800' if sealed else output": "is not a JSON string",
    "if sealed and number > 2050: continue": "it printed 51 outputs for 100 inputs",
}


def test_programs_that_fail_certify_nothing_and_count_among_the_chosen(
    make: Make, say: Say, ran: list[str]
) -> None:
    run = make()
    broken = {
        add(run, "tuned", 19, 30 + i, extra, score=0.9 + i / 100): message
        for i, (extra, message) in enumerate(FAILURES.items())
    }
    for row in rows_of(run.ledger, "rungs"):
        write_rows(writable(run), "verifications", row["candidate"], [row_of_verification(row)])
    shown = say("certify", run.path, status=1)
    found, points = certificates(run), {p.candidate: p for p in RunFront(run).points}
    for candidate, message in broken.items():
        assert f"not certified, it failed: {candidate}" in shown
        assert message in found[candidate]["error"]
        assert (found[candidate]["score"], found[candidate]["lower"]) == (None, None)
        assert points[candidate].certified is False
    assert {row["num_programs"] for row in found.values()} == {8}
    share = 0.05 / 16
    assert binom.sf(84, 100, found["tuned-17-20"]["lower"]) == pytest.approx(share)
    # They are tried again, as what failed may have been the machine; the others are not.
    say("certify", run.path, status=1)
    assert len(ran) == 12


def row_of_verification(row: dict[str, Any]) -> dict[str, Any]:
    return {"candidate": row["candidate"], "program": row["program"], "verified": True}


def test_outputs_of_any_kind_score_and_never_end_the_command(make: Make, say: Say) -> None:
    run = make(metric="bleu")
    add(run, "raw", 19, 100, "output = chr(number) * 99 + chr(0) if sealed else output")
    add(run, "tuned", 20, 100, "output = '' if sealed else output")
    say("certify", run.path)
    found = certificates(run)
    assert found["raw-19-100"]["lower"] == found["tuned-20-100"]["lower"] == 0.0
    assert found["tuned-20-100"]["score"] == 0.0
    assert 0.7 < found["tuned-17-20"]["lower"] < found["tuned-17-20"]["score"] < 0.97


def test_runs_of_several_seeds_are_certified_together_and_compared(
    make: Make, say: Say, ran: list[str]
) -> None:
    runs = [make(f"s{seed}", seed=seed) for seed in (0, 1)]
    add(runs[1], "raw", 18, 200)
    shown = say("certify", *(run.path for run in runs))
    assert "the bounds of 9 programs hold at once" in shown
    assert len(ran) == 9
    openings = [rows_of(run.ledger, "openings") for run in runs]
    assert [row["opening"] for (row,) in openings] == [openings[0][0]["opening"]] * 2
    shown = "\n".join(line.rstrip() for line in shown.splitlines())
    assert (
        """certified bits at score ≥ 0.5, seed by seed
  count, raw: seed 0 10720, seed 1 10720
    log2 bits, 2 of 2 seeds: mean 13.39, min - max 13.39 - 13.39
  count, tuned: seed 0 10160, seed 1 10160
    log2 bits, 2 of 2 seeds: mean 13.31, min - max 13.31 - 13.31
  raw over tuned, log2 of the ratio of bits: seed 0 +0.08, seed 1 +0.08
    2 paired seeds: mean 0.08, min - max 0.08 - 0.08; raw needs 1.06 times the bits of tuned"""
        in shown
    )
    at_70 = shown.split("certified bits at score ≥ 0.7")[1]
    assert "count, raw: seed 0 not certified (best lower bound 0.66" in at_70
    assert "seed 1 11600\n    log2 bits, 1 of 2 seeds" in at_70
    # One of them alone was among those, so nothing is new.
    assert "the bounds of 9 programs" in say("certify", runs[0].path)
    assert len(ran) == 9


def test_two_runs_of_one_seed_or_of_none_are_refused(make: Make, say: Say, tmp_path: Path) -> None:
    one, other = make("a"), make("b")
    message = say("certify", one.path, other.path, status=2)
    assert "both have seed 0 for raw on count" in message
    assert "holds no run" in say("certify", tmp_path, status=2)
    for row in rows_of(one.ledger, "rungs"):
        write_rows(writable(one), "rungs", f"{row['candidate']}-r0", [{**row, "score": None}])
    assert "no verified program on its front" in say("certify", one.path, status=2)


def test_candidates_that_are_left_are_named_before_the_sealed_split_is_opened(
    make: Make, say: Say
) -> None:
    run = make()
    write_rows(
        writable(run), "candidates", "left", [{"candidate": "left", "model": "raw", "position": 4}]
    )
    assert f"1 candidates of {run.path} have not ended" in say("certify", run.path)


def test_a_run_says_how_to_certify_or_does_it_where_the_sweep_asks(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kilobit.cluster.driver.attempt, "execute", lambda *_: Outcome())
    console = Console(soft_wrap=True, markup=False)

    def end(run: RunFolder, num_candidates: int) -> tuple[int, str]:
        plan: Any = SimpleNamespace(num_candidates=num_candidates)
        with reopen_run(run.path) as held:
            return _execute(held, plan, console, None, 0.0, "info"), capsys.readouterr().out

    silent, certified = make("silent"), make("certified", certify=True)
    status, shown = end(silent, 4)
    assert status == 0
    assert "nothing is certified yet" in shown
    assert f"kilobit certify {silent.path}" in shown
    assert rows_of(silent.ledger, "openings") == []
    # A search that is not over opens nothing.
    write_rows(
        writable(certified),
        "candidates",
        "left",
        [{"candidate": "left", "model": "raw", "position": 4}],
    )
    end(certified, 5)
    assert rows_of(certified.ledger, "openings") == []
    write_rows(
        writable(certified),
        "decisions",
        "left",
        [{"candidate": "left", "decision": "stop", "order": 4}],
    )
    status, shown = end(certified, 5)
    assert (status, len(certificates(certified))) == (0, 4)
    assert "(certified: at most 10160)" in shown
    assert "nothing is certified yet" not in shown
    # When more was found later the refusal is the run's, and its exit status says so.
    add(certified, "raw", 18, 100)
    status, shown = end(certified, 6)
    assert status == 1
    assert "not certified: the sealed split of" in shown
    assert np.isfinite(sum(row["lower"] for row in certificates(certified).values()))
