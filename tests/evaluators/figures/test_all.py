from dataclasses import replace

from kilobit.evaluators.figures.all import figures
from kilobit.evaluators.report.contents import Course, Report, RungCount, ShownModel, ShownTask

TASK = ShownTask("t/1", [0.5], ["tiny"], [], [], {"tiny": 0})
EMPTY = Report("title", "now", "program", [ShownModel("tiny", "tiny", 0)], [TASK], [], 0)


def test_parts_that_are_empty_have_no_picture() -> None:
    assert [name for name, _ in figures(EMPTY)] == ["front.pdf", "front.png"]


def test_every_part_has_a_picture_in_both_formats() -> None:
    full = replace(
        EMPTY,
        courses=[Course("r", "t/1", "tiny", [1], [0.1], [0.0])],
        rungs=[RungCount("t/1", "tiny", 0, 6, 1, 0, 0)],
    )
    found = dict(figures(full))
    names = ("front", "course", "rungs")
    assert set(found) == {f"{name}.{kind}" for name in names for kind in ("pdf", "png")}
    for name, content in found.items():
        assert content.startswith(b"%PDF" if name.endswith("pdf") else b"\x89PNG")


def test_fronts_of_several_tasks_have_names_that_every_file_system_takes() -> None:
    two = replace(EMPTY, tasks=[TASK, replace(TASK, name="ü:2")])
    names = [name for name, _ in figures(two) if name.endswith("png")]
    assert names == ["front-1-t-1.png", "front-2--2.png"]
