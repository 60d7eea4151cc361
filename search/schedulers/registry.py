"""The scheduler that a sweep file asks for."""

from typing import Annotated, Literal

from pydantic import Field

from kilobit.search.rungs import RungConfig
from kilobit.search.schedulers.asha import Asha, Full, MultiObjectiveAsha
from kilobit.search.schedulers.bits_aware import BitsAware
from kilobit.search.schedulers.racing import RacingConfig
from kilobit.search.schedulers.scheduler import Scheduler
from kilobit.search.settings import Config


class SchedulerConfig(Config):
    """The rule that promotes or stops a candidate after a rung."""

    kind: Annotated[
        Literal["bits_aware", "asha", "multi_objective", "full"],
        Field(
            description="promotes, for bits_aware: a candidate while it can still improve the "
            "front at its length; asha: the best by score; multi_objective: the best by "
            "non-dominated rank of bits and score; full: every candidate, straight to the last rung"
        ),
    ] = "bits_aware"
    racing: Annotated[
        RacingConfig, Field(description="for bits_aware: stop scoring within a rung")
    ] = RacingConfig()


def make_scheduler(config: SchedulerConfig, rungs: RungConfig) -> Scheduler:
    """Return the scheduler of a sweep."""
    shape = {"num_rungs": rungs.count, "eta": rungs.eta}
    if config.kind == "bits_aware":
        sizes = [rung.num_examples for rung in rungs.ladder()]
        return BitsAware(**shape, sizes=sizes)
    kinds = {"asha": Asha, "multi_objective": MultiObjectiveAsha, "full": Full}
    return kinds[config.kind](**shape)
