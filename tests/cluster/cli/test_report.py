"""Contents of the report of runs, and what it refuses; tests/evaluators/report has its page."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kilobit.cluster.cli.report import make
from kilobit.cluster.runs.result_sources import open_sources
from kilobit.evaluators.ledger.storage import write_whole
from kilobit.evaluators.report.contents import Report
from kilobit.evaluators.report.page import as_script_json, page
from kilobit.launch import main
from tests.support.recorded import (
    HOSTILE,
    candidate_of,
    many,
    record,
    write_scorecard,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = record(tmp_path_factory.mktemp("report") / "runs")
    write_scorecard(run)
    return run


@pytest.fixture(scope="module")
def made(run: Path) -> Report:
    return make(open_sources([run])[0], "program", out=run / "report.html")


def data_of(html: str) -> Any:
    """Return what a browser would parse: the text up to the first end tag."""
    return json.loads(html.split('id="data">', 1)[1].split("</script", 1)[0])


def test_a_data_set_has_the_report_of_its_run_and_curves_of_others(
    run: Path, made: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text("model,score,bits\nOLMo,0.5,900\nOLMo,0.6,4000\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    mapping = "score=score,program_bits=bits,model=model,task:=numbers"
    words = ["aggregate", str(run), "--import", "t.csv", "--map", mapping, "-o", "all"]
    assert main(words) == 0
    sources, imported = open_sources([tmp_path / "all"])
    assert [source.name for source in imported] == ["t"]
    again = make(sources, "program", out=run / "report.html")
    assert again.programs == made.programs
    assert any(program.sections for program in again.programs)
    assert (again.courses, again.rungs, again.scorecard) == (
        made.courses,
        made.rungs,
        made.scorecard,
    )
    assert main(["report", "all", "-o", "all.html"]) == 0
    assert '"OLMo (imported)"' in (tmp_path / "all.html").read_text("utf-8")


def test_no_text_of_a_run_becomes_markup(made: Report) -> None:
    html = page(made).decode()
    # The page's own: data, plotly.js and the script; and nothing of a run.
    assert html.count("</script>") == 3
    assert (
        "<img" not in html.split("<script", 1)[0] + html.split('id="data">', 1)[1].split("<", 1)[0]
    )
    data = data_of(html)
    assert any(program["prompt"] == f"{HOSTILE}\n" for program in data["programs"])
    assert data["scorecard"][1]["error"] == HOSTILE


def test_numbers_that_json_lacks_are_null() -> None:
    text = as_script_json(
        {"a": [float("nan"), float("inf"), -float("inf"), None, 0.5], 1: "\ud800<"}
    )
    assert json.loads(text) == {"a": [None, None, None, None, 0.5], "1": "\ud800<"}
    assert "<" not in text


def test_the_policy_names_exactly_the_scripts_that_run(made: Report) -> None:
    import base64
    import hashlib

    html = page(made).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    scripts = [part.split("</script>")[0] for part in html.split("<script>")[1:]]
    digests = {base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts}
    assert set(re.findall(r"'sha256-([^']+)'", policy[1])) == digests
    assert len(digests) == 2
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256" in policy[1]


def test_a_gone_program_is_named_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = record(tmp_path / "runs")
    part = f"{candidate_of('posttrained', 'Number:').id}-r1"
    next((run / "ledger" / "programs").glob(f"{part}.*")).unlink()
    assert main(["report", str(run)]) == 1
    assert part in capsys.readouterr().out
    data = data_of((run / "report.html").read_text("utf-8"))
    troubles = [p["trouble"] for p in data["programs"] if p["trouble"]]
    assert len(troubles) == 1
    assert part in troubles[0]


def test_a_run_without_any_result_has_a_report(tmp_path: Path) -> None:
    from kilobit.cluster.runs.folder import create_run
    from kilobit.cluster.sweep.sweep import load_sweep

    file = record(tmp_path / "runs").parent / "recorded.yaml"
    with create_run(load_sweep(file), file, tmp_path / "empty"):
        pass
    assert main(["report", str(tmp_path / "empty"), "--figures", str(tmp_path / "f")]) == 0
    data = data_of((tmp_path / "empty" / "report.html").read_text("utf-8"))
    assert data["programs"] == []
    assert [task["name"] for task in data["tasks"]] == ["numbers"]


def test_several_runs_are_told_apart_and_a_repeated_one_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = record(tmp_path / "others")
    out = tmp_path / "both.html"
    assert main(["report", str(run), str(other), "-o", str(out)]) == 0
    data = data_of(out.read_text("utf-8"))
    assert {origin["run"] for origin in data["origins"]} == {str(run), str(other)}
    assert data["num_completed"] == 14
    assert main(["report", str(run), str(run), "-o", str(out)]) == 2
    assert f"{run} is given twice" in capsys.readouterr().err
    assert main(["report", str(run), str(other)]) == 2
    assert "-o FILE.html" in capsys.readouterr().err
    assert main(["report", str(run), "-o", str(tmp_path)]) == 2
    assert "that is a folder" in capsys.readouterr().err


def test_runs_that_compare_differently_need_a_length(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = record(tmp_path / "others", name="payloads", length="payload")
    command = ["report", str(run), str(other), "-o", str(tmp_path / "both.html")]
    assert main(command) == 2
    assert "give --length" in capsys.readouterr().err
    assert main([*command, "--length", "payload"]) == 0
    data = data_of((tmp_path / "both.html").read_text("utf-8"))
    assert all(p["bits"] == p["payload_bits"] for p in data["programs"])


def test_an_overlay_is_drawn_and_its_errors_name_line_and_column(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overlay = tmp_path / "paper.csv"
    overlay.write_text("length,acc\n3000,0.4\n9000,0.7\n", "utf-8")
    command = ["report", str(run), "-o", str(tmp_path / "r.html"), "--overlay", str(overlay)]
    assert main([*command, "--columns", "bits=length,score=acc"]) == 0
    data = data_of((tmp_path / "r.html").read_text("utf-8"))
    assert [(p["label"], p["bits"], p["score"]) for p in data["overlay"]] == [
        ("paper", 3000, 0.4),
        ("paper", 9000, 0.7),
    ]
    assert main(command) == 2
    assert f"{overlay}, line 2: no column 'bits'" in capsys.readouterr().err
    assert main(["report", str(run), "--columns", "bits=a"]) == 2
    assert "--columns belongs to --overlay" in capsys.readouterr().err


def test_a_damaged_scorecard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = record(tmp_path / "runs")
    write_whole(run / "scorecard.parquet", b"PAR1 not at all")
    assert main(["report", str(run)]) == 2
    assert str(run / "scorecard.parquet") in capsys.readouterr().err
    assert not (run / "report.html").exists()


def test_pictures_are_written_as_pdf_and_png(run: Path, tmp_path: Path) -> None:
    command = ["report", str(run), "-o", str(tmp_path / "r.html"), "--figures", str(tmp_path / "f")]
    assert main(command) == 0
    names = {"front", "course", "rungs", "composition", "scorecard"}
    files = sorted((tmp_path / "f").iterdir())
    assert [f.name for f in files] == sorted(
        f"{n}.{kind}" for n in names for kind in ("pdf", "png")
    )
    starts = {f.suffix: f.read_bytes()[:4] for f in files}
    assert starts == {".pdf": b"%PDF", ".png": b"\x89PNG"}


@pytest.mark.slow
def test_a_million_rungs_in_twenty_seconds_and_two_gigabytes(tmp_path: Path) -> None:
    """`pytest -m slow -s -k million tests/cluster/cli/test_report.py` shows what it measured."""
    import resource
    import subprocess
    import sys

    run = many(tmp_path / "runs", 100_000, 10)
    assert pq.read_metadata(next((run / "ledger/rungs").glob("snapshot*"))).num_rows == 1_000_000
    began = time.monotonic()
    command = [sys.executable, "launch.py", "report", str(run), "-o", str(tmp_path / "r.html")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.monotonic() - began
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1 << 20)
    sys.stdout.write(f"{seconds:.1f} s, {most:.2f} GiB: {done.stdout}")
    data = data_of((tmp_path / "r.html").read_text("utf-8"))
    assert done.returncode == 0, done.stdout + done.stderr
    # With the seven of the small run that it began as.
    assert data["num_completed"] == 100_007
    assert sum(row["went_on"] for row in data["rungs"]) == 1_000_070
    assert len(data["programs"]) <= 2100
    assert seconds <= 20
    assert most <= 2
