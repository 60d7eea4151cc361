"""A bound on the length: what is longer is not scored, and of an adapter what fits is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.candidate import Candidate, Prompt, Rung
from kilobit.search.records import RungRecord
from kilobit.search.space import RateSearch
from tests.support.driver.candidates import candidate, lora
from tests.support.rows import rows_of

FIRST, SECOND = Rung(0, 4, 2), Rung(1, 8, 4)
STRONG: dict[str, Any] = {"rank": 2, "target_modules": ("lm_head",), "learning_rate": 0.3}
Make = Callable[..., RungEvaluator]


def both(evaluator: RungEvaluator, one: Candidate) -> list[RungRecord]:
    return [evaluator.run_rung(one.canonical(), rung).record for rung in (FIRST, SECOND)]


def rows(run: Path) -> dict[str, dict[str, Any]]:
    found = rows_of(Ledger(run / "ledger"), "rungs")
    return {row["candidate"]: row for row in found if row["rung"] == 1}


def test_a_program_that_is_longer_is_not_scored_and_one_as_long_is(
    make_evaluator: Make, tmp_path: Path
) -> None:
    bare = make_evaluator("free").run_rung(candidate().canonical(), SECOND).record.program_bits
    one = candidate(prompt=Prompt(instruction="Say the number alone."))
    bits = make_evaluator("free").run_rung(one.canonical(), SECOND).record.program_bits
    assert bare is not None
    assert bits is not None
    fits = both(make_evaluator("fits", max_bits=bits), one)
    assert [(r.error, r.score is None, r.is_too_long) for r in fits] == [(None, False, False)] * 2
    long = both(make_evaluator("long", max_bits=bits - 1), one)
    assert [(r.error, r.score, r.is_too_long) for r in long] == [(None, None, True)] * 2
    assert [(r.num_examples, r.num_generated, r.program) for r in long] == [(0, None, None)] * 2
    assert {r.program_bits for r in long} == {bits}
    assert not rows_of(Ledger(tmp_path / "long" / "ledger"), "predictions")
    # Net bits count from the bare question.
    families = {"prompt": {"candidates": 1}}
    for name, most, too_long in (("a", bits - bare, False), ("b", bits - bare - 1, True)):
        net = make_evaluator(name, max_bits=most, length="net", families=families)
        assert both(net, one)[1].is_too_long is too_long
    payload = make_evaluator("payload", max_bits=0, length="payload")
    assert both(payload, one)[1].is_too_long
    assert both(payload, candidate())[1].score is not None


@pytest.mark.parametrize("alone", [False, True])
def test_of_an_adapter_the_coarser_codings_that_fit_are_scored(
    make_evaluator: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    if alone:
        monkeypatch.setattr("kilobit.cluster.worker.resident.Resident.adapt", lambda *_: False)
    one = lora(**STRONG)
    finest = both(make_evaluator("free"), one)[1].program_bits
    free = rows(tmp_path / "free")
    lengths = sorted(row["program_bits"] for row in free.values())
    assert lengths[-1] == finest
    most = lengths[len(lengths) // 2]
    first, last = both(make_evaluator("bound", max_bits=most), one)
    # Before the last rung it is scored as it is, because a coarser coding may be short enough.
    assert first.score is not None
    assert (last.is_too_long, last.program_bits, last.train_steps) == (True, finest, 4)
    bound = rows(tmp_path / "bound")
    scored = {name for name, row in bound.items() if row["score"] is not None}
    assert scored == {name for name, row in free.items() if row["program_bits"] <= most}
    assert set(bound) == {*scored, one.id}
    for name in scored:
        assert (bound[name]["program"], bound[name]["score"]) == (
            free[name]["program"],
            free[name]["score"],
        )


def test_an_adapter_of_which_no_coding_fits_is_left_out_at_its_first_rung(
    make_evaluator: Make, tmp_path: Path
) -> None:
    bare = make_evaluator("free").run_rung(candidate().canonical(), SECOND).record.program_bits
    assert bare is not None
    evaluator = make_evaluator("bound", max_bits=bare)
    record = evaluator.run_rung(lora(**STRONG).canonical(), FIRST).record
    assert (record.is_too_long, record.train_steps) == (True, 2)
    assert len(RateSearch().variants(lora(**STRONG))) > 1


def test_a_bound_below_the_bare_question_is_refused_with_its_length(make_evaluator: Make) -> None:
    bare = make_evaluator("free").run_rung(candidate().canonical(), SECOND).record.program_bits
    assert bare is not None
    with pytest.raises(
        ValueError, match=rf"max_bits: {bare} or more is needed, .*found {bare - 1}"
    ):
        make_evaluator("less", max_bits=bare - 1)
    make_evaluator("net", max_bits=0, length="net", families={"prompt": {"candidates": 1}})
