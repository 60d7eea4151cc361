"""The course of a search as its rows tell it: growth, outcomes at each rung, reasons, errors."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from kilobit.cluster.cli.report import make
from kilobit.cluster.runs.fronts import points_from
from kilobit.cluster.runs.history import SearchHistory, most_common
from kilobit.cluster.runs.result_sources import open_sources
from kilobit.evaluators.report.contents import ReasonCount, Report
from kilobit.search.front.pareto import REFERENCE_BITS, hypervolume
from tests.support.recorded import (
    COMPLETED,
    HOSTILE,
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


def test_the_course_ends_with_the_hypervolume_of_all_points(run: Path, made: Report) -> None:
    (source,), _ = open_sources([run])
    points = points_from(source.name, source.read, source.sweep, "program")
    for course in made.courses:
        own = [point for point in points if point.model == course.model]
        assert course.hypervolume[-1] == pytest.approx(hypervolume(own, REFERENCE_BITS))
        assert list(course.hypervolume) == sorted(course.hypervolume)
        # Each completed candidate was scored on 4 and 8 examples, each other on 4, 10 s a rung.
        completed = len(COMPLETED[course.model])
        assert course.examples[-1] == 12 * completed + 3 * 4
        gained = [1, 2, 3] if course.model == "pretrained" else [1, 2]
        assert list(course.examples)[1:-1] == [12 * number for number in gained]
        steps = [b - a for a, b in zip(course.seconds[1:-2], course.seconds[2:-1], strict=True)]
        assert steps == [20.0] * (len(gained) - 1)


def test_pauses_between_attempts_are_no_seconds_of_search(run: Path) -> None:
    (source,), _ = open_sources([run])
    search = SearchHistory(source)
    # The later half of the rungs was done an hour later, by an attempt that began 7 s before.
    rungs = search.rungs.sort_by("finished_at")
    kind = rungs.schema.field("finished_at").type
    times = rungs["finished_at"].cast(pa.int64()).to_pylist()
    half = len(times) // 2
    late = [at + 3_600_000_000 * (place >= half) for place, at in enumerate(times)]
    attempts = [1 + (place >= half) for place in range(len(times))]
    columns = {
        "finished_at": pa.array(late, pa.int64()).cast(kind),
        "attempt": pa.array(attempts, pa.int32()),
    }
    for name, values in columns.items():
        rungs = rungs.set_column(rungs.schema.get_field_index(name), name, values)
    began = datetime.fromtimestamp(late[half] / 1e6 - 7, UTC).isoformat()
    search.rungs, search._about = rungs, {"attempts": [{"attempt": 2, "started_at": began}]}
    expected = (times[half - 1] - times[0] + times[-1] - times[half]) / 1e6 + 7
    assert search._seconds().max() == pytest.approx(expected)


def test_counts_of_rungs_reasons_and_errors(made: Report) -> None:
    counts = {(one.model, one.rung): (one.went_on, one.stopped, one.failed) for one in made.rungs}
    assert counts == {
        ("pretrained", 0): (4, 2, 1),
        ("pretrained", 1): (4, 0, 0),
        ("posttrained", 0): (3, 2, 1),
        ("posttrained", 1): (3, 0, 0),
    }
    reasons = {(one.model, one.reason): one.count for one in made.reasons}
    # Reasons that differ in numbers alone are one.
    assert reasons["pretrained", "rank n of n by score"] == 2
    assert reasons["posttrained", "it has no score"] == 1
    assert {one.reason for one in made.errors} == {f"ValueError: {HOSTILE}"[:200]}


def test_coarser_versions_are_counted_apart_from_candidates(tmp_path: Path) -> None:
    path = record(tmp_path / "runs", coarser=True)
    made = make(open_sources([path])[0], "program")
    counts = {
        (one.model, one.rung): (one.went_on, one.stopped, one.failed, one.coarser)
        for one in made.rungs
    }
    assert counts["posttrained", 0] == (3, 2, 1, 0)
    assert counts["posttrained", 1] == (3, 0, 0, 2)
    assert counts["pretrained", 1] == (4, 0, 0, 0)
    # The one that failed has no program.
    assert (made.num_completed, made.num_coarser) == (8, 1)


def test_the_commonest_reasons_stay_and_others_are_summed() -> None:
    counts = [ReasonCount("t", "m", f"reason {n:02}", n) for n in range(1, 21)]
    merged = {one.reason: one.count for one in most_common(counts)}
    assert merged["reason 20"] == 20
    assert merged["other reasons"] == sum(range(1, 9))
    assert sum(merged.values()) == sum(range(1, 21))
