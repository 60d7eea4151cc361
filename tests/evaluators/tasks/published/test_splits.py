import pytest

from kilobit.evaluators.metrics.metrics import METRICS
from kilobit.evaluators.tasks.published.splits import BenchmarkTask, benchmark_task, divided
from kilobit.search.task import Example, make_example

RECORDS = [make_example(f"question {i}", str(i)) for i in range(500)]


def test_a_share_of_the_training_records_is_chosen_by_their_inputs() -> None:
    config = BenchmarkTask(name="b", search_share=0.3)
    train, search = divided(config, RECORDS, None)
    assert len(train) + len(search) == 500
    assert 0.25 < len(search) / 500 < 0.35
    more_train, more_search = divided(config, [*RECORDS, make_example("one more", "x")], None)
    assert set(map(id, train)) <= set(map(id, more_train))
    assert set(map(id, search)) <= set(map(id, more_search))


def test_search_records_that_are_given_leave_the_others_whole() -> None:
    train, search = divided(BenchmarkTask(name="b"), RECORDS[:10], RECORDS[10:12])
    assert (train, search) == (RECORDS[:10], RECORDS[10:12])


def test_inputs_of_a_later_split_are_dropped_from_the_earlier_ones() -> None:
    same = [Example("", example.input, "other", {}) for example in RECORDS[:3]]
    task = benchmark_task(
        BenchmarkTask(name="b"), METRICS["exact_match"], RECORDS[:9], RECORDS[2:6], same
    )
    inputs = [{e.input for e in getattr(task.splits, s)} for s in ("train", "search", "sealed")]
    assert inputs == [
        {f"question {i}" for i in (6, 7, 8)},
        {f"question {i}" for i in (3, 4, 5)},
        {f"question {i}" for i in (0, 1, 2)},
    ]


def test_a_split_that_nothing_is_left_of_is_refused() -> None:
    with pytest.raises(ValueError, match="the train split is empty"):
        benchmark_task(
            BenchmarkTask(name="b"), METRICS["exact_match"], RECORDS[:2], RECORDS[:2], RECORDS[3:]
        )
