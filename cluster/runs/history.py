"""The course of a search: growth of its fronts, outcomes at each rung, reasons and errors.

All of it is counted in Arrow and NumPy columns; only points that gained area on a front become
Python objects.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kilobit.cluster.runs.result_sources import Source
from kilobit.evaluators.report.contents import Course, ReasonCount, RungCount
from kilobit.search.front.pareto import REFERENCE_BITS, GrowingFront
from kilobit.search.front.points import FrontPoint

# Parts of a reason that differ between candidates: numbers, and text in brackets.
_NUMBER = r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?"
_IN_BRACKETS = r"\s*\([^()]*\)"
_MOST_REASONS = 12
_MOST_ERROR_LETTERS = 200
_OF_A_RUNG = (
    "candidate",
    "rung",
    "num_examples",
    "num_generated",
    "score",
    "attempt",
    "finished_at",
    "error",
)
Key = tuple[str, str]
Integers = npt.NDArray[np.int64]


class SearchHistory:
    """Rows of a source that record its search.

    Args:
        source: the source to read.

    Raises:
        ValueError: naming the file, if one is damaged or of a newer version.
    """

    def __init__(self, source: Source) -> None:
        self.name, self._about = source.name, source.about
        candidates = source.read("candidates", ["candidate", "task", "model", "parent"])
        self._coarser = candidates["candidate"].filter(pc.is_valid(candidates["parent"]))
        self._ids = candidates["candidate"].combine_chunks()
        # Number each pair of task and base model; a candidate missing in the table has none.
        pairs = pa.table({"task": candidates["task"], "model": candidates["model"]})
        distinct = pairs.group_by(["task", "model"], use_threads=False).aggregate([]).to_pylist()
        self.keys: list[Key] = [(row["task"], row["model"]) for row in distinct]
        names = pc.binary_join_element_wise(pairs["task"], pairs["model"], "\0")
        known = pa.array(["\0".join(key) for key in self.keys], pa.string())
        self._key_of = _numbers(pc.index_in(names, known))
        self.rungs = source.read("rungs", _OF_A_RUNG)
        self._positions = _numbers(pc.index_in(self.rungs["candidate"], self._ids))
        self.decisions = source.read("decisions", ["candidate", "rung", "decision", "reason"])

    def keys_of(self, candidates: pa.ChunkedArray) -> Integers:
        """Return for each candidate the number of its task and base model, -1 if it has none."""
        positions = _numbers(pc.index_in(candidates, self._ids))
        return (
            np.where(positions < 0, -1, self._key_of[positions]) if len(self._key_of) else positions
        )

    def courses(self, points: Sequence[FrontPoint]) -> list[Course]:
        """Return the growth of each front, from the points of this source."""
        if not len(self.rungs) or not points:
            return []
        key = np.where(self._positions < 0, -1, self._key_of[self._positions])
        order = np.argsort(_microseconds(self.rungs["finished_at"]), kind="stable")
        seconds = self._seconds()
        fallback = pc.coalesce(self.rungs["num_generated"], self.rungs["num_examples"])
        scored = _numbers(pc.fill_null(fallback, 0))
        last = int(pc.max(self.rungs["rung"]).as_py())
        # Row index of each candidate's result at the last rung, in order of time.
        at_last = order[_numbers(self.rungs["rung"])[order] == last]
        row_of = np.full(len(self._ids), -1)
        positions = self._positions[at_last]
        row_of[positions[positions >= 0]] = at_last[positions >= 0]
        found = []
        for number, (task, model) in enumerate(self.keys):
            own = [p for p in points if (p.task, p.model) == (task, model)]
            if own:
                examples = np.zeros(len(self.rungs), np.int64)
                mine = order[key[order] == number]
                examples[mine] = np.cumsum(scored[mine])
                ids = pa.array([p.candidate for p in own], pa.string())
                rows = row_of[_numbers(pc.index_in(ids, self._ids))]
                end = (int(examples[mine[-1]]), float(seconds[mine].max()))
                found.append(
                    Course(self.name, task, model, *_grown(own, rows, examples, seconds, end))
                )
        return found

    def _seconds(self) -> npt.NDArray[np.float64]:
        """Return the finish times of rungs, in seconds of search without time between attempts."""
        at = _microseconds(self.rungs["finished_at"])
        attempts = _numbers(pc.fill_null(self.rungs["attempt"], 0))
        began = _began(self._about)
        seconds, before = np.zeros(len(at)), 0.0
        for attempt in np.unique(attempts):
            own = attempts == attempt
            first, last = int(at[own].min()), int(at[own].max())
            start = min(first, began.get(int(attempt), first))
            seconds[own] = before + (at[own] - start) / 1e6
            before += (last - start) / 1e6
        return seconds

    def rung_counts(self) -> list[RungCount]:
        """Return the numbers of promoted, stopped and failed candidates per base model and rung.

        Coarser versions are counted apart: no proposer drew them, and they have the last rung only.
        """
        made = self._is_coarser(self.rungs["candidate"])
        drawn = self.rungs.filter(pc.invert(made))
        there = self._counted_rows(drawn)
        broken = self._counted_rows(drawn.filter(pc.is_valid(drawn["error"])))
        coarser = self._counted_rows(self.rungs.filter(made))
        stops = self.decisions.filter(pc.equal(self.decisions["decision"], "stop"))
        ended = _counted(self.keys_of(stops["candidate"]), stops["rung"])
        sizes = self.rungs.group_by("rung").aggregate([("num_examples", "max")]).to_pylist()
        examples = {row["rung"]: row["num_examples_max"] for row in sizes}
        return [
            RungCount(
                *self.keys[number],
                rung,
                examples[rung] or 0,
                went_on=max(0, count - max(ended.get((number, rung), 0), failures)),
                stopped=max(0, ended.get((number, rung), 0) - failures),
                failed=failures,
                coarser=coarser.get((number, rung), 0),
            )
            for (number, rung) in sorted(there.keys() | coarser.keys())
            if number >= 0
            for count, failures in [(there.get((number, rung), 0), broken.get((number, rung), 0))]
        ]

    def num_coarser(self, points: Sequence[FrontPoint]) -> int:
        """Return how many points of this source are coarser versions of other candidates."""
        own = pa.chunked_array([[point.candidate for point in points]], pa.string())
        return int(pc.sum(self._is_coarser(own)).as_py() or 0)

    def _is_coarser(self, candidates: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.is_in(candidates, value_set=self._coarser)

    def _counted_rows(self, rows: pa.Table) -> dict[tuple[int, int], int]:
        return _counted(self.keys_of(rows["candidate"]), rows["rung"])

    def reasons(self) -> list[ReasonCount]:
        """Return the counted reasons of stops; reasons that differ only in numbers are merged."""
        stops = self.decisions.filter(pc.equal(self.decisions["decision"], "stop"))
        texts = pc.replace_substring_regex(stops["reason"], _IN_BRACKETS, "")
        return self._tally(stops["candidate"], pc.replace_substring_regex(texts, _NUMBER, "n"))

    def errors(self) -> list[ReasonCount]:
        """Return the counted errors of failed candidates: the last lines of their tracebacks."""
        failed = self.rungs.filter(pc.is_valid(self.rungs["error"]))
        lines = pc.replace_substring_regex(failed["error"], r"(?s)^.*\n", "")
        return self._tally(
            failed["candidate"], pc.utf8_slice_codeunits(lines, 0, _MOST_ERROR_LETTERS)
        )

    def _tally(self, candidates: pa.ChunkedArray, texts: pa.ChunkedArray) -> list[ReasonCount]:
        rows = pa.table({"key": self.keys_of(candidates), "text": texts})
        found = rows.group_by(["key", "text"], use_threads=False).aggregate([([], "count_all")])
        return [
            ReasonCount(*self.keys[int(row["key"])], row["text"] or "", row["count_all"])
            for row in found.to_pylist()
            if row["key"] >= 0
        ]


def _grown(
    points: Sequence[FrontPoint],
    rows: Integers,
    examples: Integers,
    seconds: npt.NDArray[np.float64],
    end: tuple[int, float],
) -> tuple[list[int], list[float], list[float]]:
    """Return examples, seconds and hypervolume each time a front grew, and at the end."""
    front = GrowingFront(REFERENCE_BITS)
    at = [(0, 0.0, 0.0)]
    for position in np.argsort(seconds[rows], kind="stable"):
        point, row = points[position], rows[position]
        if row >= 0 and front.add(point.bits, point.score):
            at.append((int(examples[row]), float(seconds[row]), front.area))
    at.append((*end, front.area))
    return [one[0] for one in at], [one[1] for one in at], [one[2] for one in at]


def most_common(counts: Sequence[ReasonCount]) -> list[ReasonCount]:
    """Return the counts, by base model, of the commonest reasons overall, the rest merged."""
    totals = Counter[str]()
    for one in counts:
        totals[one.reason] += one.count
    kept = sorted(totals, key=lambda reason: (-totals[reason], reason))[:_MOST_REASONS]
    merged = Counter[tuple[str, str, str]]()
    for one in counts:
        reason = one.reason if one.reason in kept else "other reasons"
        merged[one.task, one.model, reason] += one.count
    return [ReasonCount(*key, count) for key, count in merged.items()]


def _counted(keys: Integers, rungs: pa.ChunkedArray) -> dict[tuple[int, int], int]:
    """Return the number of rows of each key and rung."""
    both = pa.table({"key": keys, "rung": rungs})
    found = both.group_by(["key", "rung"]).aggregate([([], "count_all")]).to_pylist()
    return {(row["key"], row["rung"]): row["count_all"] for row in found}


def _numbers(values: Any) -> Integers:
    """Return values as integers, -1 for null."""
    found: Integers = pc.fill_null(pc.cast(values, pa.int64()), -1).to_numpy()
    return found


def _microseconds(times: pa.ChunkedArray) -> Integers:
    """Return times in microseconds; an unknown time becomes the earliest one."""
    first = pc.min(times)
    return _numbers(pc.fill_null(times, first) if first.is_valid else times)


def _began(about: Mapping[str, Any]) -> dict[int, int]:
    """Return the start time of each attempt where it is known, in microseconds."""
    found = {}
    for attempt in about.get("attempts", ()):
        # A manifest that was written by hand.
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            at = datetime.fromisoformat(attempt["started_at"])
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            found[int(attempt["attempt"])] = int(at.timestamp() * 1e6)
    return found
