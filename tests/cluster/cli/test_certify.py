"""Sealed certification through the command line, with programs that need no model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy.stats import binom

import kilobit.cluster.cli.certify
import kilobit.cluster.driver.attempt
import kilobit.evaluators.proof.verify
from kilobit import launch
from kilobit.cluster.cli.run import _execute
from kilobit.cluster.driver.attempt import Outcome
from kilobit.cluster.runs.folder import RunFolder, create_run, open_run, reopen_run
from kilobit.cluster.runs.fronts import points_of
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.proof.program_files import write_program
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.program import Program
from kilobit.search.programs.recipe import Recipe

NUM_SEALED = 100
# Right where the number ends in less than `right`; what follows may do anything.
SCRIPT = """
import json, os, signal, sys
for line in sys.stdin:
    text = json.loads(line).strip()
    number = int(text[1:])
    output = "the number is exactly " + (text[1:] if number % 20 < {right} else "none")
    sealed = number >= 2000
    {extra}
    print(json.dumps(output))
"""
Make = Callable[..., RunFolder]
Say = Callable[..., str]


def example(number: int) -> str:
    return json.dumps({"input": f"n{number}", "target": f"the number is exactly {number}"}) + "\n"


@pytest.fixture
def sealed_file(tmp_path: Path) -> Path:
    for name, start, size in (("train", 0, 4), ("search", 1000, 40), ("sealed", 2000, NUM_SEALED)):
        lines = [example(number) for number in range(start, start + size)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    return tmp_path / "sealed.jsonl"


def writable(run: RunFolder) -> Ledger:
    """Return the ledger of the latest attempt, to write to when nobody holds the run."""
    return replace(open_run(run.path), held=True).ledger


def add(
    run: RunFolder, model: str, right: int, size: int, extra: str = "", score: Any = None
) -> str:
    """Add a program that gets `right` of 20 examples right, and return its candidate."""
    candidate = f"{model}-{right}-{size}"
    script = SCRIPT.format(right=right, extra=extra or "pass").encode()
    recipe = Recipe(question="{input}", batch_size=8, max_new_tokens=8)
    program = Program(recipe, script, bytes(size))
    part, ledger = f"{candidate}-r0", writable(run)
    write_program(ledger, part, candidate, 0, program)
    about = {"candidate": candidate, "task": "count", "model": model, "regime": model}
    position = len(ledger.rows("candidates"))
    about |= {"family": "prompt", "position": position, "after": position}
    ledger.write("candidates", candidate, [about])
    row = {
        "candidate": candidate, "rung": 0, "split": "search", "num_examples": 40,
        "score": right / 20 if score is None else score, "lower": 0.0, "upper": 1.0,
        "program_bits": 10_000 + 8 * size, "payload_bits": 8 * size, "program": program.digest,
        "base_digest": f"weights of {model}",
    }  # fmt: skip
    ledger.write("rungs", part, [row])
    decision = {"candidate": candidate, "rung": 0, "decision": "finish", "order": position}
    ledger.write("decisions", part, [decision])
    examples = load_task(run.sweep.task, run.sweep_folder).splits.search
    outputs = [
        "the number is exactly " + (e.input[1:] if int(e.input[1:]) % 20 < right else "none")
        for e in examples
    ]
    predictions = [
        {"candidate": candidate, "rung": 0, "example": e.id, "output": output}
        for e, output in zip(examples, outputs, strict=True)
    ]
    ledger.write("predictions", part, predictions)
    return candidate


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every folder hold a base model: the programs here ask none."""

    def load(config: BaseModelConfig, _: Path) -> Any:
        return SimpleNamespace(digest=f"weights of {config.label}")

    monkeypatch.setattr("kilobit.evaluators.model.base_model.load", load)


