"""kilobit in Python: begin a run or open one, and work with its results.

The same functions as behind the command line. Everything that can't be done raises an exception
with the message that the command line prints, mostly `InputError`; nothing exits the process.
Progress is shown on stderr, in a notebook in one output that is rewritten. Reading needs neither
torch nor Ray.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import PrivateAttr
from rich.console import Console

from kilobit.cluster.console import Notebook, stderr_console
from kilobit.cluster.fleet.remote_driver import check_inside
from kilobit.cluster.runs.folder import RunFolder, continue_run, create_run, holds_run, reopen_run
from kilobit.cluster.runs.folder import open_run as open_folder
from kilobit.cluster.runs.fronts import (
    Front,
    RunFront,
    draw,
    num_lost,
    points_from,
    print_left_out,
    progress_text,
)
from kilobit.cluster.sweep.sweep import Sweep as Settings
from kilobit.cluster.sweep.sweep import load_sweep, make_sweep
from kilobit.evaluators.ledger.parts import TABLES
from kilobit.evaluators.ledger.storage import Place, place, write_whole
from kilobit.search.front.points import FrontPoint
from kilobit.search.programs.program import Program
from kilobit.search.programs.script import readable_script
from kilobit.search.settings import InputError, Ruler

if TYPE_CHECKING:
    from kilobit.cluster.driver.check import Plan
    from kilobit.cluster.runs.progress import Progress
    from kilobit.evaluators.proof.export import LoadedProgram

Overrides = str | Sequence[str] | Mapping[str, Any]
_SHOWN = {
    "model": "base model", "program_bits": "program", "payload_bits": "payload",
    "net_bits": "net", "score": "score",
    "family": "family", "verified": "verified", "certified": "certified", "candidate": "candidate",
}  # fmt: skip
_TIMEOUT_S = 3600


class Sweep(Settings):
    """The settings of a search, as in a sweep file; relative paths start at the current folder.

    Raises:
        InputError: naming field, value and what is allowed, for an unknown, missing or unfit one.
    """

    _file: Path = PrivateAttr(default_factory=lambda: Path.cwd() / "made in Python")

    def __init__(self, /, **settings: Any) -> None:
        found = make_sweep(settings, Path.cwd())
        super().__init__(**{name: getattr(found, name) for name in Settings.model_fields})

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], overrides: Overrides = ()) -> "Sweep":
        """Return the sweep of a file, in which relative paths start at the file's folder.

        Args:
            path: the sweep file.
            overrides: changes, as `run` takes them.

        Raises:
            InputError: for an unreadable file, broken YAML, or an unknown, missing or unfit value.
        """
        settings = load_sweep(Path(path), _words(overrides))
        made = cls(**settings.model_dump(mode="json"))
        made._file = Path(path).absolute()
        return made

    @property
    def file(self) -> Path:
        """Return the file that the sweep was read from; its folder is where relative paths start.

        For a sweep made in Python only the folder exists.
        """
        return self._file


@dataclass(frozen=True, repr=False)
class RunProgram(Program):
    """A program of a run: its two files, and their length in bits.

    Attributes:
        folder: the folder with the files, ready to run; None if there is none.
    """

    folder: Place | None = None

    @property
    def readable(self) -> str:
        """Return the source of program.py before it was shortened."""
        return readable_script(self.recipe)

    def __repr__(self) -> str:
        where = "only in the ledger" if self.folder is None else str(self.folder)
        return (
            f"<program of {self.program_bits} bits, {self.payload_bits} of them payload: {where}>"
        )


class Run:
    """A run on disk or in an object store. Each call reads what the run holds by then.

    Attributes:
        path: its folder.
    """

    def __init__(self, path: Place) -> None:
        self.path = open_folder(path).path

    @property
    def sweep(self) -> Settings:
        """Return the settings of the search, with the latest budget."""
        return open_folder(self.path).sweep

    def front(self, length: Ruler | None = None) -> list[FrontPoint]:
        """Return the programs on the Pareto front of each base model.

        Args:
            length: compare by `program`, `payload` or `net` bits; by default as the sweep says.

        Raises:
            InputError: if the run can't be read.
        """
        run = open_folder(self.path)
        return Front(points_from(run.path.name, run.ledger.read, run.sweep, length)).on_front

    def table(self, name: str | None = None, *, arrow: bool = False) -> Any:
        """Return a table as a pandas DataFrame.

        Args:
            name: a table of the ledger; by default a row for each program that completed the last
                rung, with its place on the front and its bounds on the sealed split.
            arrow: return a `pyarrow.Table` instead.

        Raises:
            InputError: for an unknown table, or if the run can't be read.
        """
        run = open_folder(self.path)
        if name is None:
            found = _completed(RunFront(run))
        elif name in TABLES:
            found = run.ledger.read(name)
        else:
            raise InputError(f"table: unknown table {name!r}. Known here: {', '.join(TABLES)}.")
        return found if arrow else found.to_pandas()

    def progress(self) -> "Progress":
        """Return the progress that `kilobit status` prints, also of a run in another process.

        Raises:
            InputError: if the run can't be read.
        """
        from kilobit.cluster.cli.status import WatchedRun

        return WatchedRun(self.path).look()

    def program(self, candidate: str) -> RunProgram:
        """Return the program of a candidate that completed the last rung.

        Raises:
            InputError: if there is none.
            ValueError: naming the file, if it is damaged.
        """
        from kilobit.cluster.runs.result_sources import open_sources

        (source,), _ = open_sources([self.path])
        points = RunFront(open_folder(self.path)).points
        model = next((p.model for p in points if p.candidate == candidate), None)
        if model is None:
            raise InputError(
                f"{self.path}: no candidate {candidate!r} has completed the last rung; `table()` "
                "lists those that have"
            )
        program = source.programs([candidate])[candidate]
        if isinstance(program, ValueError):
            raise program
        folder = source.program_folder(model, candidate)
        return RunProgram(program.recipe, program.script, program.payload, folder)

    def report(self, path: str | os.PathLike[str] | None = None) -> Place:
        """Write all results as one HTML file and return its path, RUN/report.html by default.

        Raises:
            InputError: if it can't be written there, or the run can't be read.
        """
        from kilobit.cluster.cli.report import make, page_path
        from kilobit.cluster.runs.result_sources import open_sources
        from kilobit.evaluators.report.page import page

        out = page_path([self.path], None if path is None else _place("report", path))
        sources, _ = open_sources([self.path])
        write_whole(out, page(make(sources, sources[0].sweep.length, (), out)))
        return out

    def resume(
        self,
        *,
        overrides: Overrides = (),
        take_over: bool = False,
        address: str | None = None,
        log_level: str = "info",
        progress: bool = True,
    ) -> "Run":
        """Resume the search and return this run.

        Args:
            overrides: another budget, for example `{"budget.seconds": 600}`.
            take_over: resume although another process has locked the run.
            address: as for `run`.
            log_level: as for `run`.
            progress: as for `run`.

        Raises:
            Exception: as `run` does.
        """
        console = _console(shown=progress)
        words = _words(overrides)
        with reopen_run(self.path, take_over=take_over, overrides=words) as folder:
            plan = _check(folder.sweep, folder.sweep_folder, address, console)
            _search(folder, plan, console, address, log_level)
        return self

    def verify(
        self, *, timeout_s: int = _TIMEOUT_S, progress: bool = True, address: str | None = None
    ) -> Any:
        """Run the files of the front's programs again and return the table of verifications.

        Args:
            timeout_s: time limit of one program.
            progress: show the progress.
            address: a Ray cluster that runs them; this machine by default.

        Raises:
            InputError: if the run is locked, or its data or a base model has changed.
            PoolError: if the cluster can't run them.
        """
        from kilobit.cluster.cli.proofs import verify_front

        console = _console(shown=progress)
        with reopen_run(self.path) as folder:
            print_left_out(console, folder)
            front = RunFront(folder, trusting=False)
            verify_front(front, console, timeout_s, address=address)
        return self.table("verifications")

    def certify(
        self,
        *others: "Run",
        again: bool = False,
        timeout_s: int = _TIMEOUT_S,
        progress: bool = True,
        address: str | None = None,
    ) -> list[FrontPoint]:
        """Bound the scores of the front's programs on the sealed split and return the front.

        Args:
            others: runs of other seeds, to be certified together with this one.
            again: certify even if the sealed split was opened before for other programs.
            timeout_s: time limit of one program.
            progress: show the progress.
            address: a Ray cluster that runs them; this machine by default.

        Raises:
            SealedError: if the sealed split was opened before for other programs, and not `again`.
            InputError: if there is nothing to certify, or something can't be read.
        """
        from kilobit.cluster.cli.certify import certify_runs, refuse_same_seeds

        console = _console(shown=progress)
        with ExitStack() as locked:
            folders = [locked.enter_context(reopen_run(run.path)) for run in (self, *others)]
            refuse_same_seeds(folders)
            lost = next((folder.path for folder in folders if num_lost(folder)), None)
            if lost is not None:
                raise InputError(
                    f"nothing is certified: rungs of {lost} are damaged; `resume` repeats them"
                )
            fronts = [RunFront(folder) for folder in folders]
            certify_runs(fronts, console, timeout_s, again=again, address=address)
        return self.front()

    def __repr__(self) -> str:
        return f"<run {str(self.path)!r}: {self._state()}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr>{''.join(f'<td>{_cell(getattr(point, name))}</td>' for name in _SHOWN)}</tr>"
            for point in self.front()
        )
        heads = "".join(f"<th>{head}</th>" for head in _SHOWN.values())
        return (
            f"<p><b>{escape(str(self.path))}</b>: {escape(self._state())}</p>"
            f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        )

    def _state(self) -> str:
        found = self.progress()
        on_front = sum(model.front for model in found.models)
        failed = f", {found.num_failed} rungs failed" if found.num_failed else ""
        return (
            f"{progress_text(found.ended, found.most)} ended, {on_front} programs on the front, "
            f"{found.verified} verified{failed}"
        )


def run(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Settings,
    out: str | os.PathLike[str] | None = None,
    *,
    overrides: Overrides = (),
    resume: bool = False,
    take_over: bool = False,
    address: str | None = None,
    log_level: str = "info",
    progress: bool = True,
) -> Run:
    """Search as a sweep says and return the run.

    Args:
        sweep: a sweep file, its content as a dictionary, or a `Sweep`.
        out: run folder, or s3://BUCKET/FOLDER; runs/NAME by default.
        overrides: values to change: `{"budget.candidates": 20}`, or "budget.candidates=20".
        resume: resume the run in the folder if it is one of this sweep, else begin it.
        take_over: with `resume`: although another process has locked the run.
        address: an existing Ray cluster, seen from one of its machines; by default the session of
            this process if there is one, else a new one on this machine.
        log_level: lowest level of lines in the run's log: debug, info or warning.
        progress: show the progress.

    Raises:
        InputError: if the sweep, something that it names, or the folder can't be used.
        PoolError: if the workers can't be started.
        StoppedError, SupersededError, DamagedRunError, OSError: if the run had to stop; it can be
            resumed.
        KeyboardInterrupt: if it was interrupted; every finished rung is kept and it can be resumed.
    """
    if isinstance(sweep, Mapping | Settings):
        file = sweep.file if isinstance(sweep, Sweep) else Path.cwd() / "made in Python"
        data = sweep.model_dump(mode="json") if isinstance(sweep, Settings) else sweep
        settings = make_sweep(data, file.parent, _words(overrides))
    else:
        file = Path(sweep)
        settings = load_sweep(file, _words(overrides))
    where = None if out is None else _place("out", out)
    console = _console(shown=progress)
    plan = _check(settings, file.absolute().parent, address, console)
    with (
        continue_run(settings, where, take_over=take_over)
        if resume and holds_run(settings, where)
        else create_run(settings, file, where)
    ) as folder:
        _search(folder, plan, console, address, log_level)
    return Run(folder.path)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Return a run on disk or in an object store, s3://BUCKET/FOLDER.

    Raises:
        InputError: if there is no readable run.
    """
    return Run(_place("open_run", path))


