"""A local model as the judge."""

from pathlib import Path
from typing import Any

import pytest
import torch

from kilobit.evaluators.judges.judges import ModelJudge
from kilobit.evaluators.judges.model_judges import LocalJudge, log_probabilities
from kilobit.evaluators.judges.preference import Pair, Question, judge_pairs, summarise
from kilobit.evaluators.model.base_model import load
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import ARCHITECTURES

TEMPLATE = "{input}\nA {first}\nB {second}\nBest:"


def settings(folder: Path, **changes: Any) -> ModelJudge:
    values = {"kind": "model", "model": {"path": str(folder)}, "template": TEMPLATE} | changes
    return ModelJudge.model_validate(values, strict=False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_log_probabilities_are_those_of_the_whole_text(
    model_folders: dict[str, Path], architecture: str
) -> None:
    config = BaseModelConfig.model_validate({"regime": "r", "path": model_folders[architecture]})
    frozen = load(config, Path())
    ids = frozen.tokenizer("the dog and the cat")["input_ids"]
    labels = [[5, 6], [7, 5]]
    found = log_probabilities(frozen, ids, labels)
    for label, value in zip(labels, found, strict=True):
        whole = torch.tensor([[*ids, *label]])
        expected = 0.0
        with torch.no_grad():
            chances = frozen.model(whole).logits.double().log_softmax(-1)
        for position in range(len(ids), whole.shape[1]):
            expected += float(chances[0, position - 1, whole[0, position]])
        assert value == pytest.approx(expected, abs=1e-4)


def test_the_likelier_label_is_the_verdict(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    chances = {"x": [-1.0, -1.5], "y": [-2.0, -1.9]}

    def said(frozen: Any, ids: list[int], labels: Any) -> list[float]:
        text = frozen.tokenizer.decode(ids)
        return chances["x" if "A x" in text else "y"]

    monkeypatch.setattr("kilobit.evaluators.judges.model_judges.log_probabilities", said)
    for margin, outcome in ((0.0, "win"), (0.2, "tie"), (0.6, "tie")):
        judge = LocalJudge(settings(model_folders["llama"], tie_margin=margin), Path())
        (row,) = judge_pairs([Pair("1", "q", "x", "y")], judge)
        assert row.outcome == outcome


def test_a_model_judges_both_orders(model_folders: dict[str, Path]) -> None:
    judge = LocalJudge(settings(model_folders["llama"]), Path())
    pairs = [Pair(str(i), f"What is {i}?", f"{i}", f"{i} apples") for i in range(4)]
    rows = judge_pairs(pairs, judge)
    summary = summarise(rows)
    assert summary.num_twice == 4
    assert summary.failed == 0
    assert judge_pairs(pairs, judge) == rows


def test_a_question_that_is_too_long_is_a_row_with_the_reason(
    model_folders: dict[str, Path],
) -> None:
    pairs = [Pair("long", "the dog " * 300, "x", "y"), Pair("short", "q", "x", "y")]
    for changes in ({}, {"read": "text", "max_new_tokens": 4}):
        judge = LocalJudge(settings(model_folders["llama"], **changes), Path())
        long, short = judge.verdicts([Question(p.input, p.one, p.two) for p in pairs])
        assert long.position is None
        assert long.reason is not None
        assert "the judge's context holds 256" in long.reason
        assert "context" not in (short.reason or "")


def test_a_written_verdict_is_read_or_is_a_row_with_the_reason(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = LocalJudge(settings(model_folders["gpt2"], read="text"), Path())
    (verdict,) = judge.verdicts([Question("q", "x", "y")])
    assert verdict.position is None
    assert (verdict.reason or "").startswith("the judge gave no verdict")
    from kilobit.evaluators.judges import model_judges
    from kilobit.evaluators.model.generate import Generated

    monkeypatch.setattr(model_judges, "generate", lambda *_, **__: Generated([" B\n"], 1, 1))
    assert judge.verdicts([Question("q", "x", "y")])[0].position == "second"


def test_labels_that_cannot_be_compared_are_refused(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    for labels, message in [
        (("A", "AB"), "have 1 and 2 tokens"),
        (("A", "A"), "are the same tokens"),
    ]:
        with pytest.raises(ValueError, match=message):
            LocalJudge(settings(model_folders["llama"], labels=labels), Path())
    with pytest.raises(ValueError, match="has no chat template"):
        LocalJudge(settings(model_folders["llama"], chat=True), Path())
    with pytest.raises(ValueError, match="judge judge: can't be loaded"):
        LocalJudge(settings(tmp_path / "absent"), Path())
    with pytest.raises(ValueError, match="`tie_margin` has no effect with `read: text`"):
        settings(Path("absent"), read="text", tie_margin=1.0)
