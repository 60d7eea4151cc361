"""Time and errors of a candidate in a worker's hands."""

import time

import pytest

from kilobit.cluster.shards.group import GroupError
from kilobit.cluster.worker.rung_record import Work
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.records import RungRecord


@pytest.fixture
def work() -> Work:
    record = RungRecord(candidate="c", rung=0, num_examples=1)
    return Work(Candidate(task="t", model="m"), Rung(0, 1, 1), record)


def test_what_goes_wrong_with_a_candidate_is_in_its_record_and_the_first_stays(work: Work) -> None:
    for text in ("first", "second"):
        with work.guarded():
            raise ValueError(text)
    assert work.failed
    assert "ValueError: first" in (work.record.error or "")


@pytest.mark.parametrize("error", [GroupError(1, "died"), OSError("disk full")])
def test_what_the_worker_ran_into_is_not_the_candidates_failure(
    work: Work, error: Exception
) -> None:
    with pytest.raises(type(error)), work.guarded():
        raise error
    assert not work.failed


def test_no_time_is_counted_twice(work: Work) -> None:
    with work.guarded():
        work.spend(100)
        with work.guarded(), work.coding():
            time.sleep(0.02)
    assert 0.02 <= work.code_s <= work.seconds < 10
    work.spend(100)
    assert work.seconds > 100
