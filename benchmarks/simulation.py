"""A search replayed from recorded full evaluations, with its own clock.

A candidate's result at a rung is looked up instead of computed, so any scheduler runs through
hundreds of candidates in a second. Only generated examples are counted: an example that the same
program (or one that differs only in its post-processing) generated before comes from the cache.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from kilobit.search.candidate import Rung
from kilobit.search.schedulers.racing import Race, Verdict, incumbent_of
from kilobit.search.schedulers.scheduler import Result, Scheduler


@dataclass(frozen=True)
class Track:
    """A recorded candidate.

    Attributes:
        candidate: its id.
        model: its base model; candidates are compared within a base model.
        bound_bits: upper bound of its length, known before it is trained.
        bits: its length at each rung.
        scores: its score at each rung.
        examples: the score of each example of each rung.
        train_s: seconds of training before each rung.
        example_s: seconds to generate one example at each rung.
        trained_at: index of the rung from which on no more training changes it.
        outputs: name of its raw outputs at each rung; equal names have equal outputs.
    """

    candidate: str
    model: str
    bound_bits: int
    bits: tuple[int, ...]
    scores: tuple[float, ...]
    examples: tuple[tuple[float, ...], ...]
    train_s: tuple[float, ...]
    example_s: tuple[float, ...]
    trained_at: int
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """A candidate that completed the last rung, with the examples and seconds spent by then."""

    candidate: str
    bits: int
    score: float
    examples: int
    seconds: float


@dataclass(frozen=True)
class Course:
    """A simulated search: its finished candidates, and its examples and seconds in all."""

    finished: tuple[Finished, ...]
    examples: int
    seconds: float
    decisions: int


class _Simulator:
    def __init__(
        self, scheduler: Scheduler, rungs: Sequence[Rung], level: float | None, block: int
    ) -> None:
        self._scheduler, self._rungs, self._level, self._block = scheduler, rungs, level, block
        self._generated: dict[str, int] = {}
        self._tracks: dict[str, Track] = {}
        self.examples = 0

    def run_rung(self, track: Track, rung: int) -> tuple[Result, float]:
        """Return the candidate's result and the seconds that it took."""
        self._tracks[track.candidate] = track
        size = self._rungs[rung].num_examples
        mine = track.examples[rung][:size]
        used, gap = size, None
        verdict: Verdict | None = None
        against: str | None = None
        left = max(0, track.trained_at - rung)
        front = self._scheduler.incumbents(track.model, rung, left=left)
        rival = incumbent_of(front, track.bits[rung])
        if rival is not None and rival.candidate != track.candidate:
            against = rival.candidate
            theirs = self._tracks[against].examples[rung][:size]
            if self._level is not None and self._scheduler.races and not left:
                race, used = Race(self._level, theirs if len(theirs) == size else None), 0
                while used < size and verdict != "loses":
                    block = slice(used, min(size, used + self._block))
                    verdict = race.add(mine[block], theirs[block])
                    used = block.stop
            gap = (sum(mine[:used]) - sum(theirs[:used])) / used
        name = track.outputs[rung]
        fresh = max(0, used - self._generated.get(name, 0))
        self._generated[name] = max(used, self._generated.get(name, 0))
        self.examples += fresh
        score = track.scores[rung] if used == size else sum(mine[:used]) / used
        bits = track.bits[rung]
        result = Result(
            track.candidate, track.model, rung, score, bits, verdict, against, gap, left
        )
        return result, track.train_s[rung] + fresh * track.example_s[rung]


def simulate(
    tracks: Sequence[Track],
    scheduler: Scheduler,
    rungs: Sequence[Rung],
    *,
    workers: int = 1,
    level: float | None = None,
    block: int = 6,
) -> Course:
    """Run all candidates in their order and return the course.

    Args:
        tracks: the recorded candidates.
        scheduler: promotes or stops candidates.
        rungs: the ladder that was recorded.
        workers: how many run at once; each takes the next candidate when its own has ended.
        level: error level of races, None for no races.
        block: examples between two checks of a race.
    """
    simulator, waiting = _Simulator(scheduler, rungs, level, block), iter(tracks)
    finished: list[Finished] = []
    clock, decisions, ticket = 0.0, 0, 0
    busy: list[tuple[float, int, Track, Result, int]] = []

    def start(track: Track, rung: int) -> None:
        nonlocal ticket
        result, seconds = simulator.run_rung(track, rung)
        ticket += 1
        heapq.heappush(busy, (clock + seconds, ticket, track, result, simulator.examples))

    for track in (next(waiting, None) for _ in range(workers)):
        if track is not None:
            start(track, scheduler.first_rung)
    while busy:
        clock, _, track, result, examples = heapq.heappop(busy)
        decision = scheduler.report(result)
        decisions += 1
        if decision.action == "finish" and result.score is not None and result.bits is not None:
            done = (track.candidate, result.bits, result.score, examples, clock)
            finished.append(Finished(*done))
        following = next(waiting, None) if decision.action != "promote" else None
        if decision.action == "promote":
            start(track, result.rung + 1)
        elif following is not None:
            start(following, scheduler.first_rung)
    return Course(tuple(finished), simulator.examples, clock, decisions)
