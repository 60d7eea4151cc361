"""The sweep file as a whole: what its parts ask of each other, and what may change in a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kilobit import launch
from kilobit.cluster.sweep.sweep import Sweep, change_budget, load_sweep
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.settings import InputError

Write = Callable[..., Path]
MODELS = [{"regime": "a", "path": "a"}, {"regime": "b", "hub": "org/b"}]
FAMILIES = {
    "prompt": {"candidates": 5},
    "ia3": {"candidates": 2, "target_modules": [["q_proj"]]},
}


def sweep(**changes: Any) -> Sweep:
    """Return a sweep as its file says, of which no file is read."""
    content = {
        "name": "small",
        "task": {"kind": "miniature", "name": "numbers"},
        "base_models": MODELS,
        "families": FAMILIES,
        **changes,
    }
    return Sweep.model_validate_json(json.dumps(content), strict=True)


def test_a_kind_is_named_once(write_sweep: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep(trackers=[{"kind": "mlflow"}, {"kind": "mlflow", "experiment": "other"}])
    assert launch.main(["run", str(path), "--dry-run"]) == 2
    assert "trackers: two have kind 'mlflow': give each kind once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("examples", "most", "expected"),
    [(16, 64, 16), (64, 64, 64), (100, 64, 50), (48, 32, 24), (1, 64, 1), (7, 8, 7), (6, 1, 1)],
)
def test_a_batch_is_the_largest_divisor_of_the_first_rung_that_workers_take(
    examples: int, most: int, expected: int
) -> None:
    rungs = {"examples": examples}
    assert sweep(rungs=rungs, workers={"batch_size": most}).batch_size == expected


def test_a_first_rung_without_a_usable_divisor_is_refused() -> None:
    message = "rungs.examples 67 has no divisor between 32 and workers.batch_size 64"
    with pytest.raises(ValidationError, match=message):
        sweep(rungs={"examples": 67})
    # 2 x 31: half of the most is enough.
    assert sweep(rungs={"examples": 62}, workers={"batch_size": 61}).batch_size == 31


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({}, 14),
        ({"budget": {"candidates": 3}}, 3),
        ({"budget": {"candidates": 99}}, 14),
        ({"proposer": {"kind": "grid"}}, 14),
        ({"proposer": {"kind": "evolution"}, "budget": {"candidates": 99}}, 99),
        ({"proposer": {"kind": "tpe"}, "budget": {"seconds": 60.0}}, None),
    ],
)
def test_the_most_candidates_are_those_listed_or_those_of_the_budget(
    changes: dict[str, Any], most: int | None
) -> None:
    assert sweep(**changes).most_candidates == most


def test_two_models_of_one_name_are_refused() -> None:
    twice = [MODELS[0], {"regime": "b", "name": "a", "path": "b"}]
    with pytest.raises(ValidationError, match="two base models are called 'a': give each a `name`"):
        sweep(base_models=twice)
    apart = [MODELS[0], {"regime": "a", "name": "other", "path": "b"}]
    assert [m.label for m in sweep(base_models=apart).base_models] == ["a", "other"]


def test_a_proposer_is_checked_against_budget_and_families() -> None:
    with pytest.raises(ValidationError, match="nsga2 never ends by itself"):
        sweep(proposer={"kind": "nsga2"})
    for budget in ({"candidates": 4}, {"seconds": 4.0}):
        assert sweep(proposer={"kind": "nsga2"}, budget=budget).proposer.kind == "nsga2"


@pytest.mark.parametrize("field", ["cache", "out"])
def test_folders_of_a_run_may_be_on_a_store_and_come_back_as_they_were(field: str) -> None:
    stored = sweep(**{field: "s3://bucket/folder"})
    assert getattr(stored, field) == StoredPath("s3:", "bucket", "folder")
    assert Sweep.model_validate_json(stored.model_dump_json(), strict=True) == stored
    with pytest.raises(ValidationError, match="http:// is not an object store"):
        sweep(**{field: "http://host/folder"})
    with pytest.raises(ValidationError, match="Input is not a valid path"):
        sweep(**{field: 3})


def test_a_cache_starts_at_the_folder_of_the_sweep_file(write_sweep: Write) -> None:
    path = write_sweep(cache="outputs")
    assert load_sweep(path).cache == path.parent / "outputs"
    assert load_sweep(path, ["cache=/elsewhere"]).cache == Path("/elsewhere")
    assert load_sweep(path, ["cache=s3://bucket/x"]).cache == StoredPath("s3:", "bucket", "x")
    assert load_sweep(path, ["cache=null"]).cache is None


def test_a_sweep_file_that_can_not_be_used_is_an_input_error(write_sweep: Write) -> None:
    path = write_sweep(seed="x")
    with pytest.raises(
        InputError, match=r"sweep\.yaml, line \d+: seed: Input should be a valid in"
    ):
        load_sweep(path)
    assert load_sweep(path, ["seed=3"]).seed == 3


def test_of_a_run_the_budget_may_change_and_nothing_else() -> None:
    old = sweep(budget={"candidates": 3}, cache="s3://bucket/x")
    new = change_budget(old, ["budget.candidates=9", "budget.seconds=60"])
    assert (new.budget.candidates, new.budget.seconds) == (9, 60.0)
    assert new.model_copy(update={"budget": old.budget}) == old
    assert change_budget(old, ["budget.candidates=null"]).budget.candidates is None
    for words in ("seed=3", "budget.hours=1", "budget=1", "budget.more.x=1", "name=other"):
        with pytest.raises(InputError, match=r"may change: budget\.candidates, budget\.seconds$"):
            change_budget(old, [words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("budget.candidates=0", "command line: budget.candidates: .* equal to 1 .found 0.$"),
        ("budget.seconds=soon", "command line: budget.seconds: .* valid number .found 'soon'.$"),
        ("budget.seconds", "an override is written key=value"),
    ],
)
def test_a_budget_that_does_not_fit_is_refused(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        change_budget(sweep(), [words])


def test_a_search_that_never_ends_keeps_its_budget() -> None:
    old = sweep(proposer={"kind": "tpe"}, budget={"candidates": 3})
    with pytest.raises(InputError, match="tpe never ends by itself"):
        change_budget(old, ["budget.candidates=null"])


def test_net_bits_are_shown_and_program_bits_are_minimised() -> None:
    lengths = ("program", "payload", "net")
    minimised = [sweep(length=length).minimised for length in lengths]
    assert minimised == ["program", "payload", "program"]
