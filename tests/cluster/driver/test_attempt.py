"""Whole searches through the command line, in processes of their own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from tests.conftest import REPOSITORY
from tests.support.driver.processes import finish, start, wait_for
from tests.support.peft_folders import change_config, train_adapter
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
Write = Callable[..., Path]
OUR_FOLDERS = ("search", "evaluators", "cluster", "launch")
# Adapters and the last rung take most of the time of a quickstart.
FEWER = ("families.lora.candidates=1", "rungs.count=3")


def run(*argv: str, status: int = 0) -> str:
    return finish(start(*argv), status)


def front(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run("front", str(out), "--json").splitlines()]


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of a smaller quickstart and what it printed.

    It ran in a folder whose packages have the names of our folders and raise on import.
    """
    here = tmp_path_factory.mktemp("runs")
    for name in OUR_FOLDERS:
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(f"raise ImportError('the {name} of the user')\n")
    sweep = str(REPOSITORY / "examples" / "quickstart.yaml")
    process = subprocess.Popen(
        # `-m` puts the current folder first in the path.
        [sys.executable, "-m", "kilobit.launch", "run", sweep, *FEWER, "--out", "quickstart"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=here,
    )
    return here / "quickstart", finish(process, 0)


def test_the_quickstart_runs_beside_packages_with_the_names_of_our_folders(
    quickstart: tuple[Path, str],
) -> None:
    here = quickstart[0].parent
    assert {path.name for path in here.iterdir()} == {*OUR_FOLDERS, "quickstart"}
    assert "0 of them failed" in quickstart[1]
    done = subprocess.run(
        [sys.executable, "-c", "import search"], cwd=here, capture_output=True, check=False
    )
    assert b"the search of the user" in done.stderr


def test_the_quickstart_shows_what_the_regimes_differ_in(quickstart: tuple[Path, str]) -> None:
    lines = front(quickstart[0])
    best = {
        regime: max(line["score"] for line in lines if line["regime"] == regime)
        for regime in ("random", "pretrained", "posttrained")
    }
    assert best["random"] <= 0.1
    assert best["pretrained"] >= 0.8

    def bits_for(regime: str, target: float) -> int:
        reaching = [x for x in lines if x["regime"] == regime and x["score"] >= target]
        return min(int(x["payload_bits"]) for x in reaching)

    assert bits_for("posttrained", 0.8) * 2 < bits_for("pretrained", 0.8)
    bare = [line for line in lines if line["payload_bits"] == 0]
    assert {line["regime"] for line in bare} == set(best)
    assert max(line["score"] for line in bare) <= 0.3


def test_a_front_line_has_the_promised_fields(quickstart: tuple[Path, str]) -> None:
    for line in front(quickstart[0]):
        assert list(line) == [
            "run", "task", "model", "regime", "candidate", "family", "program_bits",
            "payload_bits", "score", "lower", "upper", "num_examples", "split", "verified",
            "certified", "program", "length", "certificate", "imported", "num_distinct",
            "template_bits", "net_bits",
        ]  # fmt: skip
        assert line["template_bits"] == 0
        assert line["num_distinct"] >= 1
        assert (line["num_distinct"] == 1) or line["family"] != "constant"
        assert line["lower"] <= line["score"] <= line["upper"]
        assert isinstance(line["payload_bits"], int)
        assert line["program_bits"] > line["payload_bits"]
        assert (line["verified"], line["certified"], line["length"]) == (True, None, "program")
        # The bits are those of the two files that were verified.
        folder = quickstart[0] / "programs" / f"{line['model']}-{line['candidate']}"
        sizes = [(folder / name).stat().st_size for name in ("program.py", "payload.bin")]
        assert (line["program_bits"], line["payload_bits"]) == (8 * sum(sizes), 8 * sizes[1])


def test_the_quickstart_tries_all_families_on_all_regimes(quickstart: tuple[Path, str]) -> None:
    rows = rows_of(Ledger(quickstart[0] / "ledger"), "candidates")
    assert len(rows) >= 40
    tried = {(row["regime"], row["family"]) for row in rows}
    families = ("prompt", "lora", "constant", "copy")
    assert tried == {(r, f) for r in ("random", "pretrained", "posttrained") for f in families}


def test_a_reader_that_has_seen_enough_is_no_error(quickstart: tuple[Path, str]) -> None:
    command = f'"{sys.executable}" launch.py front "{quickstart[0]}" --json | head -c 1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("{", "")


def test_most_trials_end_early_and_the_log_says_why(quickstart: tuple[Path, str]) -> None:
    out, shown = quickstart
    ledger = Ledger(out / "ledger")
    total = sum(row["parent"] is None for row in rows_of(ledger, "candidates"))
    ended = [row for row in rows_of(ledger, "decisions") if row["decision"] != "promote"]
    assert len(ended) == total
    stopped = [row for row in ended if row["decision"] == "stop"]
    assert len(stopped) >= total / 2
    log = (out / "run.log").read_text()
    for row in ended:
        assert re.search(rf"{row['candidate']} rung {row['rung']} .*: {row['decision']}, .+", log)
    assert all(row["compared_with"] for row in stopped)
    assert f"{total} of {total} candidates ended" in shown
    # Only what is there is recommended.
    assert ("duckdb -c" in shown) is (shutil.which("duckdb") is not None)


def test_every_rung_has_its_rows_and_every_worker_loaded_once(
    quickstart: tuple[Path, str],
) -> None:
    ledger = Ledger(quickstart[0] / "ledger")
    rungs, predictions = rows_of(ledger, "rungs"), rows_of(ledger, "predictions")
    assert len({(r["candidate"], r["rung"]) for r in rungs}) == len(rungs)
    assert len(predictions) == sum(r["num_examples"] for r in rungs)
    assert all(r["error"] is None for r in rungs)
    workers = rows_of(ledger, "workers")
    assert Counter(w["worker"] for w in workers) == {
        "random-0": 1,
        "pretrained-0": 1,
        "posttrained-0": 1,
    }
    loaded = {w["model"]: w["base_digest"] for w in workers}
    models = {c["candidate"]: c["model"] for c in rows_of(ledger, "candidates")}
    assert all(r["base_digest"] == loaded[models[r["candidate"]]] for r in rungs)
    assert (quickstart[0] / "front.png").read_bytes().startswith(b"\x89PNG")
    assert not (quickstart[0] / ".tune").exists()


def test_status_says_how_far_the_run_is(quickstart: tuple[Path, str]) -> None:
    shown = run("status", str(quickstart[0]))
    rows = rows_of(Ledger(quickstart[0] / "ledger"), "candidates", ["parent"])
    total = sum(row["parent"] is None for row in rows)
    assert f"{total} of {total} candidates ended" in shown


def test_a_folder_of_a_run_is_not_taken_twice(quickstart: tuple[Path, str]) -> None:
    message = run("run", "examples/quickstart.yaml", *FEWER, "--out", str(quickstart[0]), status=2)
    assert f"{quickstart[0]} holds a run of this sweep: continue it" in message


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_seed_gives_the_same_packs_and_the_same_front(
    write_sweep: Write, tmp_path: Path
) -> None:
    sweep = str(write_sweep(workers={"pack": 3}))
    fronts = []
    for name in ("a", "b"):
        run("run", sweep, "--out", str(tmp_path / name))
        fronts.append([{**line, "run": None} for line in front(tmp_path / name)])
    assert fronts[0]
    assert fronts[0] == fronts[1]
    rows = [
        [
            (r["candidate"], r["rung"], r["score"], r["program"], r["pack"])
            for r in rows_of(Ledger(tmp_path / name / "ledger"), "rungs")
        ]
        for name in ("a", "b")
    ]
    assert rows[0] == rows[1]


LORA = {
    "candidates": 4,
    "rank": [1],
    "target_modules": [["q_proj"]],
    "steps": [200],
    "batch_size": 8,
}


def test_a_candidate_that_fails_is_a_row_and_the_summary_says_so(
    write_sweep: Write, tmp_path: Path
) -> None:
    rates = {"low": 1e29, "high": 1e30}
    families = {"prompt": {"candidates": 3}, "lora": {**LORA, "learning_rate": rates}}
    sweep = write_sweep(families=families, rungs={"examples": 4, "train_steps": 20, "count": 2})
    shown = run("run", str(sweep), "--out", str(tmp_path / "out"), status=1)
    assert "(4 of them failed)" in shown
    assert "FloatingPointError: the training loss became" in shown
    rows = rows_of(Ledger(tmp_path / "out" / "ledger"), "rungs")
    failed = [row for row in rows if row["error"]]
    assert len(failed) == 4
    assert all("Traceback" in row["error"] and row["score"] is None for row in failed)
    decisions = rows_of(Ledger(tmp_path / "out" / "ledger"), "decisions")
    reasons = [d["reason"] for d in decisions if d["candidate"] == failed[0]["candidate"]]
    assert reasons[0].startswith("failed: FloatingPointError")


@pytest.mark.slow
def test_a_killed_worker_costs_at_most_the_rung_it_was_in(
    write_sweep: Write, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ledger = Ledger(out / "ledger")
    sweep = write_sweep(
        families={"prompt": {"candidates": 2}, "lora": LORA},
        rungs={"examples": 8, "train_steps": 100, "eta": 2, "count": 2},
    )
    process = start("run", str(sweep), "--out", str(out))
    wait_for(lambda: len(rows_of(ledger, "rungs")) >= 2, process)
    before = rows_of(ledger, "rungs")
    os.kill(rows_of(ledger, "workers")[0]["pid"], signal.SIGKILL)
    finish(process, 0)
    after = rows_of(ledger, "rungs")
    assert [row for row in after if row["finished_at"] <= before[-1]["finished_at"]]
    assert {(r["candidate"], r["rung"], r["finished_at"]) for r in before} <= {
        (r["candidate"], r["rung"], r["finished_at"]) for r in after
    }
    assert all(row["error"] is None for row in after)
    decisions = rows_of(ledger, "decisions")
    assert sum(d["decision"] != "promote" for d in decisions) == 6
    assert len(rows_of(ledger, "workers")) == 2


def test_an_interrupted_run_goes_on_where_it_stopped(write_sweep: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ledger = Ledger(out / "ledger")
    sweep = write_sweep(
        families={"prompt": {"candidates": 3}, "lora": {**LORA, "steps": [60]}},
        rungs={"examples": 8, "train_steps": 30, "eta": 2, "count": 2},
    )
    process = start("run", str(sweep), "--out", str(out))
    wait_for(lambda: len(rows_of(ledger, "decisions")) >= 2, process)
    process.send_signal(signal.SIGTERM)
    shown = finish(process, 130)
    assert f"kilobit resume {out}" in shown
    decided = {(d["candidate"], d["rung"]): d for d in rows_of(ledger, "decisions")}
    done = {(r["candidate"], r["rung"]): r["finished_at"] for r in rows_of(ledger, "rungs")}
    assert len(decided) < 11
    run("resume", str(out))
    after = {(r["candidate"], r["rung"]): r for r in rows_of(ledger, "rungs")}
    assert all(after[key]["finished_at"] == at for key, at in done.items())
    assert {row["attempt"] for row in after.values()} == {1, 2}
    decisions = {(d["candidate"], d["rung"]): d for d in rows_of(ledger, "decisions")}
    assert all(decisions[key] == decision for key, decision in decided.items())
    assert sum(d["decision"] != "promote" for d in decisions.values()) == 7
    assert "Every candidate has ended already" in run("resume", str(out))


def test_a_time_budget_ends_the_run_and_leaves_the_rest(write_sweep: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shown = run("run", str(write_sweep()), "--out", str(out), "budget.seconds=0.001")
    assert "the time budget of 0.001 s is over and " in shown
    assert f"kilobit resume {out} budget.seconds=null" in shown


def test_a_prompt_made_by_hand_and_an_adapter_of_plain_peft_stand_on_the_verified_front(
    tmp_path: Path,
) -> None:
    model = REPOSITORY / "examples" / "tiny" / "pretrained"
    theirs = train_adapter(model, tmp_path / "theirs", load_miniature("numbers", 0))
    (tmp_path / "by_hand.txt").write_text("Digits.\n")
    sweep = {
        "name": "given",
        "task": {"kind": "miniature", "name": "numbers"},
        "base_models": [{"regime": "pretrained", "path": str(model)}],
        "families": {
            "prompt": {"candidates": 1},
            "given": {
                "prompts": [{"file": "by_hand.txt", "postprocess": ["last_number"]}],
                "adapters": ["theirs"],
            },
        },
        "model_free": {"constants": 0, "copy_input": False},
        "scheduler": {"kind": "full"},
        "rate_search": {"steps": [0.5, 1], "keep": []},
        "rungs": {"examples": 36, "train_steps": 10, "eta": 2, "count": 2},
        "workers": {"threads": 1},
    }
    file, out = tmp_path / "sweep.yaml", tmp_path / "run"
    file.write_text(json.dumps(sweep))
    run("run", str(file), "--out", str(out))
    rows = rows_of(Ledger(out / "ledger"), "candidates")
    proposed = sorted((row for row in rows if row["parent"] is None), key=lambda r: r["position"])
    assert [(row["operator"], row["family"]) for row in proposed] == [
        ("given", "prompt"),
        ("given", "lora"),
        ("given", "lora"),
        ("random", "prompt"),
    ]
    made = {row["candidate"] for row in rows if row["family"] == "lora"}
    assert len(made) == 6
    points = front(out)
    assert all(point["verified"] for point in points)
    assert {proposed[0]["candidate"], proposed[3]["candidate"]} <= {p["candidate"] for p in points}
    best = max(points, key=lambda point: point["score"])
    assert best["candidate"] in made
    program, ours = out / "programs" / f"pretrained-{best['candidate']}", tmp_path / "ours"
    run("export", str(program), "--peft", str(ours), "--model", str(model))
    assert (ours / "adapter_model.safetensors").exists()
    run("run", str(file), "--out", str(out), "--continue")
    assert "4 of 4" in run("status", str(out))
    change_config(theirs, lora_alpha=9)
    said = run("resume", str(out), status=2)
    assert f"families.given.adapters.0 ({theirs}) has changed since the run began" in said
    change_config(theirs, lora_alpha=8)
    (tmp_path / "by_hand.txt").write_text("Numbers.\n")
    said = run("resume", str(out), status=2)
    assert "families.given.prompts.0 has changed since the run began" in said
