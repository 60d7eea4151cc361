from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilobit.evaluators.metrics.metrics import METRICS
from kilobit.search.task import (
    Example,
    Splits,
    Task,
    clusters_of,
    make_example,
    make_splits,
    near_duplicates,
    plain_form,
)


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


SAME = [
    ("What is 2+2?", "  what is\t2+2?\n"),
    ("one\ntwo", "one\r\ntwo"),
    ("one\u2028two", "one two"),
    ("caf\u00e9", "cafe\u0301"),
    ("Stra\u00dfe", "STRASSE"),
    ("\uff21\uff11", "a1"),
    ("a\u00a0b\u3000c", "a b c"),
    ("\ufb01ne", "fine"),
    ("\ufeffhe\u00adllo", "hello"),
    ("\u0130", "i\u0307"),
]
DIFFERENT = [
    ("10", "1 0"),
    ("2\u00b2", "22"),
    ("3\u00bd", "31\u20442"),
    ("H\u2082O", "H2O"),
    ("caf\u00e9", "cafe"),
    ("5 - 3", "5 + 3"),
    ("nowhere", "now here"),
    ("x\u0142", "xl"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spaces_line_ends_case_and_normalisation_do_not_make_another_input(
    one: str, other: str
) -> None:
    assert plain_form(one) == plain_form(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_inputs_stay_apart(one: str, other: str) -> None:
    assert plain_form(one) != plain_form(other)


@given(st.text())
def test_the_plain_form_of_a_plain_form_is_the_same(text: str) -> None:
    assert plain_form(plain_form(text)) == plain_form(text)


def test_near_duplicates_are_counted_with_an_example_for_each_pair_of_splits() -> None:
    def split(*inputs: str) -> list[Example]:
        return [make_example(text, "1") for text in inputs]

    splits = make_splits(
        "t", split("How many?", "a", "b"), split("c", "A"), split(" how  MANY? ", "B\n", "d"), 0
    )
    one, other = near_duplicates(splits)
    assert (one.splits, one.number, one.example) == (("train", "search"), 1, ("a", "A"))
    assert (other.splits, other.number) == (("train", "sealed"), 2)
    assert str(one) == (
        "inputs of the search split that are in the train split too, but for spaces, case or "
        "Unicode normalisation: 1, for example 'a' and 'A'"
    )
    assert near_duplicates(make_splits("t", split("a"), split("b"), split("c"), 0)) == []


def test_a_cluster_in_two_splits_is_refused() -> None:
    one, two, three = (make_example(name, "1", {"cluster": name[0]}) for name in ("a1", "a2", "b1"))
    with pytest.raises(ValueError, match="the cluster 'a' is in both the train and the sealed"):
        make_splits("t", [one], [three], [two], 0)
    # A cluster may have the text of an input.
    make_splits("t", [one], [three], [make_example("a", "1")], 0)


def test_clusters_have_names_only_where_two_examples_share_one() -> None:
    one, two, three = (make_example(name, "1", {"cluster": name[0]}) for name in ("a1", "a2", "b1"))
    alone = make_example("b", "1")
    assert clusters_of([one, three, alone]) is None
    names = clusters_of([one, two, three, alone])
    assert names is not None
    assert len(set(names)) == 3
    assert names[0] == names[1]


def classes(*counts: int) -> list[Example]:
    """Return examples of as many targets as there are counts, `a` the first, each so many times."""
    golds = [name for name, n in zip("abcdefghij", counts, strict=False) for _ in range(n)]
    return [make_example(f"{i} {gold}", gold) for i, gold in enumerate(golds)]


def splits_of(seed: int, *counts: int) -> Splits:
    items = classes(*counts)
    other = [make_example(f"other {e.input}", e.target) for e in items]
    return make_splits("t", items, other, [make_example("sealed", "a")] * 9, seed)


@pytest.mark.parametrize("seed", range(4))
def test_every_prefix_of_a_balanced_split_has_each_target_by_its_share(seed: int) -> None:
    counts = (60, 30, 20, 8, 4)
    drawn = splits_of(seed, *counts)
    found = drawn.balanced()
    assert found.sealed == drawn.sealed
    for own, before in ((found.search, drawn.search), (found.train, drawn.train)):
        assert own != before
        assert sorted(e.id for e in own) == sorted(e.id for e in before)
        for length in range(1, len(own) + 1):
            prefix = Counter(e.target for e in own[:length])
            for name, n in zip("abcde", counts, strict=True):
                assert abs(prefix[name] - length * n / len(own)) <= 1.1
        for name in "abcde":
            # Within a target the order is the drawn one.
            assert [e for e in own if e.target == name] == [e for e in before if e.target == name]


def test_the_first_examples_have_all_of_eight_equal_targets_in_a_drawn_order() -> None:
    orders = set()
    for seed in range(8):
        first = [e.target for e in splits_of(seed, *[6] * 8).balanced().search[:8]]
        assert sorted(first) == list("abcdefgh")
        orders.add(tuple(first))
    assert len(orders) == 8


@pytest.mark.parametrize(("counts", "balances"), [((3, 3, 3), False), ((4, 4, 4), True)])
def test_a_split_of_many_targets_keeps_its_order(counts: tuple[int, ...], balances: bool) -> None:
    changed = [splits_of(seed, *counts).balanced() != splits_of(seed, *counts) for seed in range(9)]
    assert any(changed) is balances
