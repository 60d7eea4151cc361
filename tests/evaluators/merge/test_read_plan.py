import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from kilobit.evaluators.merge.read_plan import File, Unit, Waiting, in_order, size_and_digest


def batch(*numbers: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"number": pa.array(numbers, pa.int64())})


def test_a_buffer_is_full_at_rows_or_bytes_and_empty_once_taken() -> None:
    waiting = Waiting(most_rows=3, most_bytes=1000)
    assert not waiting.add(batch(1, 2))
    assert waiting.add(batch(3))
    assert [len(one) for one in waiting.taken()] == [2, 1]
    assert (waiting.num_rows, waiting.num_bytes, waiting.batches) == (0, 0, [])
    assert Waiting(most_rows=100, most_bytes=16).add(batch(1, 2))


def test_results_come_in_the_order_of_their_items_whatever_finishes_first() -> None:
    with ThreadPoolExecutor(3) as pool:
        found = in_order(pool, lambda number: time.sleep(0.01 * (number % 3)) or number, range(20))
        assert list(found) == list(range(20))


def test_the_digest_of_a_source_changes_with_any_file() -> None:
    def found(size: int, name: str) -> tuple[int, str]:
        files = (File(Path("a"), 5), File(Path(name), size))
        return size_and_digest({"rungs": [Unit(0, "rungs", files, Path())]})

    assert found(7, "b")[0] == 12
    assert found(7, "b") == found(7, "b")
    assert len({found(7, "b")[1], found(8, "b")[1], found(7, "c")[1]}) == 3
