"""The command line of kilobit: the parser. Each command is a function of `kilobit.cluster.cli.run`.

Exit status: 0 done; 1 something in the run failed, or it had to stop and can be resumed; 2 the
input is wrong, or another process has locked the run; 130 interrupted and resumable.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kilobit.evaluators.ledger.storage import Place, place

_DESCRIPTION = """\
How many bits of program does it take to make a frozen language model reach a target score on a
task?

kilobit searches for the shortest program (a prompt, a small adapter, a post-processing) and shows
the Pareto front of length against score for each base model."""

_AGGREGATE = """\
Merge runs of several clusters into one data set: Parquet tables without duplicate rows.

  kilobit aggregate runs/a runs/b -o all                   two runs
  kilobit aggregate all runs/c -o all                      one more
  kilobit aggregate --import table.csv -o theirs \\
      --map score=accuracy,payload_bits=bits,task:=gsm8k   published points
  kilobit front all theirs                                 the fronts of both

Read `docs/aggregate.md`."""
_MOST_SECONDS = 1_000_000
_MOST_LINKS = 1000
_WATCH_S = 2.0
_LEAST_WATCH_S, _MOST_WATCH_S = 0.2, 3600
_SLURM = """\
Write one batch script that starts a Ray cluster and runs a search on it, and submit it.

  kilobit slurm my.yaml --profile slurm.yaml            submit
  kilobit slurm my.yaml slurm.nodes=4 --print > job.sh  only the script
  kilobit slurm a.yaml b.yaml                           one array of two jobs

The settings are those of `slurm` in the sweep file; they override those of the profile. Shortly
before the job's time is over the run stops and writes all finished results; then the job is queued
again and resumes the run. Read `docs/slurm.md`."""
_EXAMPLES = """\
examples:
  kilobit run examples/quickstart.yaml                 search with the embedded models, on CPU
  kilobit run my.yaml --dry-run                        check everything, start nothing
  kilobit run my.yaml budget.seconds=600 seed=1        change values of the sweep file
  kilobit status runs/quickstart --watch               the progress of a run, from another shell
  kilobit resume runs/quickstart                       resume an interrupted run
  kilobit resume runs/quickstart budget.seconds=3600   resume with another budget
  kilobit front runs/quickstart --json                 one JSON object a line
  kilobit aggregate runs/a runs/b -o all               one data set of several runs
  kilobit report runs/quickstart                       all results as one HTML file
  kilobit verify runs/quickstart                       run the files of the front's programs again
  kilobit slurm my.yaml --print                        a batch script that runs it under Slurm
  kilobit compare a.jsonl b.jsonl --judge judge.yaml   compare two sets of answers with a judge
  kilobit kubernetes my.yaml --print                   manifests that run it in Kubernetes
  kilobit certify runs/quickstart                      bound their scores on the sealed split
  kilobit scorecard runs/quickstart                    side effects of its programs on other inputs

Read `docs/sweep-file.md` for every field of a sweep file, or begin with a copy of an example."""


_KUBERNETES = """\
Write KubeRay manifests for sweeps and apply them with kubectl.

Each sweep becomes a RayJob: Ray starts in pods, the run starts in the head pod, and the pods end
with the run. The run is kept in a volume claim or in object storage; after a preemption a new
attempt resumes the same run. The section `kubernetes` of the sweep file, and a profile that
describes a cluster once for all sweeps, say where it runs."""

_KUBERNETES_EXAMPLES = """\
examples:
  kilobit kubernetes my.yaml --profile examples/profiles/kubernetes.yaml --print
  kilobit kubernetes my.yaml kubernetes.image=IMAGE kubernetes.claim=runs
  kilobit kubernetes a.yaml b.yaml --profile cluster.yaml budget.seconds=36000
  kilobit kubernetes my.yaml --profile cluster.yaml --print | kubectl apply --dry-run=server -f -

