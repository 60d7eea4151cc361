"""A worker that was killed leaves behind what it had in hand."""

from pathlib import Path

import pytest

from kilobit.cluster.worker.crash_log import CrashLog


def test_who_dies_leaves_suspects_and_who_lives_clears_them(tmp_path: Path) -> None:
    hand = CrashLog(tmp_path, "w/1", 1)
    context = hand.holding(["a-r0", "b-r0"])
    context.__enter__()
    # Killed: the successor reads what was left.
    heir = CrashLog(tmp_path, "w/1", 1)
    assert (heir.deaths("a-r0"), heir.deaths("b-r0"), heir.deaths("c-r0")) == (1, 1, 0)
    assert heir.in_a_row == 1
    with heir.holding(["a-r0"]):
        pass
    assert (heir.deaths("a-r0"), heir.in_a_row) == (0, 0)
    killed = heir.holding(["b-r0"])
    killed.__enter__()
    heir.blame("rank 1 died")
    third = CrashLog(tmp_path, "w/1", 1)
    assert (third.in_a_row, third.cause) == (1, ": rank 1 died")
    assert (third.deaths("a-r0"), third.deaths("b-r0")) == (0, 2)
    # What the second died of is not what the third was killed by.
    fourth = CrashLog(tmp_path, "w/1", 1)
    came_back = (hand.came_back, heir.came_back, third.came_back, fourth.came_back)
    assert came_back == (None, "", ": rank 1 died", "")


def test_an_error_is_no_death_and_another_attempt_knows_nothing(tmp_path: Path) -> None:
    hand = CrashLog(tmp_path, "w", 1)
    with pytest.raises(OSError, match="full"), hand.holding(["a-r0"]):
        raise OSError("full")
    assert CrashLog(tmp_path, "w", 1).deaths("a-r0") == 0
    killed = hand.holding(["a-r0"])
    killed.__enter__()
    assert CrashLog(tmp_path, "w", 2).deaths("a-r0") == 0
    assert CrashLog(tmp_path, "v", 1).deaths("a-r0") == 0


def test_who_dies_with_its_node_died_of_nothing_that_it_had_in_hand(tmp_path: Path) -> None:
    killed = [CrashLog(tmp_path, "w", 1, "n0").holding(["a-r0"])]
    killed[0].__enter__()
    moved = CrashLog(tmp_path, "w", 1, "n1")
    assert (moved.deaths("a-r0"), moved.in_a_row) == (0, 0)
    killed.append(moved.holding(["a-r0"]))
    killed[1].__enter__()
    stayed = CrashLog(tmp_path, "w", 1, "n1")
    assert (stayed.deaths("a-r0"), stayed.in_a_row) == (1, 1)


def test_who_dies_again_and_again_as_it_starts_is_given_up(tmp_path: Path) -> None:
    for deaths in range(6):
        assert CrashLog(tmp_path, "w", 1, "n").in_a_row == deaths
    with pytest.raises(RuntimeError, match="w died 6 times in a row"):
        CrashLog(tmp_path, "w", 1, "n")
    # One that has started and then ends did not die of its start.
    for _ in range(8):
        CrashLog(tmp_path, "v", 1, "n").ready()
