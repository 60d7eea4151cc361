"""Full evaluation: every candidate goes straight to the last rung and is never stopped early."""

from search.schedulers.scheduler import RungRule


class Full(RungRule):
    """Baseline: every candidate goes straight to the last rung; affordable for a small space."""

    def __init__(self, *, num_rungs: int, eta: int) -> None:
        super().__init__(num_rungs=num_rungs, eta=eta)
        self.first_rung = num_rungs - 1
