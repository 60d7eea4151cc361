"""Where results are read from: the folders of runs, and data sets that merge several."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.program_files import folder_name, program_of, read_program
from cluster.run_folder import RunFolder, check_reachable, open_run, read_manifest
from evaluators import dataset
from evaluators.dataset import DATASET_TABLES, DatasetError, DatasetSource, is_dataset, read_rows
from evaluators.storage import Place
from search.programs.program import Program
from search.sweep import Sweep, SweepError

# What these say of a candidate may have been said by another run first: one row of several stays.
_OF_CANDIDATES = ("candidates", "programs", "verifications", "certificates")
_OF_A_PROGRAM = ("candidate", "rung", "program", "recipe", "script", "payload", "payload_file")


@dataclass(frozen=True)
class Source:
    """The results of one run.

    Attributes:
        name: what its points call their run.
        place: the folder that was given: of the run, or of the data set that it is part of.
        home: the run's own folder; that of a run in a data set may lie elsewhere, or nowhere.
        about: its `run.json`: the sweep, commands, versions, attempts.
        sweep: what was asked for.
        reader: returns the rows of a table, by its name and columns.
        finder: returns what these candidates were at the last rung, and errors for those that
            can't be read.
    """

    name: str
    place: Place
    home: Place
    about: Mapping[str, Any]
    sweep: Sweep
    reader: Callable[[str, Sequence[str] | None], pa.Table]
    finder: Callable[[Collection[str]], Mapping[str, Program | ValueError]]

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a table, one Arrow column each.

        Raises:
            ValueError: naming the file, if one is damaged or of a newer version.
        """
        return self.reader(table, columns)

    def programs(self, candidates: Collection[str]) -> Mapping[str, Program | ValueError]:
        """Return the programs that candidates were at the last rung, or why one can't be read."""
        return self.finder(candidates)

    def program_folder(self, model: str, candidate: str) -> Place | None:
        """Return the folder in which a program lies as files, or None if there is none."""
        folder = self.home / "programs" / folder_name(model, candidate)
        return folder if (folder / "program.py").exists() else None

    def scorecard(self) -> bytes | None:
        """Return what is in the run's scorecard.parquet, or None if there is none."""
        try:
            return (self.home / "scorecard.parquet").read_bytes()
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class Imported:
    """Points that others published, from a data set.

    Attributes:
        name: what its points call their run.
        place: the folder of the data set.
        about: the file, and how it was mapped.
    """

    name: str
    place: Place
    about: Mapping[str, Any]

    def points(self) -> pa.Table:
        """Return the points.

        Raises:
            ValueError: naming the file, if one is damaged or of a newer version.
        """
        return read_rows(self.place, "points", [self.name], DATASET_TABLES["points"])


def open_sources(places: Sequence[Place]) -> tuple[list[Source], list[Imported]]:
    """Return what lies in these folders, in their order: runs, and points of others.

    Raises:
        SweepError: if one holds no results.
    """
    runs: list[Source] = []
    imported: list[Imported] = []
    for place in places:
        check_reachable(place)
        if not is_dataset(place):
            runs.append(_of_run(open_run(place)))
            continue
        found = entries_of(place)
        sweeps = {one.name: sweep_of(one, place) for one in found if one.kind == "run"}
        runs += [_of_dataset(place, one, sweeps) for one in found if one.kind == "run"]
        imported += [Imported(o.name, place, o.about) for o in found if o.kind == "import"]
    return runs, imported


def _of_run(run: RunFolder) -> Source:
    ledger, last = run.ledger, run.sweep.rungs.count - 1

    def finder(candidates: Collection[str]) -> dict[str, Program | ValueError]:
        found: dict[str, Program | ValueError] = {}
        for candidate in candidates:
            try:
                found[candidate] = read_program(ledger, f"{candidate}-r{last}")
            except ValueError as error:
                found[candidate] = error
        return found

    about = read_manifest(run.path)
    return Source(run.path.name, run.path, run.path, about, run.sweep, ledger.read, finder)


