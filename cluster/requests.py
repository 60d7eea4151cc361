"""Requests: one frozen dataclass a command, with all that the command is asked to do.

`launch.py` makes the parser from the requests: types and defaults are those of the fields, and the
docstring is the help. After the name of a field it has, in parentheses, the words of the command
line: those of an option and of its value, or without an option that of a value. Nothing heavy is
imported here, because `--help` has to answer at once.

A field of type `Place` may lie on an object store. One of type `Path` is local: a URL is refused.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from kilobit.evaluators.ledger.storage import Place, local

# System calls that wait do not accept longer times.
_MOST_SECONDS, _MOST_LINKS = 1_000_000, 1000
_LEAST_WATCH_S, _MOST_WATCH_S = 0.2, 3600


def _whole(most: int, allowed: str) -> Callable[[str], int]:
    """Return a function that reads a whole number from 1 to `most`."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:8]) <= most:
            raise ValueError(f"{text!r}: {allowed} are allowed")
        return int(text)

    return number


def _pause(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_WATCH_S <= seconds <= _MOST_WATCH_S:
        raise ValueError(
            f"{text!r}: {_LEAST_WATCH_S} to {_MOST_WATCH_S} seconds are allowed; RUN comes before "
            "--watch"
        )
    return seconds


def _local_word(text: str) -> str:
    """Return a word that may name a local file, but none on an object store."""
    local(text)
    return text


# A type, a function that reads it from a word, and the value of an option without a word.
_Seconds = Annotated[int, _whole(_MOST_SECONDS, f"whole seconds from 1 to {_MOST_SECONDS}")]
_Links = Annotated[int, _whole(_MOST_LINKS, f"1 to {_MOST_LINKS} jobs")]
_Pause = Annotated[float, _pause, 2.0]
# As `Ruler` of `search/programs/program.py`, which would load numpy.
_Length = Literal["program", "payload", "net"]
_LocalWord = Annotated[str, _local_word]
# A field in the docstring of a request: its name, its words, and its meaning on one line or more.
_FIELD = re.compile(r"^    (\w+) \((.+?)\): (.+(?:\n     .+)*)", re.MULTILINE)


@contextmanager
def wrong_input(*others: type[Exception]) -> Iterator[None]:
    """Raise a ValueError of a block as an `InputError` with the same text.

    Args:
        others: further types of errors that wrong input causes there.

    Raises:
        InputError: if the block raises an error of one of these types.
    """
    from kilobit.search.settings import InputError

    kinds: tuple[type[Exception], ...] = (ValueError, *others)
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        raise InputError(str(error)) from error


class Request:
    """A command and all that it is asked to do."""

    command: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Name the command as its class is named."""
        cls.command = cls.__name__.removesuffix("Request").lower()

    def check(self) -> None:
        """Check what no single word of the command line shows; `dispatch` calls it.

        Raises:
            InputError: if words are missing or don't go together.
        """

    @classmethod
    def said(cls) -> dict[str, tuple[list[str], str, str]]:
        """Return the flags, the name of the value and the meaning of each field."""
        found = {}
        for name, words, meaning in _FIELD.findall(inspect.getdoc(cls) or ""):
            flags = [word for word in words.split() if word.startswith("-")]
            found[name] = (flags, " ".join(words.split()[len(flags) :]), " ".join(meaning.split()))
        return found

    @property
    def command_line(self) -> list[str]:
        """Return the words that make this request in any folder, without its address."""
        found, said = [self.command], self.said()
        for field in fields(self):  # type: ignore[arg-type]
            value, flags = getattr(self, field.name), said[field.name][0][:1]
            if field.name == "address" or value == field.default:
                continue
            for one in value if isinstance(value, tuple) else (value,):
                text = str(one) if isinstance(one, str | int | float) else str(one.absolute())
                found += flags if one is True else [*flags, text]
        return found

    @property
    def reads(self) -> tuple[Place, ...]:
        """Return the folders of runs, data sets and programs whose results the command reads."""
        given = (getattr(self, name, ()) for name in ("run", "runs", "what", "program", "against"))
        return tuple(
            place
            for one in given
            for place in (one if isinstance(one, tuple) else (one,))
            if place is not None
        )


@dataclass(frozen=True, kw_only=True)
class RunRequest(Request):
    """Search as a sweep file says.

    Attributes:
        sweep (SWEEP.yaml): the sweep file.
        overrides (key=value): values to change, for example budget.candidates=20 or
            workers.per_model=2.
        out (--out DIR): run folder, or s3://BUCKET/FOLDER (default: runs/NAME).
        address (--address ADDR): an existing Ray cluster (default: this machine).
        dry_run (--dry-run): check the sweep file, data, models and adapters, print the plan, start
            nothing.
        go_on (--continue): resume the run in the run folder if it is one of this sweep, else begin
            it; for jobs that a cluster restarts.
        take_over (--take-over): with --continue: the same as `resume --take-over`.
        log_level (--log-level): lowest level of lines in the run's log (default: info), those of
            workers included.
    """

    sweep: Path
    overrides: tuple[str, ...] = ()
    out: Place | None = None
    address: str | None = None
    dry_run: bool = False
    go_on: bool = False
    take_over: bool = False
    log_level: Literal["debug", "info", "warning"] = "info"


@dataclass(frozen=True, kw_only=True)
class ResumeRequest(Request):
    """Resume an interrupted run.

    Attributes:
        run (RUN): the run folder.
        overrides (key=value): another budget, for example budget.seconds=3600; nothing else can
            change.
        address (--address ADDR): an existing Ray cluster.
        take_over (--take-over): resume although another process has locked the run; its later
            writes are ignored.
        log_level (--log-level): lowest level of lines in the run's log (default: info), those of
            workers included.
    """

    run: Place
    overrides: tuple[str, ...] = ()
    address: str | None = None
    take_over: bool = False
    log_level: Literal["debug", "info", "warning"] = "info"


@dataclass(frozen=True, kw_only=True)
class StatusRequest(Request):
    """Show the progress of a run.

    Attributes:
        run (RUN): the run folder.
        watch_s (--watch SECONDS): refresh every SECONDS (2 by default) until the run is no longer
            locked; Ctrl-C ends only the display, with exit status 130.
    """

    run: Place
    watch_s: _Pause | None = None


@dataclass(frozen=True, kw_only=True)
class CheckRequest(Request):
    """Read every file of a run and say what is damaged or gone, and the way on.

    Changes nothing. Exit status 1 if something is wrong.

    Attributes:
        run (RUN): the run folder.
    """

    run: Place


@dataclass(frozen=True, kw_only=True)
class FrontRequest(Request):
    """Show the Pareto front of one or more runs.

    Attributes:
        runs (RUN): run folders, or data sets.
        json (--json): one JSON object a line.
        length (--length): compare by the bits of both files, of the payload, or of both files less
            the bare question (default: `length` of the sweep).
        against (--against RUN): also the average difference of the fronts from those of this run
            or data set, in bits over the scores that both reach.
    """

    runs: tuple[Place, ...]
    json: bool = False
    length: _Length | None = None
    against: Place | None = None


@dataclass(frozen=True, kw_only=True)
class ResultsRequest(Request):
    """Show the table of results: the shortest program for each target, and factors.

    Each row is a task, a base model and a target: the score of the bare question, the shortest
    program that the sealed split certifies (else, marked, the shortest verified one), and how many
    times as many bits other ways take.

      kilobit results runs/a runs/b
      kilobit results runs/a --length net --format markdown

    docs/compare-regimes.md says how each is counted.

    Attributes:
        runs (RUN): run folders, or data sets.
        json (--json): one JSON object a line.
        format (--format): of the table (default: table).
        length (--length): compare by the bits of both files, of the payload, or of both files less
            the bare question (default: `length` of the sweep).
    """

    runs: tuple[Place, ...]
    json: bool = False
    format: Literal["table", "csv", "markdown"] = "table"
    length: _Length | None = None


@dataclass(frozen=True, kw_only=True)
class AggregateRequest(Request):
    r"""Merge runs, data sets and imported tables into one data set.

    Merge runs of several clusters into one data set: Parquet tables without duplicate rows.

      kilobit aggregate runs/a runs/b -o all                   two runs
      kilobit aggregate all runs/c -o all                      one more
      kilobit aggregate --import table.csv -o theirs \
          --map score=accuracy,payload_bits=bits,task:=gsm8k   published points
      kilobit aggregate --import table.csv -o theirs \
          --map 'data==wmt14,score%=result,payload_bits=bits,task=data,model/=weights' \
          --map 'score=result,payload_bits=bits,task=data,model/=weights' \
          --rename model:step9000=OLMo --script-bits lora=5000   percent, names, script bits
      kilobit front all theirs                                 the fronts of both

    Read `docs/aggregate.md`.

    Attributes:
        runs (RUN): run folders, or data sets.
        file (--import FILE): published points: a .csv, .tsv, .jsonl or .parquet file.
        mapping (--map FIELD=COLUMN,...): with --import: which column is which field; FIELD:=VALUE
            is the same for all points, FIELD%=COLUMN is in percent, FIELD/=COLUMN the last part of
            a path; COLUMN==VALUE|VALUE or COLUMN!=VALUE takes only such rows. May be repeated: the
            first one that takes a row reads it.
        names (--rename FIELD:OLD=NEW): with --import: another name of a task, model, regime, family
            or candidate; may be repeated.
        script_bits (--script-bits FAMILY=BITS): with --import: the bits of a program of this family
            besides its payload, where program bits are unknown; may be repeated.
        out (-o --out DIR): the folder of the data set.
    """

    runs: tuple[Place, ...] = ()
    file: Path | None = None
    mapping: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    script_bits: tuple[str, ...] = ()
    out: Path

    def check(self) -> None:
        """Check that there is something to merge, and that a file has a mapping."""
        from kilobit.search.settings import InputError

        if not self.runs and self.file is None:
            raise InputError("give runs or data sets, or a file by --import")
        if (self.file is None) != (not self.mapping):
            raise InputError(
                "--import and --map go together: a file, and which column is which field"
            )
        if self.file is None and (self.names or self.script_bits):
            raise InputError("--rename and --script-bits belong to --import FILE")


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Request):
    """Write one HTML file with all results of runs.

    Attributes:
        runs (RUN): run folders, or data sets.
        out (-o --out FILE): where to write it: a .html or .htm file (default: RUN/report.html;
            needed for several runs).
        figures (--figures DIR): also write the report's pictures to DIR, as PDF and PNG.
        overlay (--overlay FILE): CSV or JSON Lines with points of published curves to draw; may be
            repeated.
        columns (--columns bits=COLUMN,score=COLUMN,...): which columns of the overlay are bits,
            score, label, lower, upper and task (default: those of these names).
        length (--length): compare by the bits of both files, of the payload, or of both files less
            the bare question (default: `length` of the sweep).
    """

    runs: tuple[Place, ...]
    out: Place | None = None
    figures: Path | None = None
    overlay: tuple[Path, ...] = ()
    columns: str | None = None
    length: _Length | None = None


@dataclass(frozen=True, kw_only=True)
class VerifyRequest(Request):
    """Run the files of programs and compare with the results that the search recorded.

    Attributes:
        what (RUN|PROGRAM): a run folder, or the folder of one program.
        model (--model DIR): the base model's folder, for a program's folder.
        task (--task SWEEP.yaml): score a program's folder on the search split of this sweep file's
            task, so on data that whoever made the folder does not choose.
        trust (--trust): end with status 0 also if program.py is foreign code.
        fresh (--fresh): a new Python interpreter for each program of a run, instead of forks of one
            that has imported the libraries.
        timeout_s (--timeout S): time limit of one program, in seconds.
        address (--address ADDR): an existing Ray cluster that runs the programs of a run (default:
            this machine).
    """

    what: Place
    model: Path | None = None
    task: Path | None = None
    trust: bool = False
    fresh: bool = False
    timeout_s: _Seconds = 3600
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class CertifyRequest(Request):
    """Run the fronts' programs once on the sealed split, and bound their scores.

      kilobit certify runs/a                              its programs, all bounds at once
      kilobit certify runs/seed0 runs/seed1 runs/seed2    the same, and compared seed by seed
      kilobit certify --procedure runs/s*                 what the next such search will give

    A bound for a program holds for this program alone. --procedure bounds the score that a new
    search of the same settings and budget gives on new data, on average, from three or more runs
    with seeds of their own and, best, splits of their own. Read `docs/certification.md`.

    Attributes:
        runs (RUN): run folders, one a seed.
        procedure (--procedure): also bound what another search like these gives on new data.
        again (--again): certify even if the sealed split was opened before for other programs; the
            results are marked as repeated.
        timeout_s (--timeout S): time limit of one program, in seconds.
        address (--address ADDR): an existing Ray cluster that runs the programs (default: this
            machine).
    """

    runs: tuple[Place, ...]
    procedure: bool = False
    again: bool = False
    timeout_s: _Seconds = 3600
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScorecardRequest(Request):
    """Measure the side effects of the front's programs on other inputs.

    Attributes:
        run (RUN): the run folder.
        battery (--battery FILE): YAML file with the items to measure (default: see
            docs/scorecard.md).
        json (--json): one JSON object a line.
        address (--address ADDR): an existing Ray cluster that measures (default: this machine).
    """

    run: Path
    battery: Path | None = None
    json: bool = False
    address: str | None = None


@dataclass(frozen=True, kw_only=True)
class CompareRequest(Request):
    """Compare programs: scores by a paired test, or two sets of answers by a judge.

    Compare the scores of two programs or more on the same examples, or let a judge prefer one of
    two answers to each prompt.

      kilobit compare runs/a runs/b --score                 at each target, the shortest programs
      kilobit compare runs/a:pretrained runs/a:tuned --score      the fronts of two base models
      kilobit compare runs/a:0123 runs/a:4567 runs/b:89ab --score      three candidates, each pair
      kilobit compare runs/a/programs/tuned-0123 runs/b --score        a program's folder
      kilobit compare a.jsonl b.jsonl --judge judge.yaml    wins, ties and losses of A

    With --score, each pair has the difference of the scores, its 95 % interval, and a p-value:
    McNemar's exact test for scores of 0 and 1, sign flips for others, and Holm's correction over
    all pairs and targets. Read `docs/compare-programs.md` and `docs/preference.md`.

    Attributes:
        one (A): the first: RUN, RUN:MODEL, RUN:CANDIDATE or the folder of a program; with --judge
            its answers: a JSON Lines file, or RUN:CANDIDATE.
        two (B): the second, likewise.
        others (C): more of them, with --score.
        score (--score): compare scores on the same examples.
        split (--split): with --score: the split of the examples (default: the sealed split if all
            programs were certified, else the search split).
        judge (--judge FILE.yaml): compare answers: the settings of the judge.
        prompts (--prompts FILE): JSON Lines with the prompts, if the answers lack them; only these
            prompts are judged.
        rows (--rows FILE): write the verdict of each prompt, as JSON Lines.
        json (--json): print one JSON object.
    """

    one: _LocalWord
    two: _LocalWord
    others: tuple[_LocalWord, ...] = ()
    score: bool = False
    split: Literal["search", "sealed"] | None = None
    judge: Path | None = None
    prompts: Path | None = None
    rows: Path | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportRequest(Request):
    """Write a program's adapter in PEFT's own format.

    Attributes:
        program (PROGRAM): the folder of one program.
        peft (--peft DIR): where to write it.
        model (--model DIR): the base model's folder.
    """

    program: Place
    peft: Path
    model: Path


@dataclass(frozen=True, kw_only=True)
class SlurmRequest(Request):
    """Submit a search as a Slurm job, or print its batch script.

    Write one batch script that starts a Ray cluster and runs a search on it, and submit it.

      kilobit slurm my.yaml --profile slurm.yaml            submit
      kilobit slurm my.yaml slurm.nodes=4 --print > job.sh  only the script
      kilobit slurm a.yaml b.yaml                           one array of two jobs

    The settings are those of `slurm` in the sweep file; they override those of the profile. Shortly
    before the job's time is over the run stops and writes all finished results; then the job is
    queued again and resumes the run. Read `docs/slurm.md`.

    Attributes:
        words (SWEEP.yaml | key=value): sweep files, several as one array of jobs; values to change
            in all of them, for example slurm.nodes=4.
        profile (--profile FILE): YAML with the keys of the section `slurm`; values in a sweep file
            override it.
        only_print (--print): print the batch script and submit nothing.
        chain (--chain N): submit N jobs that resume the run one after another, where jobs can't be
            requeued.
        out (--out DIR): run folder (default: as in the sweep file); with several sweep files
            DIR/NAME of each.
    """

    words: tuple[_LocalWord, ...]
    profile: Path | None = None
    only_print: bool = False
    chain: _Links = 1
    out: Place | None = None


@dataclass(frozen=True, kw_only=True)
class KubernetesRequest(Request):
    """Launch sweeps in Kubernetes, by KubeRay.

    Write KubeRay manifests for sweeps and apply them with kubectl.

    Each sweep becomes a RayJob: Ray starts in pods, the run starts in the head pod, and the pods
    end with the run. The run is kept in a volume claim or in object storage; after a preemption a
    new attempt resumes the same run. The section `kubernetes` of the sweep file, and a profile that
    describes a cluster once for all sweeps, say where it runs.

      kilobit kubernetes my.yaml --profile examples/profiles/kubernetes.yaml --print
      kilobit kubernetes my.yaml kubernetes.image=IMAGE kubernetes.claim=runs
      kilobit kubernetes a.yaml b.yaml --profile cluster.yaml budget.seconds=36000
      kilobit kubernetes my.yaml --print | kubectl apply --dry-run=server -f -

    docs/kubernetes.md lists what the cluster and the image must provide.

    Attributes:
        words (SWEEP.yaml | key=value): sweep files; values to change in all of them.
        profile (--profile FILE): YAML with the keys of the section `kubernetes`; values in a sweep
            file override it.
        only_print (--print): print the manifests and apply nothing.
        out (--out DIR): run folder (default: as in the sweep file); with several sweep files
            DIR/NAME of each.
    """

    words: tuple[_LocalWord, ...]
    profile: Path | None = None
    only_print: bool = False
    out: Place | None = None


@dataclass(frozen=True, kw_only=True)
class DoctorRequest(Request):
    """Check this machine or a cluster and say how to fix each problem.

    Attributes:
        address (--address ADDR): check all nodes of this existing Ray cluster.
        out (--out DIR): the folder for runs: check that this machine can write there, or with
            --address that all nodes see it (default there: runs).
    """

    address: str | None = None
    out: Place | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRequest(Request):
    """Make a model's folder from a GGUF file.

    Unpacks the weights, and writes them as safetensors with tokenizer and chat template; then shows
    how the model continues three texts. A sweep file names the folder as the `path` of a base
    model.

      kilobit model SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2

    Attributes:
        file (FILE.gguf): the file.
        folder (DIR): where to write the model; no folder with files.
        dtype (--dtype): type of the weights (default: float32, which loses nothing).
    """

    file: Path
    folder: Path
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def check(self) -> None:
        """Check that there is a file, and room for the folder."""
        from kilobit.search.settings import InputError

        if not self.file.is_file():
            raise InputError(f"{self.file}: there is no such file")
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(f"{self.folder} is there already: give a folder without files")


REQUESTS = tuple(Request.__subclasses__())
