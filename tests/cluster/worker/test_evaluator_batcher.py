"""Who calls at the same time is answered together."""

import threading
from collections.abc import Sequence

import pytest

from kilobit.cluster.worker import evaluator as module
from kilobit.cluster.worker.evaluator import Batcher


def call_all(gatherer: Batcher[int, str], asks: Sequence[int]) -> dict[int, str]:
    """Call from a thread each and return the answers and what was raised, as text."""
    found: dict[int, str] = {}

    def one(ask: int) -> None:
        try:
            found[ask] = gatherer.run(ask)
        except ValueError as error:
            found[ask] = f"raised {error}"

    threads = [threading.Thread(target=one, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return found


def test_a_pack_waits_until_it_is_complete() -> None:
    packs: list[list[int]] = []

    def work(asks: Sequence[int]) -> list[str]:
        packs.append(sorted(asks))
        return [str(ask) for ask in asks]

    gatherer = Batcher(work, 4, lambda waiting: len(waiting) >= 3)
    assert call_all(gatherer, [1, 2, 3]) == {1: "1", 2: "2", 3: "3"}
    assert packs == [[1, 2, 3]]


def test_a_pack_is_looked_at_again_when_what_is_expected_has_changed() -> None:
    looked, enough = threading.Event(), threading.Event()

    def is_complete(_: Sequence[int]) -> bool:
        looked.set()
        return enough.is_set()

    gatherer = Batcher(lambda asks: [str(ask) for ask in asks], 2, is_complete)

    def change() -> None:
        assert looked.wait(20)
        enough.set()
        gatherer.look()

    changing = threading.Thread(target=change)
    changing.start()
    assert call_all(gatherer, [1]) == {1: "1"}
    changing.join(20)


def test_no_pack_is_larger_than_its_size_and_nobody_is_forgotten() -> None:
    sizes: list[int] = []

    def work(asks: Sequence[int]) -> list[str]:
        sizes.append(len(asks))
        return [str(ask) for ask in asks]

    gatherer = Batcher(work, 2, lambda _: True)
    assert call_all(gatherer, range(7)) == {ask: str(ask) for ask in range(7)}
    assert sum(sizes) == 7
    assert max(sizes) <= 2


def test_what_goes_wrong_with_a_pack_is_told_to_all_of_it_and_to_nobody_else() -> None:
    def work(asks: Sequence[int]) -> list[str]:
        if 1 in asks:
            raise ValueError(f"{len(asks)} failed")
        return [str(ask) for ask in asks]

    gatherer = Batcher(work, 2, lambda waiting: len(waiting) >= 2)
    assert call_all(gatherer, [1, 2]) == {1: "raised 2 failed", 2: "raised 2 failed"}
    assert call_all(gatherer, [3, 4]) == {3: "3", 4: "4"}


def test_who_was_announced_and_does_not_come_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    gatherer = Batcher(lambda asks: [str(ask) for ask in asks], 2, lambda _: False)
    assert call_all(gatherer, [1]) == {1: "1"}
