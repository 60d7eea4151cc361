import pytest

from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature, split_of


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_splits_are_disjoint_and_follow_the_hash(name: str) -> None:
    splits = load_miniature(name, 0).splits
    for split in ("train", "search", "sealed"):
        examples = getattr(splits, split)
        assert len(examples) == 512
        assert {split_of(e.input) for e in examples} == {split}


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_the_seed_decides_items_and_order(name: str) -> None:
    first, again, other = (load_miniature(name, seed).splits.search for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_a_gold_echo_scores_one_and_an_empty_answer_nothing(name: str) -> None:
    task = load_miniature(name, 0)
    examples = task.splits.sealed
    assert task.metric.corpus([e.target for e in examples], examples).score == pytest.approx(1.0)
    assert task.metric.corpus([""] * len(examples), examples).score == 0.0


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_more_training_examples_change_no_other_split(name: str) -> None:
    usual, large = load_miniature(name, 0).splits, load_miniature(name, 0, 2000).splits
    assert len({e.input for e in large.train}) == 2000
    assert {e.id for e in usual.train} < {e.id for e in large.train}
    assert (usual.search, usual.sealed) == (large.search, large.sealed)
