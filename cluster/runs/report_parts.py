"""Parts of a report that are read from runs: its programs, and the provenance of its results.

The programs are all of the fronts, and a sample of the rest. Rows are filtered as Arrow columns
before any becomes a Python object, and only the files of programs on a front are read. Provenance
is versions, hardware, digests of base models, attempts and commands.
"""

import heapq
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.cluster.runs.fronts import bound_text
from kilobit.cluster.runs.result_sources import Source
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.report.contents import Origin, ShownProgram
from kilobit.search.candidate import in_short, prompt_of
from kilobit.search.front.points import FrontPoint, fronts
from kilobit.search.programs.program import Program, decode_text
from kilobit.search.programs.script import readable_script
from kilobit.search.programs.text import PayloadError
from kilobit.search.records import CandidateRecord, WorkerRecord

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
    rewards = {source.name: _rewards(source) for source in sources}
    programs = []
    for point in on_front:
        source = by_name[point.run]
        about = known[point.run][point.candidate]
        program = _program(point, about, source.sweep.targets, on_front=True)
        program = replace(program, rewards=rewards[point.run].get(point.candidate, ()))
        found = files[point.run][point.candidate]
        programs.append(_with_files(program, source, found, page))
    for point in others:
        about = known[point.run][point.candidate]
        program = _program(point, about, by_name[point.run].sweep.targets, on_front=False)
        program = replace(program, rewards=rewards[point.run].get(point.candidate, ()))
        cut = len(program.prompt) - _MOST_PROMPT_LETTERS
        if cut > 0:
            text = f"{program.prompt[:_MOST_PROMPT_LETTERS]}\n… {cut} more letters"
            program = replace(program, prompt=text)
        programs.append(program)
    return programs


def steps_of(ledger: Ledger) -> dict[str, tuple[str, ...]]:
    """Return the output steps of each candidate of a ledger that has any, by candidate id."""
    rows = CandidateRecord.all_of(ledger.read("candidates"))
    found = {one.candidate: tuple(_object(one.spec).get("postprocess", ())) for one in rows}
    return {name: steps for name, steps in found.items() if steps}


def _candidates(source: Source, points: Iterable[FrontPoint]) -> dict[str, CandidateRecord]:
    """Return the records of the points' candidates, by candidate id."""
    wanted = pa.array(sorted({point.candidate for point in points}), pa.string())
    rows = source.read("candidates")
    found = CandidateRecord.all_of(rows.filter(pc.is_in(rows["candidate"], wanted)))
    return {one.candidate: one for one in found}


def _rewards(source: Source) -> dict[str, tuple[float, ...]]:
    """Return the mean rewards of all generations of each candidate that was trained by reward."""
    rows = source.read("rungs", ("candidate", "rung", "rewards"))
    found: dict[str, tuple[float, ...]] = {}
    for row in rows.filter(pc.is_valid(rows["rewards"])).sort_by("rung").to_pylist():
        found[row["candidate"]] = found.get(row["candidate"], ()) + tuple(row["rewards"])
    return found


def _program(
    point: FrontPoint, about: CandidateRecord, targets: Sequence[float], *, on_front: bool
) -> ShownProgram:
    spec = _object(about.spec)
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


def origin_of(source: Source) -> Origin:
    """Return the facts needed to reproduce the results of a source.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
    """
    about = source.about
    workers = WorkerRecord.all_of(source.read("workers"))
    return Origin(
        run=source.name,
        folder=str(source.place),
        facts=_facts(source, workers),
        attempts=[_attempt(each) for each in about.get("attempts", ())],
        models=_models(source, workers),
        versions=_versions(about, workers),
        sweep=json.dumps(about.get("sweep"), indent=1, ensure_ascii=False),
    )


def _facts(source: Source, workers: list[WorkerRecord]) -> list[tuple[str, str]]:
    about = source.about
    machine = about.get("machine") or {}
    (unjudged,) = source.read("rungs", ["num_unjudged"]).columns
    hosts = sorted({one.host for one in workers if one.host})
    facts = {
        "begun": about.get("created_at"),
        "sweep file": about.get("sweep_file"),
        "seed": source.sweep.seed,
        "bound on the length": " ".join(bound_text(source.sweep)) or None,
        "driver": ", ".join(
            str(part)
            for part in (
                machine.get("processor"),
                f"{machine['cores']} cores" if machine.get("cores") else None,
                f"Python {about['python']}" if about.get("python") else None,
            )
            if part
        ),
        "workers": f"{len(workers)} model loads on {_list(hosts) or 'unknown hosts'}",
        "verified on": "; ".join(_verified_on(source)),
        "outputs without a verdict of the judge": pc.sum(unjudged).as_py() or None,
        "ledger schema": about.get("ledger_schema"),
    }
    return [(name, str(value)) for name, value in facts.items() if value not in (None, "")]


def _list(names: list[str], most: int = 8) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _verified_on(source: Source) -> list[str]:
    """Return the environments in which programs were verified: device, dtype and machine."""
    found = source.read("verifications", ["verified_on"])["verified_on"]
    environments = set()
    for text in pc.drop_null(found).unique().to_pylist():
        on = _object(text)
        words = (on.get("device"), on.get("dtype"), on.get("machine"))
        environments.add(", ".join(str(word) for word in words if word))
    return sorted(environments - {""})


def _attempt(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """Return an attempt's start time, host and command, the command quoted for a shell."""
    words = [str(word) for word in attempt.get("command", ())]
    name = Path(words[0]).name if words else ""
    if name.endswith(".py"):
        words = ["python", *words]
    elif name == "kilobit":
        words = [name, *words[1:]]
    return {
        "attempt": attempt.get("attempt"),
        "started_at": attempt.get("started_at"),
        "host": attempt.get("host"),
        "command": shlex.join(words),
    }


def _models(source: Source, workers: list[WorkerRecord]) -> list[dict[str, Any]]:
    """Return the facts of each base model; several digests mean that its weights differed."""
    models = []
    for config in source.sweep.base_models:
        own = [one for one in workers if one.model == config.label]
        where = str(config.path) if config.path is not None else str(config.hub)
        models.append(
            {
                "model": config.label,
                "regime": config.regime,
                "from": where + (f" at {config.revision}" if config.revision else ""),
                "weights": config.weights,
                "dtype": ", ".join(filter(None, [config.dtype, config.quantization])),
                "device": config.device,
                "parameters": max((one.num_parameters or 0 for one in own), default=0) or None,
                "digests": sorted({one.base_digest for one in own if one.base_digest}),
            }
        )
    return models


def _versions(about: Mapping[str, Any], workers: list[WorkerRecord]) -> dict[str, str]:
    """Return the versions of libraries, including those on workers that differ."""
    found = {name: {str(version)} for name, version in (about.get("versions") or {}).items()}
    for text in {one.versions for one in workers if one.versions}:
        for name, version in _object(text).items():
            found.setdefault(name, set()).add(str(version))
    return {name: ", ".join(sorted(each)) for name, each in found.items()}


def _object(text: str | None) -> dict[str, Any]:
    """Return a JSON object; one that can't be read is empty."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
