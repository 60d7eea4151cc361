"""A worker knows when its pack is complete."""

from pathlib import Path

from kilobit.cluster.worker.mailbox import Slots, is_complete


def test_a_pack_is_complete_when_all_have_come_and_no_more_can(tmp_path: Path) -> None:
    places = Slots(tmp_path, 3)
    assert is_complete(tmp_path, "w", 1)
    places.tell("w", 2, more=True)
    assert not is_complete(tmp_path, "w", 2)
    places.tell("w", 2, more=False)
    assert not is_complete(tmp_path, "w", 1)
    assert is_complete(tmp_path, "w", 2)
    # All places taken: there is no room for more, whatever may come.
    places.tell("w", 3, more=True)
    assert not is_complete(tmp_path, "w", 2)
    assert is_complete(tmp_path, "w", 3)
    assert is_complete(tmp_path, "v", 1)


def test_messages_of_an_earlier_attempt_are_taken_away(tmp_path: Path) -> None:
    Slots(tmp_path, 2).tell("w", 1, more=True)
    assert not is_complete(tmp_path, "w", 1)
    Slots(tmp_path, 2)
    assert is_complete(tmp_path, "w", 1)
