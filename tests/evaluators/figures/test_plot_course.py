from dataclasses import replace

import pytest

from kilobit.evaluators.figures import plot_course
from kilobit.evaluators.figures.plot_course import draw_composition, draw_course, draw_rungs
from kilobit.evaluators.report.contents import Course, RungCount, ShownProgram
from tests.support.cli.scorecards import POINT


def program(sections: dict[str, int] | None) -> ShownProgram:
    point = replace(POINT, model="$m", program_bits=80, score=0.5)
    return ShownProgram(point, on_front=True, sections=sections)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the texts of each picture that is encoded, and encode it."""
    found: list[str] = []
    encoded = plot_course.encoded

    def note(figure: object, kind: object) -> bytes:
        for axes in figure.axes:
            found.extend([axes.get_xlabel(), axes.get_ylabel()])
            found.extend(label.get_text() for label in axes.get_yticklabels())
            legend = axes.get_legend()
            found.extend(text.get_text() for text in (legend.get_texts() if legend else ()))
        return encoded(figure, kind)

    monkeypatch.setattr(plot_course, "encoded", note)
    return found


def test_a_base_model_has_one_legend_entry_whatever_its_runs(texts: list[str]) -> None:
    courses = [Course(run, "t", "tiny", [1, 2], [0.1, 0.2], [0.0, 3.0]) for run in ("a", "b")]
    assert draw_course(courses, {"tiny": 0}, "png").startswith(b"\x89PNG")
    assert texts.count("tiny") == 1
    assert "examples scored" in texts


def test_rungs_say_what_their_hatches_mean(texts: list[str]) -> None:
    counts = [RungCount("t", "tiny", 0, 6, 3, 2, 1), RungCount("t", "tiny", 1, 18, 1, 2, 0, 4)]
    assert draw_rungs(counts, {"tiny": 0, "absent": 1}, "pdf").startswith(b"%PDF")
    assert any("dotted: coarser versions" in text for text in texts)
    assert "absent" not in texts
    texts.clear()
    draw_rungs(counts[:1], {"tiny": 0}, "pdf")
    assert not any("dotted" in text for text in texts)


def test_only_programs_whose_files_were_read_have_a_bar(texts: list[str]) -> None:
    programs = [program({"script": 9, "prompt": 1}), program(None)]
    assert draw_composition(programs, "png").startswith(b"\x89PNG")
    assert [text for text in texts if "score 0.50" in text].count("\\$m, 80 bit, score 0.50") == 1
