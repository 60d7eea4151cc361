"""The tables and columns of the ledger. Columns may be added, but never change their meaning.

`docs/make_reference.py` generates `docs/ledger.md` from this module. Unknown values are null.
"""

from dataclasses import dataclass

import pyarrow as pa

_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """A table of the ledger.

    Attributes:
        row: the thing that one row describes.
        columns: name, type and meaning of each column.
    """

    row: str
    columns: tuple[tuple[str, pa.DataType, str], ...]


MEANINGS: dict[str, Table] = {
    "candidates": Table(
        "a candidate",
        (
            ("candidate", pa.string(), "id: 16 hex digits of a hash of `spec`"),
            ("task", pa.string(), "name of the task"),
            ("model", pa.string(), "name of the base model"),
            ("regime", pa.string(), "label of the base model: random, pretrained, …"),
            ("family", pa.string(), "`prompt`, or the method of its adapter"),
            ("spec", pa.string(), "canonical JSON of everything that determines its results"),
            ("seed", pa.int64(), "seed of the run"),
            (
                "estimated_bits",
                pa.int64(),
                "upper bound of its payload bits before any training; null if there is none",
            ),
            ("parent", pa.string(), "candidate that it was derived from; null for a fresh one"),
            (
                "position",
                pa.int64(),
                "its position in the order of proposals; null for a coarsening",
            ),
            ("after", pa.int64(), "number of decisions made before it was proposed"),
            (
                "operator",
                pa.string(),
                "how it was proposed: `random`, `grid`, …; `coarsen` for a coarsening",
            ),
        ),
    ),
    "rungs": Table(
        "a candidate at a rung",
        (
            ("candidate", pa.string(), "id of the candidate"),
            ("rung", pa.int32(), "number of the rung, from 0"),
            ("split", pa.string(), "`search`"),
            ("train_steps", pa.int64(), "optimizer steps of training so far"),
            (
                "num_examples",
                pa.int64(),
                "examples scored; fewer than the rung has if a race ended early",
            ),
            ("score", pa.float64(), "task score in [0, 1]; null if it failed"),
            ("lower", pa.float64(), "lower end of the 95 % interval of this score alone"),
            ("upper", pa.float64(), "upper end of it"),
            ("program_bits", pa.int64(), "8 times bytes of program.py and payload.bin"),
            ("payload_bits", pa.int64(), "8 times bytes of payload.bin"),
            ("program", pa.string(), "digest of both files; null if no program was kept"),
            ("train_loss", pa.float64(), "mean training loss of the last steps, in nats per token"),
            ("seconds", pa.float64(), "total time at this rung"),
            ("train_s", pa.float64(), "part of `seconds`: training"),
            ("generate_s", pa.float64(), "part of `seconds`: generating"),
            ("train_tokens", pa.int64(), "tokens trained on"),
            ("input_tokens", pa.int64(), "tokens read in generation"),
            ("output_tokens", pa.int64(), "tokens generated"),
            ("base_digest", pa.string(), "digest of the base model's weights"),
            ("worker", pa.string(), "worker that ran it"),
            ("attempt", pa.int32(), "attempt that ran it"),
            ("finished_at", _TIME, "time of its end, UTC"),
            ("error", pa.string(), "traceback; null if nothing failed"),
            (
                "excess_bits",
                pa.float64(),
                "family `data`: code length of its examples minus that under the final adapter",
            ),
            ("num_generated", pa.int64(), "examples generated, not taken from the output cache"),
            ("against", pa.string(), "candidate that it raced; null without a race"),
            ("gap", pa.float64(), "its mean score minus that of `against` on the same examples"),
            ("verdict", pa.string(), "how the race ended: `beats`, `loses` or null"),
            ("left", pa.int32(), "rungs until its training is complete; 0 for prompts"),
            ("pack", pa.string(), "id of the pack; equal for rungs that ran together"),
            ("code_s", pa.float64(), "part of `seconds`: coding, building, decoding programs"),
        ),
    ),
    "predictions": Table(
        "an output",
        (
            ("candidate", pa.string(), "id of the candidate"),
            ("rung", pa.int32(), "number of the rung; null on the sealed split"),
            ("split", pa.string(), "`search` or `sealed`"),
            ("example", pa.string(), "id of the example, a hash of its input"),
            ("output", pa.string(), "the program's output before the task cuts it"),
            ("score", pa.float64(), "score of this output in [0, 1]; for corpus BLEU a proxy"),
            (
                "columns",
                pa.string(),
                "JSON: the metric's further columns, e.g. the level of a problem; null for most",
            ),
        ),
    ),
    "decisions": Table(
        "a decision",
        (
            ("candidate", pa.string(), "id of the candidate"),
            ("rung", pa.int32(), "rung after which it was made"),
            ("decision", pa.string(), "`promote`, `stop` or `finish`"),
            ("reason", pa.string(), "the reason in words"),
            ("compared_with", pa.list_(pa.string()), "candidates that determined the decision"),
            ("attempt", pa.int32(), "attempt that made it"),
            ("decided_at", _TIME, "time of the decision, UTC"),
            ("order", pa.int64(), "its sequence number in the run"),
        ),
    ),
    "programs": Table(
        "a program",
        (
            ("candidate", pa.string(), "id of the candidate"),
            ("rung", pa.int32(), "rung after which it was built"),
            ("program", pa.string(), "digest of both files"),
            ("program_bits", pa.int64(), "8 times bytes of both files"),
            ("payload_bits", pa.int64(), "8 times bytes of payload.bin"),
            ("codecs", pa.string(), "JSON: codec of each section of the payload"),
            ("recipe", pa.string(), "JSON: the recipe that program.py is built from"),
            ("script", pa.binary(), "program.py"),
            ("payload", pa.binary(), "payload.bin; null if it is larger than 1 MiB"),
            (
                "payload_file",
                pa.string(),
                "its file in `ledger/payloads/` if it is larger, else null",
            ),
        ),
    ),
    "verifications": Table(
        "a run of a program's files",
        (
            ("program", pa.string(), "digest of both files"),
            ("candidate", pa.string(), "id of the candidate"),
            ("split", pa.string(), "`search`"),
            ("num_examples", pa.int64(), "number of inputs"),
            ("num_equal", pa.int64(), "outputs equal to those of the search"),
            ("score", pa.float64(), "score of the outputs"),
            ("verified", pa.bool_(), "whether the program may be on the front"),
            (
                "verified_on",
                pa.string(),
                "JSON: device, type, machine, Python, library versions",
            ),
            ("error", pa.string(), "reason of its failure; null if it ran"),
            ("seconds", pa.float64(), "duration of the run"),
            ("finished_at", _TIME, "time of its end, UTC"),
        ),
    ),
    "openings": Table(
        "a selection of programs for a sealed split",
        (
            ("opening", pa.string(), "id of the opening"),
            ("sealed_digest", pa.string(), "digest of the sealed split"),
            ("num_examples", pa.int64(), "examples in that split"),
            ("selection", pa.list_(pa.string()), "`PROGRAM@BASE_DIGEST` of each selected program"),
            ("selection_digest", pa.string(), "digest of that list"),
            ("num_programs", pa.int64(), "number of programs that share the level"),
            ("level", pa.float64(), "probability that all bounds hold"),
            ("targets", pa.list_(pa.float64()), "target scores of the sweeps, ascending"),
            ("repeated", pa.bool_(), "whether the split was opened for another selection before"),
            ("attempt", pa.int32(), "attempt that opened it"),
            ("opened_at", _TIME, "time, UTC, before any program saw the split"),
        ),
    ),
    "certificates": Table(
        "a program on a sealed split",
        (
            ("program", pa.string(), "digest of both files"),
            ("candidate", pa.string(), "id of the candidate"),
            ("split", pa.string(), "`sealed`"),
            ("num_examples", pa.int64(), "examples in that split"),
            ("score", pa.float64(), "score on that split; null if the program failed"),
            (
                "lower",
                pa.float64(),
                "lower bound, simultaneous with all other bounds of the opening",
            ),
            ("upper", pa.float64(), "upper bound, likewise"),
            ("level", pa.float64(), "probability that all bounds of the opening hold"),
            ("num_programs", pa.int64(), "number of programs of the opening"),
            ("opening", pa.string(), "id of the opening"),
            ("repeated", pa.bool_(), "whether the split was opened for another selection before"),
            ("base_digest", pa.string(), "digest of the base model's weights"),
            ("error", pa.string(), "reason of its failure; null if it ran"),
            ("finished_at", _TIME, "time of its end, UTC"),
        ),
    ),
    "workers": Table(
        "a model load",
        (
            ("worker", pa.string(), "worker that loaded the model"),
            ("model", pa.string(), "name of the base model"),
            ("base_digest", pa.string(), "digest of its weights"),
            ("num_parameters", pa.int64(), "parameters of the base model"),
            ("load_s", pa.float64(), "seconds to load it"),
            ("host", pa.string(), "name of the machine"),
            ("pid", pa.int64(), "process id on that machine"),
            ("versions", pa.string(), "JSON: library versions"),
            ("started_at", _TIME, "time of the start, UTC"),
        ),
    ),
}
TABLES: dict[str, pa.Schema] = {
    name: pa.schema([(column, kind) for column, kind, _ in table.columns])
    for name, table in MEANINGS.items()
}
