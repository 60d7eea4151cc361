"""Sources of results: run folders, and data sets that merge several runs."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kilobit.cluster.requests import wrong_input
from kilobit.cluster.runs.access import check_reachable
from kilobit.cluster.runs.folder import RunFolder, open_run
from kilobit.cluster.runs.fronts import Reader, points_from
from kilobit.cluster.sweep.recorded import recorded_sweep
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.storage import Place, read_own
from kilobit.evaluators.merge import dataset
from kilobit.evaluators.merge.dataset import DATASET_TABLES, DatasetSource, is_dataset, read_rows
from kilobit.evaluators.proof.program_files import folder_name, program_of, read_program
from kilobit.search.base_model import differing_parts
from kilobit.search.front.points import FrontPoint
from kilobit.search.programs.program import Program
from kilobit.search.records import ProgramRecord, WorkerRecord, rung_part
from kilobit.search.settings import InputError, Ruler, reason_of

# Tables that describe candidates: where several runs have the same one, a data set keeps one row.
_OF_CANDIDATES = ("candidates", "programs", "verifications", "certificates")
Machines = Mapping[str, Mapping[str, str]]
"""Parts of the machine and the data that outputs are relative to, by base model."""
LOADED = ("worker", "model", "machine", "parts", "data")


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
        machines: what outputs of each base model are relative to, see `machines_of`.
        labels: its own labels of base models, by those that keep it apart from other runs.
        bare: program bits of the bare question by task and own label, which a data set holds also
            where the row itself stands under another run.
    """

    name: str
    place: Place
    home: Place
    about: Mapping[str, Any]
    sweep: Sweep
    read: Reader
    programs: Callable[[Collection[str]], Mapping[str, Program | ValueError]]
    machines: "Machines" = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    bare: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def points(self, length: Ruler | None = None) -> list[FrontPoint]:
        """Return the completed points of the run, by a length or that of its sweep."""
        shown = {own: label for label, own in self.labels.items()}
        bare = {(task, shown.get(own, own)): bits for (task, own), bits in self.bare.items()}
        return points_from(self.name, self.read, self.sweep, length, bare=bare)

    def program_folder(self, model: str, candidate: str) -> Place | None:
        """Return the folder with the files of a program, or None if there is none."""
        model = self.labels.get(model, model)
        folder = self.home / "programs" / folder_name(model, candidate)
        return folder if (folder / "program.py").exists() else None

    def scorecard(self) -> bytes | None:
        """Return the content of the run's scorecard.parquet, or None if there is none.

        Raises:
            ValueError: naming the file, if it is no regular one.
        """
        file = self.home / "scorecard.parquet"
        try:
            return read_own(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: {reason_of(error)}") from error


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

    Base models of one label have other labels where their machines differ, so nothing mixes them.

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
    return _kept_apart(runs) if len(runs) > 1 else runs, imported


def machines_of(workers: pa.Table) -> Machines:
    """Return the machine and the data of each base model that was loaded.

    They are empty, not known, for a run of a version that recorded less.
    """
    found: dict[str, Mapping[str, str]] = {}
    for one in WorkerRecord.all_of(workers):
        known = one.machine is not None and json.loads(f"{one.parts}") | json.loads(f"{one.data}")
        found[one.model] = known or found.get(one.model, {})
    return found


def clashes(one: Machines, other: Machines) -> dict[str, str]:
    """Return the differences between the machines of two runs, as words, by base model."""
    found = {}
    for label in one.keys() & other.keys():
        if one[label] != other[label]:
            words = differing_parts(one[label], other[label])
            known = one[label] and other[label]
            found[label] = words if known else "machine of one of them, which is not known"
    return found


def _kept_apart(sources: Sequence[Source]) -> list[Source]:
    """Return sources with labels that differ where machines of base models of one label do."""
    seen: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    sources = [replace(one, machines=machines_of(one.read("workers", LOADED))) for one in sources]
    for source in sources:
        for label, parts in source.machines.items():
            known = seen.setdefault((source.sweep.task.name, label), [])
            known += [parts] * (parts not in known)
    found = []
    for source in sources:
        apart = {
            label: f"{label}-{_short_digest(parts)}"
            for label, parts in source.machines.items()
            if parts and len(seen[source.sweep.task.name, label]) > 1
        }
        found.append(_renamed(source, apart) if apart else source)
    return found


def _short_digest(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def apart_lines(sources: Sequence[Source]) -> list[str]:
    """Return sentences about machines that differ, or that have the train split in them."""
    lines = [
        f"{one.name}: the train split is part of the machine (train_split_in_machine), so its "
        "lengths compare only with those of runs where it is"
        for one in sources
        if one.sweep.train_split_in_machine
    ]
    return lines + [
        f"{one.name} and {other.name} measured {label} on different machines, so they stand "
        f"apart: what differs is the {words}"
        for number, one in enumerate(sources)
        for other in sources[number + 1 :]
        if one.sweep.task.name == other.sweep.task.name
        for label, words in clashes(one.machines, other.machines).items()
    ]


def _renamed(source: Source, labels: Mapping[str, str]) -> Source:
    """Return a source with other labels of base models."""

    def read(table: str, columns: Sequence[str] | None = None) -> pa.Table:
        rows = source.read(table, columns)
        if "model" not in rows.column_names:
            return rows
        column = dataset.named(labels, rows["model"].combine_chunks())
        return rows.set_column(rows.column_names.index("model"), "model", column)

    models = [
        one.model_copy(update={"name": labels.get(one.label, one.label)})
        for one in source.sweep.base_models
    ]
    sweep = source.sweep.model_copy(update={"base_models": tuple(models)})
    return replace(source, sweep=sweep, read=read, labels={new: old for old, new in labels.items()})


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
    source = Source(entry.name, place, home, entry.about, sweep, reader, finder)
    rows = read_rows(place, "bare", [entry.name], DATASET_TABLES["bare"]).to_pylist()
    # Sorted, so that the shortest one stays.
    rows.sort(key=lambda row: row["program_bits"], reverse=True)
    return replace(source, bare={(row["task"], row["model"]): row["program_bits"] for row in rows})


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
        return recorded_sweep(source.about["sweep"])
    except (ValueError, TypeError, KeyError) as error:
        reason = reason_of(error)
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
        and (table == "candidates" or not clashes(*(_machines(place, n) for n in (name, other))))
    ]
    theirs = read_rows(place, table, others, named)
    theirs = theirs.filter(pc.is_in(theirs["candidate"], value_set=missing))
    return pa.concat_tables([own, theirs]).select(wanted.names)


def _machines(place: Place, name: str) -> Machines:
    schema = DATASET_TABLES["workers"]
    return machines_of(
        read_rows(place, "workers", [name], pa.schema([schema.field(n) for n in LOADED]))
    )


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
