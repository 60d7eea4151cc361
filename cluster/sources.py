"""Where results are read from: the folders of runs, and data sets that were made of several."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.run_folder import check_reachable, open_run, read_manifest
from evaluators import dataset
from evaluators.dataset import DATASET_TABLES, DatasetError, DatasetSource, is_dataset, read_rows
from evaluators.storage import Place
from search.sweep import Sweep, SweepError

# What these say of a candidate may have been said by another run first: one row of several stays.
_OF_CANDIDATES = ("candidates", "programs", "verifications", "certificates")


@dataclass(frozen=True)
class Source:
    """The results of one run, or points that others published.

    Attributes:
        name: what its points call their run.
        place: the folder that was given: of the run, or of the data set that it is part of.
        about: its `run.json`: the sweep, commands, versions, attempts; for points of others the
            file and how it was mapped.
        sweep: what was asked for; None for points of others, which are in the table `points`.
        reader: returns the rows of a table, by its name and columns.
    """

    name: str
    place: Place
    about: Mapping[str, Any]
    sweep: Sweep | None
    reader: Callable[[str, Sequence[str] | None], pa.Table]

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a table, one Arrow column each.

        Raises:
            ValueError: naming the file, if one is damaged or of a newer version.
        """
        return self.reader(table, columns)


def open_sources(places: Sequence[Place]) -> list[Source]:
    """Return what lies in these folders, in their order: one for each run of a data set.

    Raises:
        SweepError: if one holds no results.
    """
    return [source for place in places for source in _at(place)]


def _at(place: Place) -> list[Source]:
    check_reachable(place)
    if not is_dataset(place):
        run = open_run(place)
        about = read_manifest(run.path)
        return [Source(run.path.name, run.path, about, run.sweep, run.ledger.read)]
    found = entries_of(place)
    sweeps = {source.name: sweep_of(source, place) for source in found}
    return [
        Source(
            source.name,
            place,
            source.about,
            sweeps[source.name],
            partial(_rows, place, source.name, sweeps),
        )
        for source in found
    ]


def entries_of(place: Place) -> list[DatasetSource]:
    """Return what a data set was made of.

    Raises:
        SweepError: if it is damaged.
    """
    try:
        return dataset.read_manifest(place)
    except (DatasetError, OSError) as error:
        raise SweepError(str(error)) from error


def sweep_of(source: DatasetSource, place: Place) -> Sweep | None:
    """Return the sweep of a run in a data set; None for points of others.

    Raises:
        SweepError: if it is damaged.
    """
    if source.kind == "import":
        return None
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
    sweeps: Mapping[str, Sweep | None],
    table: str,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Return the rows of a run in a data set, and what others said first of its candidates."""
    schema = DATASET_TABLES[table]
    wanted = schema if columns is None else pa.schema([schema.field(each) for each in columns])
    own_sweep = sweeps[name]
    if table not in _OF_CANDIDATES or own_sweep is None or len(sweeps) == 1:
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
        and sweep is not None
        and (table == "candidates" or conditions_of(sweep) == conditions_of(own_sweep))
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
