from pathlib import Path

import pytest

from kilobit.cluster.cli.report import make
from kilobit.cluster.runs.result_sources import open_sources
from kilobit.evaluators.report.contents import Report
from tests.support.recorded import (
    HOSTILE,
    program_of,
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


def test_needed_bits_and_collapse_are_those_of_the_points(made: Report) -> None:
    (task,) = made.tasks
    half = next(row for row in task.needed if row.target == 0.5)
    bits = {
        model: program_of(text).program_bits
        for model, text in (("pretrained", HOSTILE), ("posttrained", "Number:"))
    }
    assert half.asked
    assert half.found == half.certified == bits
    (at_half,) = [one for one in task.collapses if one["target"] == 0.5]
    assert at_half["factor"] == bits["pretrained"] / bits["posttrained"]
    assert at_half["certified"]
    most = next(row for row in task.needed if row.target == 0.8)
    assert most.found == {"pretrained": None, "posttrained": bits["posttrained"]}