docs/kubernetes.md lists what the cluster and the image must provide."""


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

    run = commands.add_parser("run", help="search as a sweep file says")
    run.add_argument("sweep", type=_local, metavar="SWEEP.yaml", help="the sweep file")
    run.add_argument(
        "overrides",
        nargs="*",
        # Without a default argparse reports them as required.
        default=[],
        metavar="key=value",
        help="values to change, for example budget.candidates=20 or workers.per_model=2",
    )
    run.add_argument(
        "--out",
        type=_place,
        metavar="DIR",
        help="run folder, or s3://BUCKET/FOLDER (default: runs/NAME)",
    )
    run.add_argument(
        "--address", metavar="ADDR", help="an existing Ray cluster (default: this machine)"
    )
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="check the sweep file, data, models and adapters, print the plan, start nothing",
    )
    run.add_argument(
        "--continue",
        action="store_true",
        dest="go_on",
        help="resume the run in the run folder if it is one of this sweep, else begin it; "
        "for jobs that a cluster restarts",
    )
    run.add_argument(
        "--take-over",
        action="store_true",
        help="with --continue: the same as `resume --take-over`",
    )
    _add_log_level(run)

    resume = commands.add_parser("resume", help="resume an interrupted run")
    resume.add_argument("run", type=_place, metavar="RUN", help="the run folder")
    resume.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="key=value",
        help="another budget, for example budget.seconds=3600; nothing else can change",
    )
    resume.add_argument("--address", metavar="ADDR", help="an existing Ray cluster")
    resume.add_argument(
        "--take-over",
        action="store_true",
        help="resume although another process has locked the run; its later writes are ignored",
    )
    _add_log_level(resume)

    status = commands.add_parser("status", help="show the progress of a run")
    status.add_argument("run", type=_place, metavar="RUN", help="the run folder")
    status.add_argument(
        "--watch",
        type=_interval,
        nargs="?",
        const=_WATCH_S,
        metavar="SECONDS",
        help=f"refresh every SECONDS ({_WATCH_S:g} by default) until the run is no longer locked; "
        "Ctrl-C ends only the display, with exit status 130",
    )

    front = commands.add_parser("front", help="show the Pareto front of one or more runs")
    front.add_argument(
        "runs", type=_place, nargs="+", metavar="RUN", help="run folders, or data sets"
    )
    front.add_argument("--json", action="store_true", help="one JSON object a line")
    _add_length(front)

    aggregate = commands.add_parser(
        "aggregate",
        help="merge runs, data sets and imported tables into one data set",
        description=_AGGREGATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    aggregate.add_argument(
        "runs", type=_place, nargs="*", metavar="RUN", help="run folders, or data sets"
    )
    aggregate.add_argument(
        "--import",
        type=_local,
        dest="file",
        metavar="FILE",
        help="published points: a .csv, .tsv, .jsonl or .parquet file",
    )
    aggregate.add_argument(
        "--map",
        dest="mapping",
        metavar="FIELD=COLUMN,...",
        help="with --import: which column is which field; FIELD:=VALUE is the same for all points",
    )
    aggregate.add_argument(
        "-o", "--out", type=_place, required=True, metavar="DIR", help="the folder of the data set"
    )

    report = commands.add_parser("report", help="write one HTML file with all results of runs")
    report.add_argument(
        "runs", type=_place, nargs="+", metavar="RUN", help="run folders, or data sets"
    )
    report.add_argument(
        "-o",
        "--out",
        type=_place,
        metavar="FILE",
        help="where to write it: a .html or .htm file (default: RUN/report.html; needed for "
        "several runs)",
    )
    report.add_argument(
        "--figures",
        type=_local,
        metavar="DIR",
        help="also write the report's pictures to DIR, as PDF and PNG",
    )
    report.add_argument(
        "--overlay",
        type=_local,
        action="append",
        default=[],
        metavar="FILE",
        help="CSV or JSON Lines with points of published curves to draw; may be repeated",
    )
    report.add_argument(
        "--columns",
        metavar="bits=COLUMN,score=COLUMN,...",
        help="which columns of the overlay are bits, score, label, lower, upper and task "
        "(default: those of these names)",
    )
    _add_length(report)

    verify = commands.add_parser(
        "verify",
        help="run the files of programs and compare with the results that the search recorded",
    )
    verify.add_argument(
        "what",
        type=_place,
        metavar="RUN|PROGRAM",
        help="a run folder, or the folder of one program",
    )
    verify.add_argument(
        "--model",
        type=_local,
        metavar="DIR",
        help="the base model's folder, for a program's folder",
    )
    _add_timeout(verify)

    certify = commands.add_parser(
        "certify", help="run the fronts' programs once on the sealed split, and bound their scores"
    )
    certify.add_argument(
        "runs", type=_place, nargs="+", metavar="RUN", help="run folders, one a seed"
    )
    certify.add_argument(
        "--again",
        action="store_true",
        help="certify even if the sealed split was opened before for other programs; the results "
        "are marked as repeated",
    )
    _add_timeout(certify)

    scorecard = commands.add_parser(
        "scorecard", help="measure the side effects of the front's programs on other inputs"
    )
    scorecard.add_argument("run", type=_local, metavar="RUN", help="the run folder")
    scorecard.add_argument(
        "--battery",
        type=_local,
        metavar="FILE",
        help="YAML file with the items to measure (default: see docs/scorecard.md)",
    )
    scorecard.add_argument("--json", action="store_true", help="one JSON object a line")
    compare = commands.add_parser(
        "compare",
        help="compare two sets of answers with a judge and count wins, ties, losses",
    )
    compare.add_argument(
        "one", metavar="A", help="answers of the first: a JSON Lines file, or RUN:CANDIDATE"
    )
    compare.add_argument("two", metavar="B", help="answers of the second, likewise")
    compare.add_argument(
        "--judge", type=_local, required=True, metavar="FILE.yaml", help="the settings of the judge"
    )
    compare.add_argument(
        "--prompts",
        type=_local,
        metavar="FILE",
        help="JSON Lines with the prompts, if the answers lack them; only these prompts are judged",
    )
    compare.add_argument(
        "--rows",
        type=_local,
        metavar="FILE",
        help="write the verdict of each prompt, as JSON Lines",
    )
    compare.add_argument("--json", action="store_true", help="print one JSON object")

    export = commands.add_parser("export", help="write a program's adapter in PEFT's own format")
    export.add_argument("program", type=_place, metavar="PROGRAM", help="the folder of one program")
    export.add_argument(
        "--peft", type=_local, required=True, metavar="DIR", help="where to write it"
    )
    export.add_argument(
        "--model", type=_local, required=True, metavar="DIR", help="the base model's folder"
    )

    slurm = commands.add_parser(
        "slurm",
        help="submit a search as a Slurm job, or print its batch script",
        description=_SLURM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_launch(slurm, "batch script")
    slurm.add_argument(
        "--chain",
        type=_links,
        default=1,
        metavar="N",
        help="submit N jobs that resume the run one after another, where jobs can't be requeued",
    )

    kubernetes = commands.add_parser(
        "kubernetes",
        help="launch sweeps in Kubernetes, by KubeRay",
        description=_KUBERNETES,
        epilog=_KUBERNETES_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_launch(kubernetes, "manifests")

    doctor = commands.add_parser(
        "doctor", help="check this machine or a cluster and say how to fix each problem"
    )
    doctor.add_argument(
        "--address", metavar="ADDR", help="check all nodes of this existing Ray cluster"
    )
    doctor.add_argument(
        "--out",
        type=_place,
        default=Path("runs"),
        metavar="DIR",
        help="with --address: the folder for runs; check that all nodes see it",
    )
    return parser


def _add_launch(parser: argparse.ArgumentParser, text: str) -> None:
    parser.add_argument(
        "words",
        type=_local_word,
        nargs="+",
        metavar="SWEEP.yaml | key=value",
        help="sweep files; values to change in all of them",
    )
    parser.add_argument(
        "--profile",
        type=_local,
        metavar="FILE",
        help="YAML with the keys of this command's section; values in a sweep file override it",
    )
    parser.add_argument("--print", action="store_true", help=f"print the {text}, submit nothing")
    parser.add_argument(
        "--out",
        type=_place,
        metavar="DIR",
        help="run folder (default: as in the sweep file); with several of them DIR/NAME of each",
    )


def _add_log_level(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning"),
        default="info",
        help="lowest level of lines in the run's log (default: info), those of workers included",
    )


def _version() -> str:
    try:
        return f"kilobit {version('kilobit')}"
    except PackageNotFoundError:
        return "kilobit, not installed"


def _add_length(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--length",
        choices=("program", "payload"),
        help="compare by the bits of both files or of the payload (default: `length` of the sweep)",
    )


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=3600,
        metavar="S",
        help="time limit of one program, in seconds",
    )


def _place(text: str) -> Place:
    try:
        return place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _local(text: str) -> Path:
    found = _place(text)
    if not isinstance(found, Path):
        raise argparse.ArgumentTypeError(
            f"{text}: a local path is needed here, not an object store"
        )
    return found


def _local_word(text: str) -> str:
    _local(text)
    return text


def _seconds(text: str) -> int:
    # System calls that wait do not accept longer times.
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:8]) <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r}: whole seconds from 1 to {_MOST_SECONDS} are allowed"
        )
    return int(text)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_WATCH_S <= seconds <= _MOST_WATCH_S:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {_LEAST_WATCH_S} to {_MOST_WATCH_S} seconds are allowed; RUN comes before "
            "--watch"
        )
    return seconds


def _links(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:8]) <= _MOST_LINKS:
        raise argparse.ArgumentTypeError(f"{text!r}: 1 to {_MOST_LINKS} jobs are allowed")
    return int(text)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; print usage and exit with status 2 if it is wrong."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    # Overrides may come after options too, which argparse does not support for subcommands.
    if any(word.startswith("-") for word in rest) or (
        rest and args.command not in ("run", "resume", "slurm", "kubernetes")
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        (args.words if "words" in args else args.overrides).extend(rest)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    args = parse(argv)
    # Cluster schedulers stop a job by SIGTERM; treat it as Ctrl-C, which leaves the run resumable.
    signal.signal(signal.SIGTERM, _interrupt)
    from kilobit.cluster.cli.run import dispatch

    try:
        return dispatch(args)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`): discard the rest of the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
