"""Openings of sealed splits: which programs are certified on one, recorded before it is used.

The programs are those on the verified fronts, chosen by their scores on the search split. Results
on a sealed split may guide a later search, so a sealed split serves one choice of programs; another
choice is refused, or marked as repeated. Only openings in the ledgers of the given runs are known.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from kilobit.cluster.requests import wrong_input
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.fronts import RunFront
from kilobit.cluster.sweep.recorded import check_data, data_parts
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.front.points import FrontPoint
from kilobit.search.records import OpeningRecord, RungRecord, WorkerRecord
from kilobit.search.settings import InputError
from kilobit.search.task import LEVEL, Task, split_digest


class SealedError(InputError):
    """The sealed split was opened before for other programs, or has changed since."""


@dataclass(frozen=True)
class Chosen:
    """The programs of a run that are to be certified.

    Attributes:
        run: the run.
        points: the programs, front by front.
        rungs: the last rung of each program, in the same order: digests of its base model, its
            machine and its data.
    """

    run: RunFolder
    points: tuple[FrontPoint, ...]
    rungs: tuple[RungRecord, ...]

    @property
    def names(self) -> list[str]:
        """Return unique names of the programs: the digests of the files and the base model."""
        pairs = zip(self.points, self.rungs, strict=True)
        return [f"{point.program}@{rung.base_digest}" for point, rung in pairs]


def choose(front: RunFront) -> Chosen:
    """Return the programs on the verified fronts of a run.

    Raises:
        InputError: if there are none.
        DamagedError: if a part of the ledger is damaged.
    """
    run = front.run
    columns = ("candidate", "rung", "num_examples", "base_digest", "machine", "data")
    records = run.ledger.records(RungRecord, columns)
    points = tuple(point for point in front.on_front if point.verified)
    if not points:
        raise InputError(f"{run.path} has no verified program on its front: nothing to certify")
    last = run.sweep.rungs.count - 1
    rungs = {one.candidate: one for one in records if one.rung == last}
    return Chosen(run, points, tuple(rungs[point.candidate] for point in points))


def open_sealed(
    chosen: Sequence[Chosen], *, again: bool = False
) -> list[tuple[OpeningRecord, Task, list[Chosen]]]:
    """Record the openings of the sealed splits of runs; nothing is scored here.

    Runs with the same sealed split are certified together, unless the programs of each belong to an
    opening that is recorded already: then they continue that one.

    Args:
        chosen: the runs with their programs.
        again: open a sealed split that was opened before for other programs; mark it `repeated`.

    Returns:
        Each opening with its task and the runs that belong to it.

    Raises:
        SealedError: if a sealed split was opened before for other programs, unless `again`.
        InputError: if the data of a run can't be read, or are not those of its search.
        OSError: if a ledger can't be written.
    """
    tasks: dict[str, Task] = {}
    groups: dict[str, list[Chosen]] = {}
    for one in chosen:
        with wrong_input():
            task = load_task(one.run.sweep.task, one.run.sweep_folder)
            check_data(one.run.ledger.records(WorkerRecord), data_parts(task, one.run.sweep))
        digest = split_digest(task.splits.sealed, task.metric)
        tasks[digest] = task
        groups.setdefault(digest, []).append(one)
    # Check all before the first is recorded, so that a refusal records nothing.
    found = [
        (opening, tasks[digest], runs)
        for digest, group in groups.items()
        for opening, runs in _openings(group, digest, len(tasks[digest].splits.sealed), again)
    ]
    for opening, _, runs in found:
        for one in runs:
            _record(one.run, opening)
    return found


def _openings(
    group: list[Chosen], digest: str, num_examples: int, again: bool
) -> list[tuple[OpeningRecord, list[Chosen]]]:
    together = _new(group, digest, num_examples)
    recorded = [_recorded(one.run) for one in group]
    if not any(together.opening in known for known in recorded):
        covering = [
            _covering(one, known, digest) for one, known in zip(group, recorded, strict=True)
        ]
        if all(covering):
            # Each run has recorded the time of its own attempt.
            by_opening: dict[object, tuple[OpeningRecord, list[Chosen]]] = {}
            for opening, one in zip(covering, group, strict=True):
                assert opening is not None
                key = (opening.opening, opening.targets, opening.repeated)
                by_opening.setdefault(key, (opening, []))[1].append(one)
            return [part for found in by_opening.values() for part in _apart(*found)]
    for known in recorded:
        if together.opening in known:
            # Keep the recorded opening, with its `repeated`.
            return [(known[together.opening], group)]
    earlier = [
        (one.run, opening)
        for one, known in zip(group, recorded, strict=True)
        for opening in known.values()
    ]
    if not earlier:
        return [(together, group)]
    if not again:
        raise SealedError(_refusal(*earlier[-1], digest))
    return [(_new(group, digest, num_examples, repeated=True), group)]


def _apart(opening: OpeningRecord, group: list[Chosen]) -> list[tuple[OpeningRecord, list[Chosen]]]:
    """Return runs one by one if several found the same program and were opened separately."""
    names = Counter(name for one in group for name in one.names)
    if names <= Counter(opening.selection):
        return [(opening, group)]
    return [(opening, [one]) for one in group]


def _new(
    group: Sequence[Chosen], digest: str, num_examples: int, *, repeated: bool = False
) -> OpeningRecord:
    selection = sorted(name for one in group for name in one.names)
    selected = _digest("\n".join(selection))
    return OpeningRecord(
        opening=_digest(f"{digest} {selected} {LEVEL}"),
        sealed_digest=digest,
        num_examples=num_examples,
        selection=tuple(selection),
        selection_digest=selected,
        num_programs=len(selection),
        level=LEVEL,
        targets=tuple(sorted({target for one in group for target in one.run.sweep.targets})),
        repeated=repeated,
        opened_at=datetime.now(UTC),
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _recorded(run: RunFolder) -> dict[str, OpeningRecord]:
    """Return the openings in the ledger of a run by name, the latest last."""
    with wrong_input():
        records = run.ledger.records(OpeningRecord)
    return {one.opening: one for one in sorted(records, key=lambda one: one.opened_at)}


def _covering(one: Chosen, known: dict[str, OpeningRecord], digest: str) -> OpeningRecord | None:
    """Return the latest opening of a run's sealed split that includes all of its programs."""
    for opening in reversed(known.values()):
        if opening.sealed_digest == digest and Counter(one.names) <= Counter(opening.selection):
            return opening
    return None


def _refusal(run: RunFolder, opening: OpeningRecord, digest: str) -> str:
    when = f"{opening.opened_at:%Y-%m-%d %H:%M} UTC"
    if opening.sealed_digest != digest:
        what = (
            f"the sealed split of {run.path} has changed since it was opened on {when}: it was "
            f"{opening.sealed_digest} and is {digest}"
        )
    else:
        what = (
            f"the sealed split of {run.path} was opened on {when} for another choice of "
            f"{opening.num_programs} programs, and its results may have guided this one"
        )
    return f"{what}; --again certifies all the same and marks the results as repeated"


def _record(run: RunFolder, opening: OpeningRecord) -> None:
    if run.ledger.read_part(OpeningRecord, opening.opening) is None:
        mine = replace(opening, attempt=run.attempt, opened_at=datetime.now(UTC))
        run.ledger.write(OpeningRecord, opening.opening, [mine])
