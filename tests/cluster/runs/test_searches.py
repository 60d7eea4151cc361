"""The bound of a procedure through the command line, with programs that need no model."""

import pytest

from kilobit.cluster.runs.fronts import RunFront
from tests.support.cli.sealed import Make, Say, add
from tests.support.rows import rows_of


def test_a_procedure_is_bounded_from_runs_that_differ_in_seed_alone(
    make: Make, say: Say, ran: list[str]
) -> None:
    runs = [make(f"s{seed}", seed=seed) for seed in range(3)]
    # The second reaches 0.7 with a shorter program, which fails on the sealed split.
    add(runs[1], "raw", 17, 5, "sealed and sys.exit(3)")
    shown = say("certify", "--procedure", *(run.path for run in runs), status=1)
    assert "the procedure: 3 searches, seeds 0, 1, 2; mean score on new data" in shown
    raw, tuned = shown.split("mean score on new data")[1].split("count, tuned")
    assert "for score ≥ 0.5: 0.533, between " in raw
    assert "(runs: 0.800, 0.000, 0.800; 10040 to 10720 bits; 3 of 3 reach it" in raw
    # The same program on the same examples in each run: as wide as one test of 100 examples.
    low, high = 0.85 - 2.6 * 0.357 / 10, 0.85 + 2.6 * 0.357 / 10
    found = [float(word) for word in tuned.split("between ")[1].split(" (")[0].split(" and ")]
    assert found == pytest.approx([low, high], abs=0.015)
    assert "these 4 bounds hold at once with probability 0.95" in shown
    assert "the runs learn from examples that they share" in shown


def test_a_target_that_no_run_reaches_has_the_best_program(make: Make, say: Say) -> None:
    runs = [make(f"s{seed}", seed=seed, targets=[0.9], metric="bleu") for seed in range(3)]
    shown = say("certify", "--procedure", *(run.path for run in runs))
    assert "0 of 3 reach it on the search split" in shown
    score = next(
        p.certificate.score for p in RunFront(runs[0]).points if p.certificate and p.score == 0.85
    )
    assert f"for score ≥ 0.9: {score:.3f}, between" in shown


def test_a_procedure_needs_runs_of_one_search_and_enough_of_them(make: Make, say: Say) -> None:
    runs = [make(f"s{seed}", seed=seed) for seed in range(2)]
    other = make("s2", seed=2, budget={"candidates": 9})
    names = [run.path for run in (*runs, other)]
    refused = say("certify", "--procedure", *names[:2], status=2)
    assert "--procedure needs 3 runs or more, each with its own seed (found 2): fewer" in refused
    refused = say("certify", "--procedure", *names, status=2)
    assert f"{names[0]} and {other.path} are not runs of one search: budget differs" in refused
    assert all(not rows_of(run.ledger, "openings") for run in runs)
