"""What evaluators ask and what they make of the answers, with models that are only functions."""

from kilobit.evaluators.battery.battery import (
    Evaluator,
    PerplexityEvaluator,
    TaskEvaluator,
    miniature_texts,
    texts_in,
)
from kilobit.evaluators.battery.games import GameEvaluator
from kilobit.evaluators.battery.safety import SafetyEvaluator, own_requests
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from tests.support.judges.saying import Saying, mean


def test_a_task_is_asked_on_its_search_split_alone() -> None:
    task = load_miniature("numbers", 0)
    right = {task.ask(e.input): f" {e.target}\nQ:" for e in task.splits.search}
    rows = TaskEvaluator(task, 20).evaluate(Saying(right.__getitem__))
    assert [row.example for row in rows] == [e.id for e in task.splits.search[:20]]
    assert mean(rows) == 1.0
    assert mean(TaskEvaluator(task, 20).evaluate(Saying(lambda _: " none\n"))) == 0.0


def test_texts_are_held_out_and_counted_in_bits_a_byte() -> None:
    rows = PerplexityEvaluator(["abc", "äö"]).evaluate(Saying(str))
    assert [row.value for row in rows] == [8.0, 8.0]
    texts = miniature_texts(5)
    assert len(set(texts)) == 5
    for name in ("numbers", "translation", "instructions"):
        task = load_miniature(name, 0)
        seen = [*task.splits.train, *task.splits.search[:256], *task.splits.sealed]
        assert not any(task.ask(example.input) in text for example in seen for text in texts)
    assert texts_in("one\ntwo\r\n\r\nthree\n\n\n  \n\nfour", 2) == ["one\ntwo", "three"]


def test_every_class_fits_the_slot() -> None:
    slots: list[Evaluator] = [
        TaskEvaluator(load_miniature("numbers", 0), 2),
        PerplexityEvaluator(["a"]),
        SafetyEvaluator(own_requests()),
        GameEvaluator(),
    ]
    for slot in slots:
        rows = slot.evaluate(Saying(lambda _: "1"))
        assert len({(row.item, row.example) for row in rows}) == len(rows) > 0
