"""The programs that a report shows: all of the fronts, and a sample of the rest.

Rows are filtered as Arrow columns before any becomes a Python object, and only the files of
programs on a front are read.
"""

import heapq
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.cluster.runs.result_sources import Source
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.report.contents import ShownProgram
from kilobit.search.candidate import in_short, prompt_of
from kilobit.search.front.points import FrontPoint, fronts
from kilobit.search.programs.program import Program, decode_text
from kilobit.search.programs.script import readable_script
from kilobit.search.programs.text import PayloadError
from kilobit.search.records import CandidateRecord

# Most programs on the page besides the fronts: with more it is slow to open and no clearer.
MOST_OTHERS = 2000
_MOST_PROMPT_LETTERS = 2000


def shown_points(points: Sequence[FrontPoint]) -> tuple[list[FrontPoint], list[FrontPoint]]:
    """Return the points of the fronts, and the other points to show.

    Certified programs are always shown. The rest is a uniform sample, the same every time:
    candidate ids are hashes, and the lowest ids are taken.
    """
    on_front = [point for front in fronts(points).values() for point in front]
    taken = set(map(id, on_front))
    others = [point for point in points if id(point) not in taken]
    certified = [point for point in others if point.certificate is not None]
    plain = (point for point in others if point.certificate is None)
    room = max(0, MOST_OTHERS - len(certified))
    return on_front, [*certified, *heapq.nsmallest(room, plain, key=lambda p: (p.candidate, p.run))]


def shown_programs(
    sources: Sequence[Source],
    on_front: Sequence[FrontPoint],
    others: Sequence[FrontPoint],
    page: Place | None,
) -> list[ShownProgram]:
    """Return the programs of a report.

    Args:
        sources: the sources of the points.
        on_front: points of the fronts; the files of their programs are read.
        others: other points, shown as candidates without their files.
        page: path of the report, to which links to folders are relative.
    """
    known = {
        source.name: _candidates(source, [p for p in (*on_front, *others) if p.run == source.name])
        for source in sources
    }
    by_name = {source.name: source for source in sources}
    files = {
        source.name: source.programs([p.candidate for p in on_front if p.run == source.name])
        for source in sources
    }
    programs = []
    for point in on_front:
        source = by_name[point.run]
        about = known[point.run][point.candidate]
        program = _program(point, about, source.sweep.targets, on_front=True)
        found = files[point.run][point.candidate]
        programs.append(_with_files(program, source, found, page))
    for point in others:
        about = known[point.run][point.candidate]
        program = _program(point, about, by_name[point.run].sweep.targets, on_front=False)
        cut = len(program.prompt) - _MOST_PROMPT_LETTERS
        if cut > 0:
            text = f"{program.prompt[:_MOST_PROMPT_LETTERS]}\n… {cut} more letters"
            program = replace(program, prompt=text)
        programs.append(program)
    return programs


def steps_of(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """Return the output steps of each candidate of a ledger that has any, by candidate id."""
    rows = CandidateRecord.all_of(ledger.read("candidates"))
    found = {one.candidate: tuple(_spec(one.spec).get("postprocess", ())) for one in rows}
    return {name: steps for name, steps in found.items() if steps}


def _candidates(source: Source, points: Iterable[FrontPoint]) -> dict[str, CandidateRecord]:
    """Return the records of the points' candidates, by candidate id."""
    wanted = pa.array(sorted({point.candidate for point in points}), pa.string())
    rows = source.read("candidates")
    found = CandidateRecord.all_of(rows.filter(pc.is_in(rows["candidate"], wanted)))
    return {one.candidate: one for one in found}


def _program(
    point: FrontPoint, about: CandidateRecord, targets: Sequence[float], *, on_front: bool
) -> ShownProgram:
    spec = _spec(about.spec)
    lower = None if point.certificate is None else point.certificate.lower
    reached = [target for target in targets if lower is not None and lower >= target]
    return ShownProgram(
        point,
        on_front=on_front,
        certified_at=max(reached, default=None),
        about=in_short(spec),
        operator=about.operator,
        parent=about.parent,
        prompt=prompt_of(spec),
    )


def _spec(text: str | None) -> dict[str, Any]:
    try:
        spec = json.loads(text or "{}")
    except ValueError:
        return {}
    return spec if isinstance(spec, dict) else {}


def _with_files(
    shown: ShownProgram, source: Source, program: Program | ValueError, page: Place | None
) -> ShownProgram:
    if isinstance(program, ValueError):
        return replace(shown, trouble=str(program))
    folder = source.program_folder(shown.point.model, shown.point.candidate)
    text = _prompt(program)
    return replace(
        shown,
        prompt=shown.prompt if text is None else text,
        exact_prompt=text is not None,
        sections=program.sections,
        codecs=program.codecs,
        recipe=json.dumps(json.loads(program.recipe.canonical()), indent=1, ensure_ascii=False),
        script=readable_script(program.recipe),
        counted=_counted(program.script),
        folder="only in the ledger" if folder is None else str(folder),
        link=None if folder is None else _link(folder, page),
    )


def _counted(script: bytes) -> str:
    """Return a script with unprintable characters escaped; one that unpacks itself is Latin-1."""
    text = script.decode("latin-1" if script.startswith(b"#coding:l1") else "utf-8", "replace")
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def _prompt(program: Program) -> str | None:
    """Return the text of a program, None if decoding it needs its model or its task."""
    try:
        return decode_text(program.recipe, program.payload)
    except PayloadError:
        return None


def _link(folder: Place, page: Place | None) -> str | None:
    """Return the relative link from a page to a folder, None unless both are local paths."""
    if not isinstance(folder, Path) or not isinstance(page, Path):
        return None
    relative = os.path.relpath(folder.absolute(), page.absolute().parent)
    return quote(os.fsencode(Path(relative).as_posix())) + "/"
