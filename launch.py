"""The command line of kilobit: from words to a request of `kilobit.cluster.requests`.

Exit status: 0 done; 1 something in the run failed, or it had to stop and can be resumed; 2 the
input is wrong, or another process has locked the run; 130 interrupted and resumable.
"""

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, fields
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from kilobit.cluster.requests import REQUESTS
from kilobit.evaluators.ledger.storage import local, place
from kilobit.evaluators.ledger.stored_path import StoredPath

_DESCRIPTION = """\
How many bits of program does it take to make a frozen language model reach a target score on a
task?

kilobit searches for the shortest program (a prompt, a small adapter, a post-processing) and shows
the Pareto front of length against score for each base model."""
_EXAMPLES = """\
examples:
  kilobit run examples/quickstart.yaml                 search with the embedded models, on CPU
  kilobit run my.yaml --dry-run                        check everything, start nothing
  kilobit run my.yaml budget.seconds=600 seed=1        change values of the sweep file
  kilobit status runs/quickstart --watch               the progress of a run, from another shell
  kilobit resume runs/quickstart                       resume an interrupted run
  kilobit resume runs/quickstart budget.seconds=3600   resume with another budget
  kilobit check runs/quickstart                        are all files of a run intact?
  kilobit front runs/quickstart --json                 one JSON object a line
  kilobit aggregate runs/a runs/b -o all               one data set of several runs
  kilobit report runs/quickstart                       all results as one HTML file
  kilobit verify runs/quickstart                       run the files of the front's programs again
  kilobit slurm my.yaml --print                        a batch script that runs it under Slurm
  kilobit compare runs/a runs/b --score                do their programs differ in score?
  kilobit compare a.jsonl b.jsonl --judge judge.yaml   compare two sets of answers with a judge
  kilobit kubernetes my.yaml --print                   manifests that run it in Kubernetes
  kilobit certify runs/quickstart                      bound their scores on the sealed split
  kilobit scorecard runs/quickstart                    side effects of its programs on other inputs

Read `docs/sweep-file.md` for every field of a sweep file, or begin with a copy of an example."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, from which `docs/command-line.md` is generated."""
    parser = argparse.ArgumentParser(
        prog="kilobit",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for request in REQUESTS:
        text, *_ = (inspect.getdoc(request) or "").partition("\n\nAttributes:\n")
        about, _, description = text.partition("\n\n")
        command = commands.add_parser(
            request.command,
            help=about[0].lower() + about[1:].removesuffix("."),
            description=description or None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(request=request)
        said = request.said()
        for each in fields(request):  # type: ignore[arg-type]
            _add_argument(command, each, *said[each.name])
    return parser


def _add_argument(
    parser: argparse.ArgumentParser, of: Field[Any], flags: list[str], value: str, meaning: str
) -> None:
    """Add the argument of a field; the type of the field says what it takes."""
    default: Any = of.default
    several, required = get_origin(of.type) is tuple, default is MISSING
    told: dict[str, Any] = {"help": meaning.removesuffix(".")}
    if of.type is bool:
        told["action"] = "store_true"
    else:
        told["metavar"] = value or None
    if several:
        told |= {"action": "append"} if flags else {"nargs": "+" if required else "*"}
    if not required:
        told["default"] = list(default) if several else default
    elif flags:
        told["required"] = True
    kinds = list(_kinds(of.type))
    if Path in kinds:
        told["type"] = _explained(place if StoredPath in kinds else local)
    for kind in kinds:
        if get_origin(kind) is Literal:
            told["choices"] = get_args(kind)
        elif get_origin(kind) is Annotated:
            convert, *alone = kind.__metadata__
            told["type"] = _explained(convert)
            if alone:
                told |= {"nargs": "?", "const": alone[0]}
    parser.add_argument(*flags, dest=of.name, **told)


def _kinds(kind: Any) -> Iterator[Any]:
    """Yield the types that a union or a tuple consists of."""
    if get_origin(kind) in (Union, UnionType, tuple):
        for part in get_args(kind):
            yield from _kinds(part)
    else:
        yield kind


def _explained(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a conversion whose error messages argparse shows."""

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return converted


def _version() -> str:
    try:
        return f"kilobit {version('kilobit')}"
    except PackageNotFoundError:
        return "kilobit, not installed"


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def parse(argv: Sequence[str] | None = None) -> Any:
    """Return the request of a command line; print usage and exit with status 2 if it is wrong."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    said: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(args).items()
    }
    # Overrides may come after options too, which argparse does not support for subcommands.
    takes = next((name for name in ("overrides", "words", "others") if name in said), None)
    if any(word.startswith("-") for word in rest) or (rest and takes is None):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if takes is not None:
        said[takes] += tuple(rest)
    del said["command"]
    return said.pop("request")(**said)


def _open_standard_streams() -> None:
    """Open the null device in place of closed standard streams.

    Else the next files get their numbers, and the programs that a command starts write there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Python has none of a stream that was closed; what is meant for one must not go to another.
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    _open_standard_streams()
    # A letter that a terminal's encoding lacks is shown as another one.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    request = parse(argv)
    # Cluster schedulers stop a job by SIGTERM; treat it as Ctrl-C, which leaves the run resumable.
    signal.signal(signal.SIGTERM, _interrupt)
    # And a terminal that closes by SIGHUP, which `nohup` has set to be ignored.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    from kilobit.cluster.cli.run import dispatch

    try:
        return dispatch(request)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`): discard the rest of the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
