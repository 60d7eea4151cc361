import pytest

from kilobit.evaluators.metrics.metrics import METRICS
from kilobit.search.task import Splits, Task, make_example, make_splits


def make_task(stop: tuple[str, ...]) -> Task:
    empty = Splits((), (), ())
    return Task("t", "Q: {input}\nA:", " {target}\n", stop, 8, METRICS["exact_match"], empty)


@pytest.mark.parametrize(
    ("stop", "output", "cut"),
    [
        (("\n",), " 8\nQ: more", " 8"),
        (("###", "\n"), "a ### b\n", "a "),
        (("\n",), "no end", "no end"),
        ((), "all\nof it", "all\nof it"),
    ],
)
def test_an_output_ends_at_the_first_stop_string(
    stop: tuple[str, ...], output: str, cut: str
) -> None:
    assert make_task(stop).cut(output) == cut


def test_braces_in_the_data_are_left_alone() -> None:
    task = make_task(())
    assert task.ask("f{target}") + task.show("{input}") == "Q: f{target}\nA: {input}\n"


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="the sealed split is empty"):
        make_splits("t", [make_example("a", "1")], [make_example("b", "1")], [], 0)


def test_order_depends_on_the_seed_alone() -> None:
    items = [make_example(str(i), "1") for i in range(50)]
    one, two = [make_example("a", "1")], [make_example("b", "1")]
    first = make_splits("t", one, items, two, 0).search
    assert first == make_splits("t", one, items[::-1], two, 0).search
    assert first != make_splits("t", one, items, two, 1).search