@pytest.fixture
def make(tmp_path: Path, sealed_file: Path) -> Make:
    """Return a function that makes a finished run of two base models and four programs."""

    def made(name: str = "run", *, metric: str = "exact_match", **changes: Any) -> RunFolder:
        files = {split: f"{split}.jsonl" for split in ("train", "search", "sealed")}
        sweep: dict[str, Any] = {
            "name": name,
            "task": {"kind": "jsonl", "name": "count", "files": files, "metric": metric},
            "base_models": [{"regime": label, "path": "."} for label in ("raw", "tuned")],
            "families": {"prompt": {"candidates": 4}},
            "rungs": {"examples": 40, "count": 1},
            "targets": [0.5, 0.7],
            **changes,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(sweep))
        with create_run(load_sweep(path), path, tmp_path / "runs" / name) as run:
            for model, right, size in (
                ("raw", 4, 0),
                ("raw", 16, 90),
                ("tuned", 8, 0),
                ("tuned", 17, 20),
            ):
                add(run, model, right, size)
        return open_run(run.path)

    return made


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return a function that runs a command and returns what it printed."""

    def said(*argv: Any, status: int = 0) -> str:
        found = launch.main([*map(str, argv)])
        printed = capsys.readouterr()
        assert found == status, printed
        return printed.err if status == 2 else printed.out

    return said


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the payload sizes of the programs that are run on sealed examples."""
    sizes: list[str] = []
    real = kilobit.evaluators.proof.verify.run_files

    def run_files(script: bytes, payload: bytes, model: Path, inputs: Any, *rest: Any) -> list[str]:
        if len(inputs) >= NUM_SEALED:
            sizes.append(str(len(payload)))
        return real(script, payload, model, inputs, *rest)

    monkeypatch.setattr(kilobit.evaluators.proof.verify, "run_files", run_files)
    monkeypatch.setattr(kilobit.cluster.cli.certify, "at_once", lambda _: 1)
    return sizes


