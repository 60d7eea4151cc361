"""Launchers: places where the runs of sweep files start, and what all of them have in common.

A launcher plans, renders and submits. `Local`, `Slurm` and `Kubernetes` make the same runs of the
same sweeps and start each by `PlannedRun.command`; what follows it, and the text around, differ.
Before `submit` nothing is written or started. It launches the whole plan, or raises `InputError`.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeVar

from pydantic import ValidationError

from kilobit.cluster.requests import KubernetesRequest, SlurmRequest
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.ledger.storage import Place
from kilobit.search.config_file import load_config
from kilobit.search.settings import Config, InputError

Settings = TypeVar("Settings", bound=Config)


@dataclass(frozen=True)
class Sweeps:
    """Sweep files as a command line changes them.

    Attributes:
        files: the files.
        overrides: `key=value` words for all of them.
        out: run folder, or the folder of the run folders of several; None: as in the files.
    """

    files: tuple[Path, ...]
    overrides: tuple[str, ...] = ()
    out: Place | None = None

    @classmethod
    def of(cls, words: Sequence[str], out: Place | None = None) -> Self:
        """Sort words of a command line; one with `=` is an override unless it names a file.

        Raises:
            InputError: if no word is a file, or a word is more than one line.
        """
        odd = next((word for word in (*words, str(out)) if not word.isprintable()), None)
        if odd is not None:
            raise InputError(f"{odd!r}: no line breaks and control characters are allowed here")
        overrides = tuple(word for word in words if "=" in word and not Path(word).is_file())
        files = tuple(Path(word) for word in words if word not in overrides)
        if not files:
            raise InputError("no sweep file is given")
        return cls(files, overrides, out)

    def load(self) -> Iterator[tuple[Path, Sweep, Place | None]]:
        """Yield each file, its sweep, and the run folder that `out` names for it.

        Raises:
            InputError: for an unreadable file, or an unknown, missing or unfit value.
        """
        for file in self.files:
            sweep = load_sweep(file, self.overrides)
            out = self.out
            yield file, sweep, out / sweep.name if out and len(self.files) > 1 else out


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan, with paths as they are where it runs.

    Attributes:
        name: its name there.
        sweep: the sweep file.
        overrides: `key=value` words.
        out: the run folder.
    """

    name: str
    sweep: str
    overrides: tuple[str, ...]
    out: str

    @property
    def command(self) -> tuple[str, ...]:
        """Return the words that start the run."""
        return ("kilobit", "run", self.sweep, *self.overrides, "--out", self.out)


def run_here(file: Path, sweep: Sweep, out: Place | None, overrides: tuple[str, ...]) -> PlannedRun:
    """Return a run on one machine with this machine's absolute paths."""
    path = (out or sweep.out or Path("runs") / sweep.name).absolute()
    return PlannedRun(sweep.name, str(file.absolute()), overrides, str(path))


@dataclass(frozen=True)
class Plan:
    """The runs that a launcher starts together.

    Raises:
        InputError: if two of them have the same name or run folder.
    """

    runs: tuple[PlannedRun, ...]

    def __post_init__(self) -> None:
        for field, said in (("name", "are called"), ("out", "have the run folder")):
            found = [getattr(run, field) for run in self.runs]
            twice = next((value for value in found if found.count(value) > 1), None)
            if twice is not None:
                raise InputError(f"two of these sweeps {said} {twice!r}: give each its own {field}")


@dataclass(frozen=True)
class Launched:
    """A plan that was submitted.

    Attributes:
        handles: job ids, names of objects, or the exit status of each run that has ended here.
        text: how to follow the runs, for the terminal.
        status: exit status of the command.
    """

    handles: tuple[str, ...]
    text: str = ""
    status: int = 0


PlanType = TypeVar("PlanType", bound=Plan)


class Launcher(Protocol[PlanType]):
    """A place where runs start."""

    def plan(self, sweeps: Sweeps, profile: Path | None) -> PlanType:
        """Return the runs of sweep files, with the settings of a profile.

        Raises:
            InputError: naming the file or field, if they can't be launched there.
        """

    def render(self, plan: PlanType) -> str:
        """Return the script, manifest or command lines that `submit` passes on."""

    def submit(self, plan: PlanType) -> Launched:
        """Launch all runs of a plan, or none.

        Raises:
            InputError: if the place can't be reached or refuses.
        """


def launch(launcher: Launcher[PlanType], request: SlurmRequest | KubernetesRequest) -> int:
    """Print the text of a request, or submit it, and return the exit status."""
    plan = launcher.plan(Sweeps.of(request.words, request.out), request.profile)
    if request.only_print:
        sys.stdout.write(launcher.render(plan))
        return 0
    launched = launcher.submit(plan)
    sys.stdout.write(launched.text)
    return launched.status


def find_program(name: str, remedy: str) -> str:
    """Return the path of a program that submits.

    Raises:
        InputError: with the remedy, if it is not installed.
    """
    found = shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not on this machine: {remedy}")
    return found


def ask(
    words: Sequence[str],
    text: str = "",
    timeout_s: float = 60.0,
    env: Mapping[str, str] | None = None,
) -> str:
    """Return the output of a program that gets `text`, and `env` in place of our environment.

    Raises:
        InputError: with its error message, if it fails.
    """
    name = Path(words[0]).name
    try:
        done = subprocess.run(  # noqa: S603 - words, no shell
            words,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=env,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{name} does not answer: {error}") from error
    if done.returncode:
        said = [line for line in done.stderr.split("\n") if line.strip()]
        reason = said[-1].removeprefix(f"{name}: error: ") if said else f"status {done.returncode}"
        raise InputError(f"{name} says: {reason}")
    return done.stdout


def with_profile(section: Settings | None, profile: Path | None, model: type[Settings]) -> Settings:
    """Return the settings of `profile`, overridden by every field that `section` sets.

    A field counts as set if the sweep file or the command line names it, even with its default. A
    mapping or a list is replaced as a whole.

    Args:
        section: the launcher's part of a sweep file, None if it has none.
        profile: a YAML file with the same keys, None if there is none.
        model: the type of both.

    Raises:
        InputError: naming file and line of an invalid value in the profile, or the conflict
            between both.
    """
    if profile is None:
        return model() if section is None else section
    base = load_config(profile, model)
    if section is None:
        return base
    values = {name: getattr(base, name) for name in base.model_fields_set}
    values |= {name: getattr(section, name) for name in section.model_fields_set}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"{profile} and the sweep file together: {message}") from error


@dataclass(frozen=True)
class Local:
    """This machine, which waits for each run; absolute paths let it run in any folder.

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
