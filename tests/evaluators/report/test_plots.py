"""The figures of the page: what they show of a report, and what they leave to the page."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.cli.report import make
from kilobit.cluster.runs.result_sources import open_sources
from kilobit.evaluators.figures.canvas import COLOURS
from kilobit.evaluators.report.contents import Published, Report
from kilobit.evaluators.report.plots import plots
from tests.conftest import REPOSITORY
from tests.support.recorded import HOSTILE, record


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    run = record(tmp_path_factory.mktemp("plots") / "runs", coarser=True)
    overlay = [Published(HOSTILE, 9000, 0.5, 0.4, 0.6), Published(HOSTILE, 4000, 0.3)]
    return make(open_sources([run])[0], "program", overlay, run / "report.html")


def traces(figure: dict[str, Any], kind: str) -> list[Any]:
    return [trace for trace in figure["data"] if trace["meta"]["kind"] == kind]


def test_each_point_of_a_program_names_it(report: Report) -> None:
    (figure,) = plots(report)["fronts"]
    drawn = []
    for trace in (*traces(figure, "front"), *traces(figure, "others")):
        programs = [report.programs[place] for place in trace["customdata"]]
        assert [p.point.model for p in programs] == [trace["meta"]["model"]] * len(programs)
        assert list(trace["x"]) == [p.point.bits for p in programs]
        assert list(trace["y"]) == [p.point.score for p in programs]
        assert [p.on_front for p in programs] == [trace["meta"]["kind"] == "front"] * len(programs)
        drawn += trace["customdata"]
    assert sorted(drawn) == list(range(len(report.programs)))


def test_a_front_is_a_staircase_with_intervals_and_certificates(report: Report) -> None:
    (figure,) = plots(report)["fronts"]
    right = 10 ** figure["layout"]["xaxis"]["range"][1]
    for front, stairs in zip(traces(figure, "front"), traces(figure, "stairs"), strict=True):
        programs = [report.programs[place] for place in front["customdata"]]
        assert list(front["x"]) == sorted(front["x"])
        assert list(stairs["x"]) == pytest.approx([*front["x"], right])
        assert list(stairs["y"]) == [*front["y"], front["y"][-1]]
        colour = stairs["line"]["color"]
        fills = [colour if p.point.certified is True else "var(--sheet)" for p in programs]
        assert list(front["marker"]["color"]) == fills
        lower = [p.point.score if p.point.lower is None else p.point.lower for p in programs]
        below = zip(front["y"], front["error_y"]["arrayminus"], strict=True)
        assert [score - length for score, length in below] == pytest.approx(lower)
    filled = [colour for trace in traces(figure, "front") for colour in trace["marker"]["color"]]
    assert 0 < filled.count("var(--sheet)") < len(filled)
    marks = [text for trace in traces(figure, "read") for text in trace["text"]]
    assert any(
        re.fullmatch(r"posttrained: C\(δ = 0\.8\) ≤ [\d,]+ bits, certified", m) for m in marks
    )


def test_a_length_of_no_bits_is_left_of_all_others(report: Report) -> None:
    overlay = [Published("none", 0, 0.1), Published("some", 400, 0.2)]
    figure = plots(replace(report, overlay=overlay, programs=()))["fronts"][0]
    assert [list(trace["x"]) for trace in traces(figure, "published")] == [[100], [400]]
    assert figure["layout"]["meta"]["zero"] == 100
    only = plots(replace(report, overlay=overlay[:1], programs=()))["fronts"][0]
    assert (list(only["data"][-1]["x"]), only["layout"]["meta"]["zero"]) == ([1], 1)
    assert plots(report)["fronts"][0]["layout"]["meta"]["zero"] is None


def test_a_published_curve_is_sorted_and_its_markup_escaped(report: Report) -> None:
    (trace,) = traces(plots(report)["fronts"][0], "published")
    assert list(trace["x"]) == [4000, 9000]
    assert trace["text"][0].endswith(" (published): 4 kbit, score 0.300")
    assert "&lt;img" in trace["text"][0]
    assert "<" not in trace["name"]
    elsewhere = replace(report, overlay=[replace(report.overlay[0], task="another")])
    assert not traces(plots(elsewhere)["fronts"][0], "published")


def test_the_course_has_markers_only_where_the_front_grew(report: Report) -> None:
    found = plots(report)
    for along in ("examples", "seconds"):
        for trace, course in zip(found[along]["data"], report.courses, strict=True):
            assert list(trace["x"]) == list(getattr(course, along))
            assert list(trace["y"]) == list(course.hypervolume)
            sizes = list(trace["marker"]["size"])
            assert (sizes[0], sizes[-1], set(sizes[1:-1])) == (0, 0, {6})


def test_all_candidates_of_a_rung_are_counted(report: Report) -> None:
    figure = plots(report)["rungs"]
    assert len(figure["layout"]["meta"]["outcomes"]) == 4
    wanted = sum(r.went_on + r.stopped + r.failed + r.coarser for r in report.rungs)
    assert sum(sum(trace["y"]) for trace in figure["data"]) == wanted > 0
    without = replace(report, rungs=[replace(row, coarser=0) for row in report.rungs])
    names = [name for name, _ in plots(without)["rungs"]["layout"]["meta"]["outcomes"]]
    assert len(names) == 3
    assert not any("coarser" in name for name in names)


def test_ticks_are_whole_bits_with_their_units(report: Report) -> None:
    few, *_, many = plots(report)["ticks"]
    assert few[:5] == [[1, "1 bit"], [10, "10 bit"], [100, "100 bit"], [1000, "1 kbit"],
                       [10_000, "10 kbit"]]  # fmt: skip
    assert [1500, "1.5 kbit"] in many
    assert all(bits % 1 == 0 for bits, _ in many)


def test_colours_are_of_the_palette_or_variables_of_the_style(report: Report) -> None:
    text = json.dumps(plots(report))
    assert set(re.findall(r"#[0-9A-Fa-f]{6}", text)) <= set(COLOURS)
    style = Path(REPOSITORY / "evaluators/report/report.css").read_text("utf-8")
    names = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert names == {"--grid", "--line", "--ink", "--soft", "--sheet"}
    # In light and in dark.
    assert all(style.count(f"  {name}: ") == 2 for name in names)


def test_programs_and_plotlys_template_are_not_repeated(report: Report) -> None:
    text = json.dumps(plots(report))
    assert '"template"' not in text
    assert not [p for p in report.programs if p.point.candidate in text]
    many = replace(report, programs=[report.programs[0]] * 2000)
    assert len(json.dumps(plots(many))) - len(text) < 2000 * 150