def certificates(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {row["candidate"]: row for row in run.ledger.rows("certificates")}


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
    (opening,) = run.ledger.rows("openings")
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
    first, rows = say("certify", run.path), run.ledger.rows("certificates")
    assert len(ran) == 4
    again = say("certify", run.path)
    assert len(ran) == 4
    assert again in first
    assert run.ledger.rows("certificates") == rows
    say("certify", run.path, "--again")
    assert len(run.ledger.rows("openings")) == 1


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
    assert len(run.ledger.rows("openings")) == 1
    assert certificates(run) == first
    shown = say("certify", run.path, "--again")
    assert "repeated: the sealed split had been opened before for other programs" in shown
    assert len(ran) == 9
    assert {(row["repeated"], row["num_programs"]) for row in run.ledger.rows("openings")} == {
        (False, 4),
        (True, 5),
    }
    points = {p.candidate: p for p in points_of(run)}
    assert {p.certificate.num_programs for p in points.values() if p.certificate} == {5}
    assert points["raw-18-100"].certificate is not None
    assert points["raw-18-100"].certificate.repeated
    # What was forced once goes on without force, and stays marked.
    assert "repeated" in say("certify", run.path)
    assert len(ran) == 9
    forced = next(row["opening"] for row in run.ledger.rows("openings") if row["repeated"])
    for table in ("predictions", "certificates"):
        for part in (run.path / "ledger" / table).glob(f"{forced}-raw-18-100.a*.parquet"):
            part.unlink()
    say("certify", run.path)
    assert len(ran) == 10
    assert certificates(run)["raw-18-100"]["repeated"]


def test_fewer_of_the_same_programs_are_no_other_choice(
    make: Make, say: Say, ran: list[str]
) -> None:
    run = make()
    say("certify", run.path)
    row = {"candidate": "raw-16-90", "verified": False}
    program = next(p.program for p in points_of(run) if p.candidate == "raw-16-90")
    writable(run).write("verifications", "raw-16-90", [row | {"program": program}])
    assert "the bounds of 4 programs" in say("certify", run.path)
    assert len(ran) == 4


def test_an_interrupted_certification_goes_on_with_the_others(
    make: Make, say: Say, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = make("whole"), make("run")
    say("certify", whole.path)
    expected = {c: (r["lower"], r["upper"]) for c, r in certificates(whole).items()}
    ran.clear()
    real = kilobit.evaluators.proof.verify.run_files

    def interrupted(*args: Any) -> list[str]:
        if len(ran) == 2:
            raise KeyboardInterrupt
        return real(*args)

    # Verified before, so that only certification is interrupted.
    say("verify", run.path)
    with monkeypatch.context() as patched:
        patched.setattr(kilobit.evaluators.proof.verify, "run_files", interrupted)
        shown = say("certify", run.path, status=130)
    assert f"Go on with:\n  kilobit certify {run.path}" in shown
    assert certificates(run) == {}
    assert [p.certified for p in points_of(run)] == [None] * 4
    done = set(ran)
    assert len(ran) == 2
    assert "certifying 2 programs" in say("certify", run.path)
    assert len(ran) == 4
    assert done & set(ran[2:]) <= {"0"}
    assert {c: (r["lower"], r["upper"]) for c, r in certificates(run).items()} == expected
    assert len(run.ledger.rows("openings")) == 1


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
    for row in run.ledger.rows("rungs"):
        writable(run).write("verifications", row["candidate"], [row_of_verification(row)])
    shown = say("certify", run.path, status=1)
    found, points = certificates(run), {p.candidate: p for p in points_of(run)}
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


def test_runs_of_several_seeds_are_certified_together_and_compared(
    make: Make, say: Say, ran: list[str]
) -> None:
    runs = [make(f"s{seed}", seed=seed) for seed in (0, 1)]
    add(runs[1], "raw", 18, 200)
    shown = say("certify", *(run.path for run in runs))
    assert "the bounds of 9 programs hold at once" in shown
    assert len(ran) == 9
    openings = [run.ledger.rows("openings") for run in runs]
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


def test_runs_that_were_opened_one_by_one_are_shown_together_but_no_new_one_is_added(
    make: Make, say: Say, ran: list[str]
) -> None:
    runs = [make(f"s{seed}", seed=seed) for seed in (0, 1, 2)]
    say("certify", runs[0].path)
    message = say("certify", runs[0].path, runs[1].path, status=2)
    assert f"the sealed split of {runs[0].path} was opened" in message
    assert runs[1].ledger.rows("openings") == []
    say("certify", runs[1].path)
    assert len(ran) == 8
    assert "the bounds of 4 programs" in say("certify", runs[0].path, runs[1].path)
    assert len(ran) == 8


def test_two_runs_of_one_seed_or_of_none_are_refused(make: Make, say: Say, tmp_path: Path) -> None:
    one, other = make("a"), make("b")
    message = say("certify", one.path, other.path, status=2)
    assert "both have seed 0 for raw on count" in message
    assert "holds no run" in say("certify", tmp_path, status=2)
    for row in one.ledger.rows("rungs"):
        writable(one).write("rungs", f"{row['candidate']}-r0", [{**row, "score": None}])
    assert "no verified program on its front" in say("certify", one.path, status=2)


def test_candidates_that_are_left_are_named_before_the_sealed_split_is_opened(
    make: Make, say: Say
) -> None:
    run = make()
    writable(run).write(
        "candidates", "left", [{"candidate": "left", "model": "raw", "position": 4}]
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
            return _execute(held, plan, console, None, 0.0), capsys.readouterr().out

    silent, certified = make("silent"), make("certified", certify=True)
    status, shown = end(silent, 4)
    assert status == 0
    assert "nothing is certified yet" in shown
    assert f"kilobit certify {silent.path}" in shown
    assert silent.ledger.rows("openings") == []
    # A search that is not over opens nothing.
    writable(certified).write(
        "candidates", "left", [{"candidate": "left", "model": "raw", "position": 4}]
    )
    end(certified, 5)
    assert certified.ledger.rows("openings") == []
    writable(certified).write(
        "decisions", "left", [{"candidate": "left", "decision": "stop", "order": 4}]
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
