"""Full evaluation: every candidate goes to the last rung at once and is stopped by nobody."""

from search.schedulers.scheduler import RungRule


class Full(RungRule):
    """What others are measured against, and what a small space can afford."""

    def __init__(self, *, num_rungs: int, eta: int) -> None:
        super().__init__(num_rungs=num_rungs, eta=eta)
        self.first_rung = num_rungs - 1
