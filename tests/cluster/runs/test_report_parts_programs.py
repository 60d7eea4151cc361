"""Programs that a report shows: all of the fronts with their files, and a sample of the rest."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from kilobit.cluster.cli.report import make
from kilobit.cluster.runs import report_parts as shown
from kilobit.cluster.runs.fronts import points_from
from kilobit.cluster.runs.result_sources import open_sources
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.evaluators.report.contents import Report
from tests.support.recorded import (
    HOSTILE,
    candidate_of,
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


def test_the_front_has_files_and_the_others_have_not(made: Report) -> None:
    front = {(p.point.model, p.point.candidate): p for p in made.programs if p.on_front}
    expected = {
        (model, candidate_of(model, text).id)
        for model, text in (
            *(("pretrained", text) for text in ("", "Answer with a number.", HOSTILE)),
            *(("posttrained", text) for text in ("", "Number:")),
        )
    }
    assert set(front) == expected
    assert all(sum((p.sections or {}).values()) * 8 == p.point.program_bits for p in front.values())
    hostile = front["pretrained", candidate_of("pretrained", HOSTILE).id]
    assert hostile.exact_prompt
    assert hostile.prompt == f"{HOSTILE}\n"
    assert hostile.sections == {
        "script": len(program_of(HOSTILE).script),
        "prompt": len(HOSTILE.encode()) + 1,
    }
    assert hostile.link == f"programs/pretrained-{hostile.point.candidate}/"
    assert hostile.certified_at == 0.5
    assert hostile.point.certified is True
    others = [p for p in made.programs if not p.on_front]
    assert {p.prompt for p in others} == {
        "Count. " * 40,
        "Please think about the question and answer with a number.",
    }
    assert all(p.sections is None and p.link is None for p in others)


def test_a_program_has_the_rewards_of_all_its_generations() -> None:
    class Read:
        def read(self, table: str, columns: Sequence[str]) -> pa.Table:
            rows = [
                {"candidate": "a", "rung": 1, "rewards": [0.5, 0.75]},
                {"candidate": "b", "rung": 0, "rewards": None},
                {"candidate": "a", "rung": 0, "rewards": [0.25]},
            ]
            assert table == "rungs"
            return pa.Table.from_pylist(rows).select(columns)

    assert shown._rewards(Read()) == {"a": (0.25, 0.5, 0.75)}


def test_a_link_leads_from_the_page_to_the_folder(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep er" / "page.html"
    made = make(open_sources([run])[0], "program", out=out)
    links = [p.link for p in made.programs if p.link]
    assert len(links) == 4
    from urllib.parse import unquote

    out.parent.mkdir()
    assert all((out.parent / unquote(link) / "program.py").exists() for link in links)


def test_of_many_programs_a_sample_is_shown_with_all_that_were_certified(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "MOST_OTHERS", 1)
    (source,), _ = open_sources([run])
    on_front, others = shown.shown_points(
        points_from(source.name, source.read, source.sweep, "program")
    )
    assert len(on_front) == 5
    assert len(others) == 1
    made = make([source], "program")
    assert made.num_completed == 7
    assert len(made.programs) == 6


def test_a_link_is_quoted_and_only_between_local_paths(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert shown._link(tmp_path / "a run" / "100%", page) == "a%20run/100%25/"
    assert shown._link(tmp_path.parent / "x", page) == "../x/"
    assert shown._link(StoredPath("s3:", "bucket", "run"), page) is None
    assert shown._link(tmp_path, StoredPath("s3:", "bucket", "report.html")) is None
    assert shown._link(tmp_path, None) is None


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "7"])
def test_a_candidate_whose_description_can_not_be_read_has_an_empty_one(text: str | None) -> None:
    assert shown._object(text) == {}
    assert shown._object('{"chat": true}') == {"chat": True}


def test_long_prompts_are_cut_only_where_they_are_not_on_the_front(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown, "_MOST_PROMPT_LETTERS", 5)
    (source,), _ = open_sources([run])
    points = shown.shown_points(points_from(source.name, source.read, source.sweep, "program"))
    programs = shown.shown_programs([source], *points, None)
    on_front = {one.prompt for one in programs if one.on_front}
    assert f"{HOSTILE}\n" in on_front
    cut = {one.prompt for one in programs if not one.on_front}
    # "Count. " is seven letters long, and stands there forty times.
    assert "Count\n… 275 more letters" in cut
    assert all(one.link is None for one in programs)


def test_bytes_of_a_script_that_are_no_text_are_shown_as_escapes() -> None:
    assert shown._counted(b"print('\xc3\xa4')\n\t") == "print('\u00e4')\n\t"
    assert shown._counted(b"#coding:l1\n\xc3\x00") == "#coding:l1\n\u00c3\\x00"
    assert shown._counted("\u202e".encode()) == "\\u202e"