def _of_dataset(place: Place, entry: DatasetSource, sweeps: Mapping[str, Sweep]) -> Source:
    sweep, reader = sweeps[entry.name], partial(_rows, place, entry.name, sweeps)
    finder = partial(_programs, place, reader, sweep.rungs.count - 1)
    # The folder of a run on a store is not looked for: nothing of it is needed.
    home = Path(entry.path) if "://" not in entry.path else place
    return Source(entry.name, place, home, entry.about, sweep, reader, finder)


def entries_of(place: Place) -> list[DatasetSource]:
    """Return what a data set was made of.

    Raises:
        SweepError: if it is damaged.
    """
    try:
        return dataset.read_manifest(place)
    except (DatasetError, OSError) as error:
        raise SweepError(str(error)) from error


def sweep_of(source: DatasetSource, place: Place) -> Sweep:
    """Return the sweep of a run in a data set.

    Raises:
        SweepError: if it is damaged.
    """
    try:
        return Sweep.model_validate_json(json.dumps(source.about["sweep"]), strict=True)
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise SweepError(
            f"{place / dataset.MANIFEST}: the sweep of {source.name}: {reason}"
        ) from error


def conditions_of(sweep: Sweep) -> str:
    """Return what says what a rung and an example of a run mean: its task and its ladder."""
    rungs = sweep.rungs.model_dump(mode="json", exclude={"count"})
    return json.dumps([sweep.task.model_dump(mode="json"), rungs], sort_keys=True)


def _rows(
    place: Place,
    name: str,
    sweeps: Mapping[str, Sweep],
    table: str,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return the rows of a run in a data set, and what others said first of its candidates."""
    schema = DATASET_TABLES[table]
    wanted = schema if columns is None else pa.schema([schema.field(each) for each in columns])
    if table not in _OF_CANDIDATES or len(sweeps) == 1:
        return read_rows(place, table, [name], wanted)
    named = wanted if "candidate" in wanted.names else wanted.append(schema.field("candidate"))
    own = read_rows(place, table, [name], named)
    missing = _missing(place, name, table, own)
    if not len(missing):
        return own.select(wanted.names)
    # A candidate is the same in all runs; what became of it, where a rung means the same.
    others = [
        other
        for other, sweep in sweeps.items()
        if other != name
        and (table == "candidates" or conditions_of(sweep) == conditions_of(sweeps[name]))
    ]
    theirs = read_rows(place, table, others, named)
    theirs = theirs.filter(pc.is_in(theirs["candidate"], value_set=missing))
    return pa.concat_tables([own, theirs]).select(wanted.names)


def _missing(place: Place, name: str, table: str, own: pa.Table) -> pa.Array:
    """Return candidates with rungs in a run of which a table says nothing there."""
    schema = DATASET_TABLES["rungs"]
    wanted = pa.schema([schema.field("candidate"), schema.field("program")])
    rungs = read_rows(place, "rungs", [name], wanted)
    if table != "candidates":
        rungs = rungs.filter(pc.is_valid(rungs["program"]))
    named = pc.unique(rungs["candidate"])
    return named.filter(pc.invert(pc.is_in(named, value_set=pc.unique(own["candidate"]))))


def _programs(
    place: Place,
    reader: Callable[[str, Sequence[str]], pa.Table],
    last: int,
    candidates: Collection[str],
) -> dict[str, Program | ValueError]:
    """Return programs of a run in a data set."""
    found: dict[str, Program | ValueError] = {
        candidate: ValueError(f"{place / 'programs'}: {candidate} is missing")
        for candidate in candidates
    }
    rows = reader("programs", _OF_A_PROGRAM)
    wanted = pc.is_in(rows["candidate"], value_set=pa.array(candidates, pa.string()))
    for row in rows.filter(pc.and_(wanted, pc.equal(rows["rung"], last))).to_pylist():
        try:
            found[row["candidate"]] = program_of(row, place, place / "programs")
        except ValueError as error:
            found[row["candidate"]] = error
    return found
