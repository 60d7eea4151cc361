"""Records: one row of each table of the ledger, with the type and meaning of every field.

The Parquet schemas and `docs/ledger.md` are made from these classes. Fields may be added, but never
change their meaning. None is unknown, or a column that was not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from kilobit.search.schedulers.racing import Verdict
from kilobit.search.schedulers.scheduler import Action

if TYPE_CHECKING:
    import pyarrow as pa

Int32 = Annotated[int, "int32"]


class Record:
    """Base of the records.

    Attributes:
        table: the table that holds them.
    """

    __slots__ = ()
    table: ClassVar[str]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return the record of a row of the table.

        Raises:
            TypeError: if a column is missing that every row has, or is not one of the table.
        """
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
        return cls(**values)

    @classmethod
    def all_of(cls, table: "pa.Table") -> list[Self]:
        """Return the records of the rows of an Arrow table, whose other columns are unknown."""
        return [cls.of(row) for row in table.to_pylist()]

    def row(self) -> dict[str, Any]:
        """Return the row of the table."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


def rung_part(candidate: str, rung: int) -> str:
    """Return the name of the parts that belong to a candidate at a rung."""
    return f"{candidate}-r{rung}"


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateRecord(Record):
    """A candidate."""

    table: ClassVar[str] = "candidates"

    candidate: Annotated[str, "id: 16 hex digits of a hash of `spec`"]
    task: Annotated[str, "name of the task"]
    model: Annotated[str, "name of the base model"]
    regime: Annotated[str, "label of the base model: random, pretrained, …"]
    family: Annotated[
        str,
        "`prompt`, the method of its adapter, or `constant` or `copy` without the model",
    ]
    spec: Annotated[str | None, "canonical JSON of everything that determines its results"] = None
    seed: Annotated[int | None, "seed of the run"] = None
    estimated_bits: Annotated[
        int | None,
        "upper bound of its payload bits before any training; null if there is none",
    ] = None
    parent: Annotated[str | None, "candidate that it was derived from; null for a fresh one"] = None
    position: Annotated[
        int | None,
        "its position in the order of proposals; null for a coarsening",
    ] = None
    after: Annotated[int | None, "number of decisions made before it was proposed"] = None
    operator: Annotated[
        str | None,
        "how it was proposed: `random`, `grid`, …; `coarsen` for a coarsening",
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RungRecord(Record):
    """A candidate at a rung."""

    table: ClassVar[str] = "rungs"

    candidate: Annotated[str, "id of the candidate"]
    rung: Annotated[Int32, "number of the rung, from 0"]
    split: Annotated[str | None, "`search`"] = None
    train_steps: Annotated[int | None, "optimizer steps of training so far"] = None
    num_examples: Annotated[int, "examples scored; fewer than the rung has if a race ended early"]
    score: Annotated[
        float | None, "task score in [0, 1]; null if it failed or is longer than `max_bits`"
    ] = None
    lower: Annotated[float | None, "lower end of the 95 % interval of this score alone"] = None
    upper: Annotated[float | None, "upper end of it"] = None
    program_bits: Annotated[int | None, "8 times bytes of program.py and payload.bin"] = None
    payload_bits: Annotated[int | None, "8 times bytes of payload.bin"] = None
    program: Annotated[str | None, "digest of both files; null if no program was kept"] = None
    train_loss: Annotated[
        float | None,
        "mean training loss of the last steps, in nats per token",
    ] = None
    seconds: Annotated[float | None, "total time at this rung"] = None
    train_s: Annotated[float | None, "part of `seconds`: training"] = None
    generate_s: Annotated[float | None, "part of `seconds`: generating"] = None
    train_tokens: Annotated[int | None, "tokens trained on"] = None
    input_tokens: Annotated[int | None, "tokens read in generation"] = None
    output_tokens: Annotated[int | None, "tokens generated"] = None
    base_digest: Annotated[str | None, "digest of the base model"] = None
    worker: Annotated[str | None, "worker that ran it"] = None
    attempt: Annotated[Int32 | None, "attempt that ran it"] = None
    finished_at: Annotated[datetime | None, "time of its end, UTC"] = None
    error: Annotated[str | None, "traceback; null if nothing failed"] = None
    excess_bits: Annotated[
        float | None,
        "family `data`: code length of its examples minus that under the final adapter",
    ] = None
    num_generated: Annotated[
        int | None,
        "examples generated, not taken from the output cache; also those of a training by reward",
    ] = None
    against: Annotated[str | None, "candidate that it raced; null without a race"] = None
    gap: Annotated[
        float | None,
        "its mean score minus that of `against` on the same examples",
    ] = None
    verdict: Annotated[Verdict | None, "how the race ended: `beats`, `loses` or null"] = None
    left: Annotated[Int32 | None, "rungs until its training is complete; 0 for prompts"] = None
    pack: Annotated[str | None, "id of the pack; equal for rungs that ran together"] = None
    code_s: Annotated[float | None, "part of `seconds`: coding, building, decoding programs"] = None
    num_unjudged: Annotated[
        int | None,
        "examples without a verdict of the judge, which are left out of `score`",
    ] = None
    machine: Annotated[str | None, "digest of all that decides outputs; see `workers`"] = None
    data: Annotated[str | None, "digest of the splits and the scoring rule; see `workers`"] = None
    num_distinct: Annotated[
        int | None,
        "different outputs among those scored, white space at both ends aside",
    ] = None
    rewards: Annotated[
        tuple[float, ...] | None,
        "training by reward: mean score of the members of each generation of this rung, on train "
        "examples",
    ] = None
    best_reward: Annotated[
        float | None,
        "training by reward: mean score of the best member of the last generation",
    ] = None
    template_bits: Annotated[
        int | None,
        "part of `program_bits`: the call of the chat template in program.py; 0 outside of a chat",
    ] = None

    @property
    def part(self) -> str:
        """Return the name of its parts."""
        return rung_part(self.candidate, self.rung)

    @property
    def is_too_long(self) -> bool:
        """Return whether its program was not scored because it is longer than allowed."""
        known = self.program_bits is not None
        return known and self.score is None and self.error is None and not self.num_examples


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictionRecord(Record):
    """An output."""

    table: ClassVar[str] = "predictions"

    candidate: Annotated[str, "id of the candidate"]
    rung: Annotated[Int32 | None, "number of the rung; null on the sealed split"] = None
    split: Annotated[str, "`search` or `sealed`"]
    example: Annotated[str, "id of the example, a hash of its input"]
    output: Annotated[str, "the program's output before the task cuts it"]
    score: Annotated[
        float | None,
        "score of this output in [0, 1]; for corpus BLEU a proxy; null if a judge gave no verdict",
    ] = None
    columns: Annotated[
        str | None,
        "JSON: the metric's further columns, e.g. the level of a problem; null for most",
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionRecord(Record):
    """A decision."""

    table: ClassVar[str] = "decisions"

    candidate: Annotated[str, "id of the candidate"]
    rung: Annotated[Int32, "rung after which it was made"]
    decision: Annotated[Action, "`promote`, `stop` or `finish`"]
    reason: Annotated[str | None, "the reason in words"] = None
    compared_with: Annotated[
        tuple[str, ...] | None,
        "candidates that determined the decision",
    ] = None
    attempt: Annotated[Int32 | None, "attempt that made it"] = None
    decided_at: Annotated[datetime | None, "time of the decision, UTC"] = None
    order: Annotated[int | None, "its sequence number in the run"] = None
    later: Annotated[bool | None, "whether it goes on only when nothing else is left to try"] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgramRecord(Record):
    """A program."""

    table: ClassVar[str] = "programs"

    candidate: Annotated[str, "id of the candidate"]
    rung: Annotated[Int32, "rung after which it was built"]
    program: Annotated[str, "digest of both files"]
    program_bits: Annotated[int, "8 times bytes of both files"]
    payload_bits: Annotated[int, "8 times bytes of payload.bin"]
    codecs: Annotated[str | None, "JSON: codec of each section of the payload"] = None
    recipe: Annotated[str, "JSON: the recipe that program.py is built from"]
    script: Annotated[bytes, "program.py"]
    payload: Annotated[bytes | None, "payload.bin; null if it is larger than 1 MiB"] = None
    payload_file: Annotated[
        str | None,
        "its file in `ledger/payloads/` if it is larger, else null",
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationRecord(Record):
    """A run of a program's files."""

    table: ClassVar[str] = "verifications"

    program: Annotated[str, "digest of both files"]
    candidate: Annotated[str, "id of the candidate"]
    split: Annotated[str | None, "`search`"] = None
    num_examples: Annotated[int, "number of inputs"]
    num_equal: Annotated[int, "outputs equal to those of the search"]
    score: Annotated[float | None, "score of the outputs"] = None
    verified: Annotated[bool, "whether the program may be on the front"]
    verified_on: Annotated[
        str | None,
        "JSON: device, type, machine, Python, library versions",
    ] = None
    error: Annotated[str | None, "reason of its failure; null if it ran"] = None
    seconds: Annotated[float | None, "duration of the run"] = None
    finished_at: Annotated[datetime | None, "time of its end, UTC"] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OpeningRecord(Record):
    """A selection of programs for a sealed split."""

    table: ClassVar[str] = "openings"

    opening: Annotated[str, "id of the opening"]
    sealed_digest: Annotated[str, "digest of the sealed split"]
    num_examples: Annotated[int, "examples in that split"]
    selection: Annotated[tuple[str, ...], "`PROGRAM@BASE_DIGEST` of each selected program"]
    selection_digest: Annotated[str, "digest of that list"]
    num_programs: Annotated[int, "number of programs that share the level"]
    level: Annotated[float, "probability that all bounds hold"]
    targets: Annotated[tuple[float, ...], "target scores of the sweeps, ascending"]
    repeated: Annotated[bool, "whether the split was opened for another selection before"]
    attempt: Annotated[Int32 | None, "attempt that opened it"] = None
    opened_at: Annotated[datetime, "time, UTC, before any program saw the split"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateRecord(Record):
    """A program on a sealed split."""

    table: ClassVar[str] = "certificates"

    program: Annotated[str, "digest of both files"]
    candidate: Annotated[str, "id of the candidate"]
    split: Annotated[str | None, "`sealed`"] = None
    num_examples: Annotated[int, "examples in that split"]
    score: Annotated[float | None, "score on that split; null if the program failed"] = None
    lower: Annotated[
        float | None,
        "lower bound, simultaneous with all other bounds of the opening",
    ] = None
    upper: Annotated[float | None, "upper bound, likewise"] = None
    level: Annotated[float, "probability that all bounds of the opening hold"]
    num_programs: Annotated[int, "number of programs of the opening"]
    opening: Annotated[str, "id of the opening"]
    repeated: Annotated[bool, "whether the split was opened for another selection before"]
    base_digest: Annotated[str | None, "digest of the base model"] = None
    error: Annotated[str | None, "reason of its failure; null if it ran"] = None
    finished_at: Annotated[datetime, "time of its end, UTC"]
    machine: Annotated[str | None, "digest of all that decided outputs; see `workers`"] = None
    data: Annotated[str | None, "digest of the splits and the scoring rule; see `workers`"] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRecord(Record):
    """A model load."""

    table: ClassVar[str] = "workers"

    worker: Annotated[str, "worker that loaded the model"]
    model: Annotated[str, "name of the base model"]
    base_digest: Annotated[str | None, "digest of all its parts"] = None
    parts: Annotated[
        str | None,
        "JSON: digest of each part of the base model, and what else decides outputs: device, type, "
        "library versions, whether the train split is part of the machine",
    ] = None
    data: Annotated[
        str | None, "JSON: digest of each split of the task, and of the scoring rule"
    ] = None
    num_parameters: Annotated[int | None, "parameters of the base model"] = None
    load_s: Annotated[float | None, "seconds to load it"] = None
    host: Annotated[str | None, "name of the machine"] = None
    pid: Annotated[int | None, "process id on that machine"] = None
    versions: Annotated[str | None, "JSON: library versions"] = None
    started_at: Annotated[datetime | None, "time of the start, UTC"] = None
    alone: Annotated[
        str | None, "reason for which its candidates run one by one; null if they share passes"
    ] = None
    machine: Annotated[
        str | None, "digest of `parts`; null in runs of versions that recorded less"
    ] = None
    weight_bytes: Annotated[
        int | None, "bytes of its weights as they are kept, over all ranks; null in older runs"
    ] = None


RECORDS: tuple[type[Record], ...] = (
    CandidateRecord,
    RungRecord,
    PredictionRecord,
    DecisionRecord,
    ProgramRecord,
    VerificationRecord,
    OpeningRecord,
    CertificateRecord,
    WorkerRecord,
)
