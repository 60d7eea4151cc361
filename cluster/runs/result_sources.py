"""Sources of results: run folders, and data sets that merge several runs."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.cluster.requests import wrong_input
from kilobit.cluster.runs.access import check_reachable
from kilobit.cluster.runs.folder import RunFolder, open_run, with_its_tokenizer
from kilobit.cluster.runs.fronts import Reader
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.merge import dataset
from kilobit.evaluators.merge.dataset import (
    DATASET_TABLES,
    DatasetSource,
    is_dataset,
    read_rows,
)
from kilobit.evaluators.proof.program_files import folder_name, program_of, read_program
from kilobit.search.programs.program import Program
from kilobit.search.records import ProgramRecord, rung_part
from kilobit.search.settings import InputError

# Tables that describe candidates: where several runs have the same one, a data set keeps one row.
_OF_CANDIDATES = ("candidates", "programs", "verifications", "certificates")


@dataclass(frozen=True)
class Source:
    """The results of one run.

    Attributes:
        name: the run's name in its points.
        place: the given folder: the run's, or that of the data set that contains it.
        home: the run's own folder; for a run in a data set it may be elsewhere or not exist.
        about: its `run.json`: the sweep, commands, versions, attempts.
        sweep: the run's sweep.
        read: returns the rows of a table, one Arrow column each, given its name and, if not all
            are needed, its columns; raises a ValueError naming the file, if one is damaged or of a
            newer version.
        programs: returns the programs of candidates at the last rung, and an error for each that
            can't be read.
    """

    name: str
    place: Place
    home: Place
    about: Mapping[str, Any]
    sweep: Sweep
    read: Reader
    programs: Callable[[Collection[str]], Mapping[str, Program | ValueError]]

    def program_folder(self, model: str, candidate: str) -> Place | None:
        """Return the folder with the files of a program, or None if there is none."""
        folder = self.home / "programs" / folder_name(model, candidate)
        return folder if (folder / "program.py").exists() else None

    def scorecard(self) -> bytes | None:
        """Return the content of the run's scorecard.parquet, or None if there is none."""
        try:
            return (self.home / "scorecard.parquet").read_bytes()
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class Imported:
    """Published points that were imported into a data set.

    Attributes:
        name: the name that its points have as their run.
        place: the folder of the data set.
        about: the imported file, and how its columns were mapped.
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
    """Return the runs and the imported points in these folders, in the order of the folders.

    Raises:
        InputError: if one holds no results.
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
                found[candidate] = read_program(ledger, rung_part(candidate, last))
            except ValueError as error:
                found[candidate] = error
        return found

    return Source(run.path.name, run.path, run.path, run.manifest, run.sweep, ledger.read, finder)


def _of_dataset(place: Place, entry: DatasetSource, sweeps: Mapping[str, Sweep]) -> Source:
    sweep, reader = sweeps[entry.name], partial(_rows, place, entry.name, sweeps)
    finder = partial(_programs, place, reader, sweep.rungs.count - 1)
    # A run folder on an object store is not looked up: nothing in it is needed.
    home = Path(entry.path) if "://" not in entry.path else place
    return Source(entry.name, place, home, entry.about, sweep, reader, finder)


def entries_of(place: Place) -> list[DatasetSource]:
    """Return the sources in the manifest of a data set: runs and imports.

    Raises:
        InputError: if it is damaged.
    """
    with wrong_input(OSError):
        return dataset.read_manifest(place)


def sweep_of(source: DatasetSource, place: Place) -> Sweep:
    """Return the sweep of a run in a data set.

    Raises:
        InputError: if it is damaged.
    """
    try:
        settings = with_its_tokenizer(source.about["sweep"])
        return Sweep.model_validate_json(json.dumps(settings), strict=True)
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{place / dataset.MANIFEST}: the sweep of {source.name}: {reason}"
        ) from error


def conditions_of(sweep: Sweep) -> str:
    """Return the definition of a run's rungs and examples as JSON: its task and its ladder."""
    rungs = sweep.rungs.model_dump(mode="json", exclude={"count"})
    return json.dumps([sweep.task.model_dump(mode="json"), rungs], sort_keys=True)


def _rows(
    place: Place,
    name: str,
    sweeps: Mapping[str, Sweep],
    table: str,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return the rows of a run in a data set, plus those of its candidates from other runs."""
    schema = DATASET_TABLES[table]
    wanted = schema if columns is None else pa.schema([schema.field(each) for each in columns])
    if table not in _OF_CANDIDATES or len(sweeps) == 1:
        return read_rows(place, table, [name], wanted)
    named = wanted if "candidate" in wanted.names else wanted.append(schema.field("candidate"))
    own = read_rows(place, table, [name], named)
    missing = _missing(place, name, table, own)
    if not len(missing):
        return own.select(wanted.names)
    # The definition of a candidate is the same in all runs, its results only if the rungs are.
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
    """Return the candidates of a run that have rungs but no row of the run in `table`."""
    schema = DATASET_TABLES["rungs"]
    wanted = pa.schema([schema.field("candidate"), schema.field("program")])
    rungs = read_rows(place, "rungs", [name], wanted)
    if table != "candidates":
        rungs = rungs.filter(pc.is_valid(rungs["program"]))
    named = pc.unique(rungs["candidate"])
    return named.filter(pc.invert(pc.is_in(named, value_set=pc.unique(own["candidate"]))))


def _programs(
    place: Place,
    reader: Reader,
    last: int,
    candidates: Collection[str],
) -> dict[str, Program | ValueError]:
    """Return programs of a run in a data set, or an error for each that can't be read."""
    found: dict[str, Program | ValueError] = {
        candidate: ValueError(f"{place / 'programs'}: {candidate} is missing")
        for candidate in candidates
    }
    rows = reader("programs")
    wanted = pc.is_in(rows["candidate"], value_set=pa.array(candidates, pa.string()))
    for one in ProgramRecord.all_of(rows.filter(pc.and_(wanted, pc.equal(rows["rung"], last)))):
        try:
            found[one.candidate] = program_of(one, place, place / "programs")
        except ValueError as error:
            found[one.candidate] = error
    return found
