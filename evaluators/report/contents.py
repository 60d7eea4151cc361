"""Contents of a report as plain values: made from results by `cluster`, drawn as page or pictures.

Unknown values are None. Texts are unchanged from the runs and may hold markup; code that draws them
has to escape them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kilobit.search.front.points import FrontPoint
from kilobit.search.settings import Ruler

# Fields of a point that the page needs of no program.
_NOT_SHOWN = ("split", "program", "length", "imported")


@dataclass(frozen=True)
class ShownModel:
    """A base model as a curve of the pictures.

    Attributes:
        label: its name in the runs.
        regime: the stage of training that it stands for.
        style: number of its colour, marker and dash.
    """

    label: str
    regime: str
    style: int


@dataclass(frozen=True)
class ShownProgram:
    """A completed program.

    Attributes:
        point: the program as on a front.
        on_front: no shorter program of its task and base model scores as well.
        certified_at: the largest target that the sealed split confirms, None if there is none.
        about: the candidate in one line.
        prompt: its text.
        exact_prompt: the text is the payload's, not the candidate's without a template.
        sections: bytes of each section of both files; None if the files were not read.
        codecs: codec of each section.
        recipe: as JSON; None if it was not read.
        script: program.py before it was shortened.
        counted: program.py as its bytes are counted, with bytes that are not text as escapes.
        link: its folder, relative to the page; None if there is none.
        folder: path of its folder, or a note if there is none.
        trouble: why its files can't be read.
        rewards: mean reward of each generation, if it was trained by reward.
    """

    point: FrontPoint
    on_front: bool
    certified_at: float | None = None
    about: str = ""
    operator: str | None = None
    parent: str | None = None
    prompt: str = ""
    exact_prompt: bool = False
    sections: Mapping[str, int] | None = None
    codecs: Mapping[str, str] = field(default_factory=dict)
    recipe: str | None = None
    script: str | None = None
    counted: str | None = None
    link: str | None = None
    folder: str | None = None
    trouble: str | None = None
    rewards: Sequence[float] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this program, with what the page shows of its point."""
        point, own = self.point.as_json() | {"bits": self.point.bits}, asdict(self)
        del own["point"]
        return own | {name: point[name] for name in point if name not in _NOT_SHOWN}


@dataclass(frozen=True)
class Needed:
    """Bits that each base model needs for a score.

    Attributes:
        target: the score.
        asked: it is a target of the sweep.
        found: bits of the shortest program on the search split by base model, None if none.
        certified: the same by bounds on the sealed split.
    """

    target: float
    asked: bool
    found: Mapping[str, int | None]
    certified: Mapping[str, int | None]


@dataclass(frozen=True)
class ShownTask:
    """A task with its targets.

    Attributes:
        name: of the task.
        targets: scores to reach.
        models: labels of base models, from the least to the most trained.
        needed: bits at each score.
        collapses: fields of `kilobit.search.front.complexity.Collapse`.
        num_completed: programs that completed the last rung, by base model.
        lacking: base models whose programs lack the length, because the bits of the bare question
            are unknown.
    """

    name: str
    targets: Sequence[float]
    models: Sequence[str]
    needed: Sequence[Needed]
    collapses: Sequence[Mapping[str, Any]]
    num_completed: Mapping[str, int]
    lacking: Sequence[str] = ()


@dataclass(frozen=True)
class Course:
    """Growth of the front of a base model in a run, one value each time it grew.

    Attributes:
        examples: scored so far for this base model.
        seconds: since the search began, without the pauses between attempts.
        hypervolume: doublings of length times score that the front dominates.
    """

    run: str
    task: str
    model: str
    examples: Sequence[int]
    seconds: Sequence[float]
    hypervolume: Sequence[float]


@dataclass(frozen=True)
class RungCount:
    """Outcomes of the candidates of a base model at a rung, counted over all runs with such a rung.

    Attributes:
        coarser: versions of a candidate's adapter that were made and scored after its last rung;
            none of them is in the other counts.
    """

    task: str
    model: str
    rung: int
    num_examples: int
    went_on: int
    stopped: int
    failed: int
    coarser: int = 0


@dataclass(frozen=True)
class ReasonCount:
    """Number of candidates of a base model that were stopped or failed for one reason."""

    task: str
    model: str
    reason: str
    count: int


@dataclass(frozen=True)
class Published:
    """A point of a published curve.

    Attributes:
        label: its curve.
        task: the task in whose plot it is drawn; None for all tasks.
    """

    label: str
    bits: float
    score: float
    lower: float | None = None
    upper: float | None = None
    task: str | None = None


@dataclass(frozen=True)
class Origin:
    """Provenance of the results of a run, and how to reproduce them.

    Attributes:
        facts: name and value, in order.
        attempts: command, time and host of each attempt.
        models: facts of each base model.
        versions: version of each library by its name.
        sweep: the sweep as JSON.
    """

    run: str
    folder: str
    facts: Sequence[tuple[str, str]]
    attempts: Sequence[Mapping[str, Any]]
    models: Sequence[Mapping[str, Any]]
    versions: Mapping[str, str]
    sweep: str


@dataclass(frozen=True)
class Report:
    """All contents of a report.

    Attributes:
        title: its heading.
        made_at: time, and version of kilobit.
        length: the length that bits are.
        programs: all programs of the fronts, then a sample of the others.
        num_completed: number of all programs that completed the last rung.
        num_coarser: number of those that are coarser versions of a candidate's adapter.
        scorecard: lines of scorecard.parquet; None if nothing was measured.
        overlay: points of published curves.
        results: the cells of the table of results, the headings first; empty without a run.
    """

    title: str
    made_at: str
    length: Ruler
    models: Sequence[ShownModel]
    tasks: Sequence[ShownTask]
    programs: Sequence[ShownProgram]
    num_completed: int
    num_coarser: int = 0
    courses: Sequence[Course] = ()
    rungs: Sequence[RungCount] = ()
    reasons: Sequence[ReasonCount] = ()
    errors: Sequence[ReasonCount] = ()
    scorecard: Sequence[Mapping[str, Any]] | None = None
    overlay: Sequence[Published] = ()
    origins: Sequence[Origin] = ()
    results: Sequence[Sequence[str]] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this report."""
        return asdict(self) | {"programs": [program.as_json() for program in self.programs]}
