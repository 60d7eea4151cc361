"""Runs by a command of this machine, each of which is waited for."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilobit.cluster.launchers.launcher import Launched, Plan, Sweeps, run_here


@dataclass(frozen=True)
class Local:
    """Starts `kilobit run` with absolute paths, so that it may run in any folder.

    Attributes:
        execute: runs a command of ours, given by the words after `kilobit`, and returns its exit
            status.
        options: further options of each run.
    """

    execute: Callable[[Sequence[str]], int]
    options: tuple[str, ...] = ()

    def plan(self, sweeps: Sweeps, profile: Path | None = None) -> Plan:
        """Return the runs of sweep files; no settings belong to this machine, so no profile."""
        assert profile is None, profile
        return Plan(tuple(run_here(*each, sweeps.overrides) for each in sweeps.load()))

    def render(self, plan: Plan) -> str:
        """Return one command line for each run."""
        return "".join(f"{shlex.join([*run.command, *self.options])}\n" for run in plan.runs)

    def submit(self, plan: Plan) -> Launched:
        """Run one after the other and return the exit status of each."""
        statuses = [self.execute([*run.command[1:], *self.options]) for run in plan.runs]
        return Launched(tuple(map(str, statuses)), status=max(statuses))
