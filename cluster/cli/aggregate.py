"""The command `aggregate`: merges runs, data sets and imported tables into one data set."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from kilobit.cluster.console import Terminal
from kilobit.cluster.requests import AggregateRequest, wrong_input
from kilobit.cluster.runs.access import check_reachable, check_writable
from kilobit.cluster.runs.folder import RunFolder, open_run
from kilobit.cluster.runs.result_sources import (
    LOADED,
    clashes,
    conditions_of,
    entries_of,
    machines_of,
    sweep_of,
)
from kilobit.evaluators.ledger.fencing import claim_file
from kilobit.evaluators.ledger.parts import with_part
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.merge.atomic_folder import scratch_beside
from kilobit.evaluators.merge.dataset import (
    DATASET_TABLES,
    MANIFEST,
    DatasetSource,
    distinct_name,
    foreign_among_rows,
    is_dataset,
)
from kilobit.evaluators.merge.merge import Advance, Merged, Read, merge
from kilobit.evaluators.merge.published_points import parse_import, read_points
from kilobit.evaluators.merge.read_plan import (
    Unit,
    copy_of,
    size_and_digest,
    units_of,
    units_of_dataset,
    units_of_ledger,
)
from kilobit.search.front.points import OF_BARE_BITS, bare_bits
from kilobit.search.settings import InputError

_DONE, _INTERRUPTED = 0, 130


def aggregate(request: AggregateRequest) -> int:
    """Merge the runs, data sets and file on the command line into one data set."""
    console = Terminal()
    out = _checked_out(request.out)
    try:
        with wrong_input(), scratch_beside(out) as scratch:
            # An existing data set is read first, so that adding to it never loses a row.
            before = [_unmixed(out)] if is_dataset(out) else []
            others = [place for place in request.runs if place.absolute() != out]
            reads, apart = _kept_apart(_reads([*before, *others], request, scratch))
            with _progress(console, reads) as advance:
                merged = merge(reads, out, scratch, advance)
    except KeyboardInterrupt:
        console.print(f"interrupted; nothing was written to {out}")
        return _INTERRUPTED
    _print_merged(console, merged, out)
    for line in apart:
        console.print(line)
    for one in reads:
        number = one.about.about.get("left_out") if one.about.kind == "import" else None
        if number:
            console.print(f"{one.about.name}: no --map takes {number} rows, which are left out")
    return _DONE


def _checked_out(folder: Path) -> Path:
    """Check the output folder of a data set and return its absolute path.

    Raises:
        InputError: if it is not a folder, holds anything but a data set, or can't be written.
    """
    out = folder.absolute()
    if out.exists() and not out.is_dir():
        raise InputError(f"-o: {out} is a file; a data set is a folder")
    if out.is_symlink():
        raise InputError(f"-o: {out} is a link, which would be replaced; name the folder itself")
    if out.exists() and any(out.iterdir()) and not is_dataset(out):
        held = next(out.iterdir()).name
        raise InputError(
            f"-o: {out} holds {held} and is no data set: name a folder that is new, empty, or a "
            "data set"
        )
    check_writable(f"-o {folder}", out.parent)
    return out


def _unmixed(out: Path) -> Path:
    """Return the folder of a data set after checking it for foreign files.

    Raises:
        InputError: if foreign files are among its tables, because they would be deleted.
        ValueError: if it is damaged.
    """
    foreign = foreign_among_rows(out)
    if foreign is not None:
        raise InputError(
            f"-o: {foreign} does not belong to the data set {out} and would be deleted: move it "
            "elsewhere. Nothing was written"
        )
    return out


Names = dict[str, str]
"""Distinct names of runs, by identity."""


def _name(names: Names, wanted: str, identity: str) -> str:
    if identity not in names:
        names[identity] = distinct_name(wanted, names.values())
    return names[identity]


def _reads(places: Sequence[Place], request: AggregateRequest, scratch: Path) -> list[Read]:
    """Return the sources in the order in which they are given."""
    names: Names = {}
    reads: list[Read] = []
    for place in places:
        check_reachable(place)
        if is_dataset(place):
            reads += _of_dataset(place, names, len(reads))
        else:
            reads.append(_of_run(place, names, len(reads), scratch))
    if request.file is not None:
        reads.append(_of_file(request.file, request, names, len(reads), scratch))
    return reads


def _kept_apart(reads: Sequence[Read]) -> tuple[list[Read], list[str]]:
    """Return sources with conditions that differ where their machines do, and what differs.

    Copies and later versions of a run stay together.
    """
    groups: list[tuple[Read, dict[str, Mapping[str, str]]]] = []
    by_run: dict[str, int] = {}
    found, lines = [], []
    for read in reads:
        own: dict[str, Mapping[str, str]] = {}
        for unit in read.units.get("workers", ()):
            for batch in unit.batches(LOADED):
                own |= machines_of(pa.Table.from_batches([batch]))
        number = by_run.get(read.about.identity)
        for other, (first, group) in enumerate(groups if number is None else ()):
            words = clashes(group, own) if first.conditions == read.conditions else {}
            if not words and first.conditions == read.conditions:
                number = other
                break
            lines += [
                f"{read.about.name} and {first.about.name} measured {label} on different "
                f"machines, so their rows are kept apart: what differs is the {word}"
                for label, word in words.items()
            ]
        if number is None:
            number = len(groups)
            groups.append((read, {}))
        by_run[read.about.identity] = number
        groups[number][1].update(own)
        found.append(replace(read, conditions=f"{read.conditions} {number}"))
    return found, lines


def _of_run(place: Place, names: Names, source: int, scratch: Path) -> Read:
    run = open_run(place)
    identity = _identity(run)
    name = _name(names, run.path.name, identity)
    units = units_of_ledger(source, run.ledger, scratch)
    found = bare_bits(*(run.ledger.read(*columns) for columns in OF_BARE_BITS))
    if found:
        rows = [{"task": t, "model": m, "program_bits": bits} for (t, m), bits in found.items()]
        table = with_part(pa.Table.from_pylist(rows, schema=DATASET_TABLES["bare"]), "bare")
        copied = copy_of(table, scratch / f"{source}-bare.parquet")
        units["bare"] = units_of(source, "bare", [copied], scratch)
    attempts = len(run.manifest["attempts"])
    entry = _entry(name, "run", str(run.path), identity, attempts, run.manifest, units)
    return Read(entry, conditions_of(run.sweep), units)


def _identity(run: RunFolder) -> str:
    """Return a digest that all copies of a run share, at any time, and no other run has."""
    about = run.manifest
    try:
        # The first claim names the process and machine that began the run, and the time.
        claim = claim_file(run.path / "ledger", 1).read_bytes().decode()
    except FileNotFoundError:
        # Version 1 wrote no claims.
        claim = json.dumps(about["attempts"][:1])
    began = [claim, about.get("created_at"), about.get("sweep_file"), run.sweep.seed]
    return _digest(json.dumps(began))


def _of_dataset(place: Place, names: Names, first: int) -> list[Read]:
    entries = entries_of(place)
    reads: list[Read] = []
    renamed = {entry.name: _name(names, entry.name, entry.identity) for entry in entries}
    for number, entry in enumerate(entries, first):
        units = units_of_dataset(number, entry.name, place, renamed)
        about = entry.model_copy(update={"name": renamed[entry.name]})
        conditions = conditions_of(sweep_of(entry, place)) if entry.kind == "run" else ""
        reads.append(Read(about, conditions, units))
    return reads


def _of_file(
    path: Path, request: AggregateRequest, names: Names, source: int, scratch: Path
) -> Read:
    wanted = parse_import(request.mapping, request.names, request.script_bits)
    found, left_out = read_points(path, wanted)
    points = with_part(found, path.name)
    more = [*(f"rename {one}" for one in request.names),
            *(f"script bits {one}" for one in request.script_bits)]  # fmt: skip
    mapping = "\n".join([*request.mapping, *more])
    identity = _digest(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {mapping}")
    name = _name(names, path.stem, identity)
    copied = copy_of(points, scratch / f"{source}-points.parquet")
    units = {"points": units_of(source, "points", [copied], scratch)}
    about = {"file": str(path.absolute()), "map": mapping, "left_out": left_out}
    entry = _entry(name, "import", str(path.absolute()), identity, None, about, units)
    return Read(entry, "", units)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _entry(
    name: str,
    kind: Any,
    path: str,
    identity: str,
    attempts: int | None,
    about: dict[str, Any],
    units: dict[str, list[Unit]],
) -> DatasetSource:
    num_bytes, digest = size_and_digest(units)
    return DatasetSource(
        name=name,
        kind=kind,
        path=path,
        identity=identity,
        digest=digest,
        num_bytes=num_bytes,
        attempts=attempts,
        about=about,
        read_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows={},
    )


@contextmanager
def _progress(console: Console, reads: Sequence[Read]) -> Iterator[Advance]:
    total = 2 * sum(
        unit.num_bytes for read in reads for units in read.units.values() for unit in units
    )
    if not console.is_terminal:
        console.print(f"aggregating {total / 2e6:.1f} MB of {len(reads)} sources")
    columns = (TextColumn("aggregating"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quiet = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        task = progress.add_task("", total=max(1, total))
        yield lambda num_bytes: progress.advance(task, num_bytes)


def _print_merged(console: Console, merged: Merged, out: Path) -> None:
    table = Table("table", "rows read", "rows kept")
    for name, read in merged.read.items():
        if name != "conflicts":
            table.add_row(name, str(read), str(merged.kept[name]))
    console.print(table)
    names = ", ".join(dict.fromkeys(source.name for source in merged.sources))
    console.print(f"{out / MANIFEST}: {names}")
    number = merged.kept.get("conflicts", 0)
    if number:
        console.print(
            f"{number} values conflict with those of another run: the first one is kept, both are "
            f"in {out / 'conflicts'}"
        )
