"""The command compare."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.cluster.runs.folder import create_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.worker.resident import Resident
from kilobit.evaluators.judges.endpoint import EndpointError
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Prompt, Rung
from kilobit.search.records import PredictionRecord, RungRecord
from tests.support.judges.judge_server import Server, completion
from tests.support.rows import rows_of, write_rows

FIRST = Rung(0, 4, 2)


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    for name in "ab":
        records = [{"id": i, "input": f"q{i}", "output": f"{name}{i}"} for i in range(300)]
        write(tmp_path / f"{name}.jsonl", *records)
    return str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server()
    yield one
    one.stop()


def people(tmp_path: Path, *words: str) -> str:
    write(tmp_path / "v.jsonl", *({"id": i, "verdict": word} for i, word in enumerate(words)))
    (tmp_path / "people.yaml").write_text("judge:\n  kind: file\n  path: v.jsonl\n")
    return str(tmp_path / "people.yaml")


def behind(server: Server, tmp_path: Path, **settings: Any) -> str:
    judge = {"kind": "endpoint", "url": server.url, "model": "m", "retries": 0} | settings
    (tmp_path / "judge.yaml").write_text(json.dumps({"judge": judge}))
    return str(tmp_path / "judge.yaml")


def test_the_published_comparison_is_printed_with_all_models_of_ties(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = people(tmp_path, *["win"] * 159, *["B"] * 78, *["tie"] * 63)
    assert launch.main(["compare", *files, "--judge", judge]) == 0
    out = capsys.readouterr().out
    assert "300 of 300 prompts were judged: A wins 159, 63 ties, A loses 78" in out
    assert [model for model in ("half_points", "drop_ties", "thurstone") if model in out] != []
    assert launch.main(["compare", *files, "--judge", judge, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["wins"], found["ties"], found["losses"], found["failed"]) == (159, 63, 78, 0)
    numbers = {one["model"]: one for one in found["strengths"]}
    assert int(100 * numbers["thurstone"]["strength"]) == 64
    assert numbers["thurstone"]["lower"] == pytest.approx(0.59, abs=0.005)
    assert numbers["davidson"]["strength"] == numbers["drop_ties"]["strength"]
    assert list(numbers) == ["half_points", "drop_ties", "thurstone", "rao_kupper", "davidson"]


def test_prompts_that_nobody_judged_are_counted_and_make_the_status_1(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge, rows = people(tmp_path, "win", "tie"), tmp_path / "rows.jsonl"
    assert launch.main(["compare", *files, "--judge", judge, "--rows", str(rows)]) == 1
    out, err = capsys.readouterr()
    assert "2 of 300 prompts were judged" in out
    assert "kilobit: no verdict on 298 of 300 prompts, the first: " in err
    assert "half_points" not in out
    assert "not judged: 298 prompts: " in out
    kept = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["outcome"] for row in kept[:3]] == ["win", "tie", None]
    assert "no verdict" in kept[2]["reason"]


def test_a_judge_of_the_place_is_at_50_percent_with_a_warning(
    files: tuple[str, str],
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts = write(tmp_path / "p.jsonl", *({"id": i, "input": f"q{i}"} for i in range(8)))
    prices = {"dollars_per_million_input": 1.0, "dollars_per_million_output": 1.0}
    judge = behind(server, tmp_path, **prices)
    command = ["compare", *files, "--judge", judge, "--prompts", str(prompts)]
    assert launch.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ties"], found["flipped"]) == (8, 1.0)
    assert "shown first both times" in found["warning"]
    assert [one["strength"] for one in found["strengths"]] == [0.5, None, None, None, None]
    assert found["spent"]["dollars"] == pytest.approx(16 * 101 / 1e6)
    assert launch.main(command) == 0
    out = capsys.readouterr().out
    assert "WARNING: position bias: on 8 of 8 prompts (100 %)" in out
    assert "asked: 0 requests, 0 replies; 16 were cached; 0 tokens in, 0 out, 0.0000 dollars" in out
    assert len(server.asked) == 16


def test_an_endpoint_that_refuses_is_one_message_and_status_1(
    files: tuple[str, str],
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.always = (401, b"bad key", {})
    assert launch.main(["compare", *files, "--judge", behind(server, tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "kilobit: judge http://127.0.0.1:" in captured.err
    assert "status 401: bad key; it requires a key" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("kind: people", "judge.yaml, line 1: judge.kind must be one of 'endpoint', 'file', 'mod"),
        ("kind: file", "judge.yaml, line 1: 'judge.path' is missing"),
        ("kind: file, path: absent", "absent: No such file"),
        ("kind: file, pth: v", "unknown key 'judge.pth'. Did you mean 'path'?"),
        ("kind: endpoint, url: 'http://h', model: m, key_variable: NO_KEY", "NO_KEY of the key is"),
    ],
)
def test_a_bad_judge_is_one_message_and_status_2(
    files: tuple[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: str,
    message: str,
) -> None:
    (tmp_path / "judge.yaml").write_text(f"judge: {{{change}}}\n")
    assert launch.main(["compare", *files, "--judge", str(tmp_path / "judge.yaml")]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def outputs(write_sweep: Callable[..., Path], tmp_path: Path) -> tuple[Path, list[str]]:
    """Return a run with the outputs of two candidates at their first rung."""
    path = write_sweep(rungs={"examples": 4, "train_steps": 2, "eta": 2, "count": 2})
    sweep, made = load_sweep(path), []
    with create_run(sweep, path, tmp_path / "run") as run:
        setup = (sweep.model_dump_json(), str(tmp_path), str(run.path), "llama", "llama-0", 1)
        evaluator = RungEvaluator(EvaluatorSetup(*setup))
        for text in ("one", "two"):
            about = {"task": "numbers", "model": "llama", "prompt": Prompt(instruction=text)}
            candidate = Candidate.model_validate(about)
            evaluator.run_rung(candidate.canonical(), FIRST)
            row = {"candidate": candidate.id, "task": "numbers", "model": "llama"}
            write_rows(run.ledger, "candidates", candidate.id, [row])
            made.append(candidate.id)
        return run.path, made


def test_candidates_of_a_run_are_compared_by_what_the_ledger_holds(
    outputs: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kilobit.cluster.runs.folder import open_run

    path, (one, two) = outputs
    run = open_run(path)
    first = sorted(
        r["example"] for r in rows_of(run.ledger, "predictions") if r["candidate"] == one
    )
    assert len(first) == 4
    write(tmp_path / "v.jsonl", *({"id": example, "verdict": "A"} for example in first))
    (tmp_path / "people.yaml").write_text("judge:\n  kind: file\n  path: v.jsonl\n")
    judge = ["--judge", str(tmp_path / "people.yaml"), "--json"]
    assert launch.main(["compare", f"{path}:{one}", f"{path}:{two[:12]}", *judge]) == 0
    assert json.loads(capsys.readouterr().out)["wins"] == 4
    assert launch.main(["compare", f"{path}:{one}", f"{path}:nobody", *judge]) == 2
    assert "no candidate begins with 'nobody'; name exactly one" in capsys.readouterr().err
    shutil.rmtree(path / "ledger" / "predictions")
    assert launch.main(["compare", f"{path}:{one}", f"{path}:{two}", *judge]) == 2
    assert f"{one} has no outputs on the search split" in capsys.readouterr().err


def test_a_judge_in_a_search_scores_fails_a_candidate_or_stops_the_run(
    write_sweep: Callable[..., Path],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parrot(self: Resident, slots: Any, rows: Sequence[Asked]) -> list[list[int]]:
        tokenizer = self.frozen.tokenizer
        said = [tokenizer.decode(row.ids, skip_special_tokens=True)[:9] for row in rows]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]

    monkeypatch.setattr(Resident, "answer", parrot)
    examples = [{"input": f"Q: {i}\nA:", "target": f"{i}"} for i in range(60)]
    write(tmp_path / "d.jsonl", *examples)
    judge = {"kind": "endpoint", "url": server.url, "model": "m", "retries": 0}
    task = {
        "kind": "jsonl",
        "name": "mine",
        "data": "d.jsonl",
        "metric": "preference",
        "judge": judge,
    }
    sweep = load_sweep(write_sweep(task=task))
    setup = (sweep.model_dump_json(), str(tmp_path), str(tmp_path / "run"), "llama", "llama-0", 1)
    evaluator = RungEvaluator(EvaluatorSetup(*setup))

    def record(text: str) -> RungRecord:
        about = {"task": "mine", "model": "llama", "prompt": Prompt(instruction=text)}
        return evaluator.run_rung(Candidate.model_validate(about).canonical(), FIRST).record

    # Always the place: every example a tie.
    assert record("one").score == 0.5
    odd = load_task(sweep.task, tmp_path).splits.search[0].input
    server.rule = lambda body: completion(
        "no idea" if f"[Request]\n{odd}\n" in body["messages"][0]["content"] else "A"
    )
    partly = record("a text in part")
    assert (partly.error, partly.score, partly.num_examples, partly.num_unjudged) == (
        None,
        0.5,
        4,
        1,
    )
    predictions = evaluator._ledger.read_part(PredictionRecord, partly.part)
    assert [one.score for one in predictions or ()] == [None, 0.5, 0.5, 0.5]
    assert "ends in 'no idea'" in str((predictions or ())[0].columns)
    assert partly.upper is not None
    server.rule, server.always = None, completion("no idea")
    failed = record("another text")
    assert failed.score is None
    assert "the judge gave no verdict on 4 of 4 outputs, the first on example" in (
        failed.error or ""
    )
    server.always = (503, b"", {})
    with pytest.raises(EndpointError, match="in a row"):
        record("a third one")