def load_program(folder: str | os.PathLike[str], model: str | os.PathLike[str]) -> "LoadedProgram":
    """Return a program's model, tokenizer and prompt, without executing a file of it.

    Args:
        folder: the program's folder, RUN/programs/PROGRAM; s3://BUCKET/... too.
        model: folder of its base model.

    Raises:
        InputError: if the folder holds no valid program, the model is not the one that it belongs
            to, or it has training examples or trained weights instead of an adapter.
    """
    from kilobit.cluster.requests import wrong_input
    from kilobit.evaluators.proof import export

    with wrong_input(OSError):
        return export.load_program(_place("folder", folder), Path(model))


def _search(
    folder: RunFolder, plan: "Plan", console: Console, address: str | None, level: str
) -> None:
    """Make one attempt at a run, print what failed, and draw the front."""
    from kilobit.cluster.cli.run import attempt

    print_left_out(console, folder)
    try:
        outcome, front = attempt(folder, plan, console, address, level)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "interrupted; every finished rung is kept. Go on with: "
            f"kilobit.open_run({str(folder.path)!r}).resume()"
        ) from None
    for line in outcome.lost:
        console.print(f"lost: {line}")
    for line in outcome.uncertified:
        console.print(f"not certified: {line}")
    draw(front, folder.path / "front.png")


