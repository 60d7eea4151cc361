import statistics
import time
import tracemalloc
from collections import Counter
from itertools import pairwise

import pytest

from kilobit.search.proposers.evolution import Bandit, Evolution, EvolutionProposer
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.streams import stream
from tests.support.worlds import FAMILIES, HARD, TASK, drive, make, noise, proposals, smooth


def rounds(gains: dict[str, tuple[float, float, float]], count: int, switch: int = 0) -> list[str]:
    """Play a bandit whose arms give (chance, gain, seconds); their names rotate after `switch`."""
    bandit, names, used = Bandit(list(gains), 0.97), list(gains), []
    for i in range(count):
        rng = stream("bandit", i)
        arm = bandit.order(rng)[0]
        used.append(arm)
        place = names.index(arm)
        real = names[place - 1] if switch and i >= switch else arm
        chance, gain, seconds = gains[real]
        bandit.spend(arm, seconds)
        if rng.random() < chance:
            bandit.reward(arm, gain)
    return used


def test_the_bandit_prefers_what_gains_more_a_second() -> None:
    arms = {"good": (0.3, 1.0, 1.0), "rare": (0.05, 1.0, 1.0), "dear": (0.3, 1.0, 20.0)}
    used = Counter(rounds(arms, 400)[100:])
    assert used["good"] > 0.6 * 300
    assert min(used["rare"], used["dear"]) > 0


def test_the_bandit_follows_a_change_and_knows_no_scale() -> None:
    arms = {"a": (0.4, 1.0, 1.0), "b": (0.05, 1.0, 1.0), "c": (0.05, 1.0, 1.0)}
    used = rounds(arms, 800, switch=400)
    assert Counter(used[200:400]).most_common(1)[0][0] == "a"
    # After the switch b is what a was.
    assert Counter(used[600:]).most_common(1)[0][0] == "b"
    scaled = {name: (p, 1e-6 * gain, 1e4 * s) for name, (p, gain, s) in arms.items()}
    assert rounds(scaled, 400) == rounds(arms, 400)


def observation(
    candidate: str, score: float, bits: int = 4000, *, parent: str | None = None
) -> Observation:
    return Observation(candidate, "m", 2, True, True, score, bits, 40, 2.0, parent)


def begun() -> tuple[Evolution, Proposal]:
    """An evolution after its random draws have finished, and its first child."""
    config = EvolutionProposer(kind="evolution", fresh=8)
    evolution = Evolution(config, FAMILIES, TASK, ["m"], 0)
    for i in range(8):
        found = evolution.propose("m")
        assert found is not None
        assert found.operator == "random"
        evolution.observe(observation(found.candidate.id, i / 20, 4000 + i))
    # Another stream than the operator's: whatever it is, it is not the random draw.
    child = next(c for _ in range(40) if (c := evolution.propose("m")) and c.parent)
    return evolution, child


def test_an_operator_is_charged_its_seconds_and_credited_its_gain() -> None:
    evolution, child = begun()
    bandit = evolution._states["m"].bandit
    assert sum(bandit._seconds.values()) == sum(bandit._gain.values()) == 0
    evolution.observe(observation(child.candidate.id, 0.9))
    assert bandit._seconds[child.operator] == sum(bandit._seconds.values()) == 2.0
    # The front's best was 0.35 at 4007 bits; the child is as short as the shortest.
    assert bandit._gain[child.operator] == pytest.approx(0.9 * (26 - 11.9658) - 0.35 * 14.03, 0.01)
    evolution.observe(observation("f" * 16, 0.95, 3000, parent=child.candidate.id))
    assert bandit._gain[child.operator] > 8
    assert sum(bandit._gain.values()) == bandit._gain[child.operator]


def test_a_child_that_stops_early_costs_and_gains_nothing() -> None:
    evolution, child = begun()
    bandit = evolution._states["m"].bandit
    stopped = Observation(child.candidate.id, "m", 0, True, False, 0.9, 4000, 10, 3.0)
    evolution.observe(stopped)
    assert bandit._seconds[child.operator] == 3.0
    assert bandit._gain[child.operator] == 0


def test_only_what_has_ended_is_begun_from() -> None:
    events = drive(make("evolution"), 800, smooth)
    ended: set[str] = set()
    starts = 0
    for event in events:
        if isinstance(event, Observation):
            ended |= {event.candidate} if event.last else set()
        elif event.operator == "transfer":
            starts += 1
            assert event.candidate.adapter is not None
            assert event.candidate.adapter.start == event.parent in ended
    assert starts > 5
    used = Counter(p.operator for p in proposals(events))
    assert len(used) > 15


@pytest.mark.parametrize("ended", [False, True])
def test_what_still_trains_is_not_begun_from(ended: bool) -> None:
    evolution = make("evolution", families=HARD)
    for i in range(8):
        found = evolution.propose("m")
        assert found is not None
        evolution.observe(
            Observation(found.candidate.id, "m", 0, ended, False, i / 20, 4000 + i, 10, 1.0)
        )
    used = {p.operator for _ in range(80) if (p := evolution.propose("m"))}
    assert ("transfer" in used) == ended


def test_a_parent_was_observed_before_its_child() -> None:
    seen: set[str] = set()
    for event in drive(make("evolution"), 300, smooth):
        if isinstance(event, Observation):
            seen.add(event.candidate)
        elif event.parent is not None:
            assert event.parent in seen


@pytest.mark.parametrize("kind", ["random", "evolution"])
def test_a_proposal_is_fast_and_its_state_small(kind: str) -> None:
    tracemalloc.start()
    proposer, sizes, times = make(kind), [], []
    propose = proposer.propose

    def timed(model: str) -> Proposal | None:
        began = time.process_time()
        found = propose(model)
        times.append(time.process_time() - began)
        return found

    try:
        for i in range(3):
            drive(proposer, 120, noise, seed=i)
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert all(after - before < 120 * 2000 for before, after in pairwise(sizes))
    proposer.propose = timed  # type: ignore[method-assign]
    drive(proposer, 50, noise, seed=9)
    # benchmarks/proposers.py has the time after 10,000 candidates.
    assert statistics.median(times) < 2e-3
