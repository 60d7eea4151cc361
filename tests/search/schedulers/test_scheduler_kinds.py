import pytest
from pydantic import ValidationError

from kilobit.search.candidate import RungConfig
from kilobit.search.schedulers.asha import Asha, Full, MultiObjectiveAsha
from kilobit.search.schedulers.bits_aware import BitsAware
from kilobit.search.schedulers.scheduler import Result, Scheduler
from kilobit.search.search import SchedulerConfig, make_scheduler

RUNGS = RungConfig(examples=6, count=3, eta=4)


def made(kind: str) -> Scheduler:
    return make_scheduler(SchedulerConfig.model_validate({"kind": kind}), RUNGS)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("bits_aware", BitsAware),
        ("asha", Asha),
        ("multi_objective", MultiObjectiveAsha),
        ("full", Full),
    ],
)
def test_a_kind_is_its_class(kind: str, expected: type) -> None:
    assert type(made(kind)) is expected


def test_bits_count_where_nothing_is_said() -> None:
    assert type(make_scheduler(SchedulerConfig(), RUNGS)) is BitsAware


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValidationError, match="'bits_aware', 'asha', 'multi_objective' or 'full'"):
        SchedulerConfig.model_validate({"kind": "hyperband"})


def test_one_in_eta_is_promoted_up_to_the_last_rung_of_the_ladder() -> None:
    scheduler = made("asha")
    # Each is worse than all before.
    actions = [scheduler.report(Result(f"c{i}", "m", 0, (8 - i) / 8, 8)).action for i in range(8)]
    assert actions == ["promote", *["stop"] * 7]
    better = scheduler.report(Result("better", "m", 0, 0.95, 8))
    assert better.action == "promote"
    assert scheduler.report(Result("better", "m", 1, 0.1, 8)).action == "promote"
    assert scheduler.report(Result("better", "m", 2, 0.1, 8)).action == "finish"


def test_the_bounds_of_incumbents_come_from_the_examples_of_the_ladder() -> None:
    scheduler = made("bits_aware")
    scheduler.report(Result("a", "m", 2, 0.9, 8))
    (incumbent,) = scheduler.incumbents("m", 2, left=0)
    # 6 x 4 x 4 examples, and the largest variance of a score is a quarter.
    assert incumbent.score == pytest.approx(0.9 - 0.5 / 96**0.5)