def _check(settings: Settings, folder: Path, address: str | None, console: Console) -> "Plan":
    """Check the sweep, its data and its models, before anything is written."""
    from kilobit.cluster.cli.run import check

    check_inside(address)
    return check(settings, folder, console, address)


def _completed(front: RunFront) -> pa.Table:
    """Return a row for each program, with the bounds on the sealed split as columns."""
    points, on_front = front.points, {id(point) for point in front.on_front}
    names = [field.name for field in fields(FrontPoint)]
    columns = {
        name: [getattr(point, name) for point in points]
        for name in names
        if name not in ("certificate", "imported")
    }
    columns["on_front"] = [id(point) in on_front for point in points]
    for name in ("score", "lower", "upper"):
        columns[f"sealed_{name}"] = [getattr(p.certificate, name, None) for p in points]
    return pa.table(columns)


def _console(*, shown: bool) -> Console:
    """Return the console of progress: a notebook's output, or stderr."""
    console = stderr_console()
    console.quiet = not shown
    return Notebook(_output()) if console.is_jupyter and shown else console


def _output() -> Callable[[str], None]:
    """Return a function that shows a text in a new output of a notebook, or rewrites it."""
    from IPython.display import display

    handles: list[Any] = []

    def show(text: str) -> None:
        content = {"text/plain": text, "text/html": f"<pre>{escape(text)}</pre>"}
        if handles:
            handles[0].update(content, raw=True)
        else:
            handles.append(display(content, raw=True, display_id=True))

    return show


def _words(overrides: Overrides) -> list[str]:
    """Return overrides as the words of the command line."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    return [overrides] if isinstance(overrides, str) else list(overrides)


def _place(argument: str, path: str | os.PathLike[str]) -> Place:
    try:
        return place(path)
    except ValueError as error:
        raise InputError(f"{argument}: {error}") from error


def _cell(value: object) -> str:
    if isinstance(value, bool | None):
        return {True: "yes", False: "no", None: ""}[value]
    return escape(f"{value:.3f}" if isinstance(value, float) else str(value))
