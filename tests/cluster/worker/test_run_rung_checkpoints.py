from pathlib import Path
from typing import Any

from kilobit.cluster.worker.run_rung import Checkpoints
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.records import RungRecord


class Rungs(Ledger):
    """A ledger whose rows of rungs are given: rung and attempt of the accepted row."""

    def __init__(self, attempt: int, accepted: dict[int, int]) -> None:
        self.attempt, self.accepted = attempt, accepted

    def read_part(self, kind: type[Any], name: str) -> list[Any] | None:
        assert (kind, name[:3]) == (RungRecord, "c-r")
        rung = int(name[3:])
        found = self.accepted.get(rung)
        record = RungRecord(candidate="c", rung=rung, num_examples=1, attempt=found)
        return None if found is None else [record]


def test_the_latest_checkpoint_before_a_rung_is_the_one_of_the_accepted_row(tmp_path: Path) -> None:
    for attempt in (1, 2):
        Checkpoints(tmp_path, Rungs(attempt, {})).write("c", 0, b"rung 0, attempt %d" % attempt)
    Checkpoints(tmp_path, Rungs(1, {})).write("c", 1, b"rung 1")
    found = Checkpoints(tmp_path, Rungs(2, {0: 1, 1: 1}))
    assert found.before("c", 2) == b"rung 1"
    assert found.before("c", 1) == b"rung 0, attempt 1"
    assert found.before("c", 0) is None
    assert Checkpoints(tmp_path, Rungs(2, {0: 2})).before("c", 3) == b"rung 0, attempt 2"


def test_a_rung_without_a_row_or_a_file_is_passed_over(tmp_path: Path) -> None:
    Checkpoints(tmp_path, Rungs(1, {})).write("c", 0, b"trained")
    assert Checkpoints(tmp_path, Rungs(1, {0: 1, 1: 1})).before("c", 2) == b"trained"
    assert Checkpoints(tmp_path, Rungs(1, {})).before("c", 2) is None
