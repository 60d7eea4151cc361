"""The columns of the ledger's tables. A column may be added, none changes its meaning.

`docs/ledger.md` is made from this by `docs/make_reference.py`. Unknown is null.
"""

from dataclasses import dataclass

import pyarrow as pa

_TIME = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Table:
    """A table of the ledger.

    Attributes:
        row: what a row of it is.
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
            ("spec", pa.string(), "all that decides what it does, canonical JSON"),
            ("seed", pa.int64(), "of the run"),
            (
                "estimated_bits",
                pa.int64(),
                "upper bound of its payload before anything was trained; null where there is none",
            ),
            ("parent", pa.string(), "candidate that it was made from; null for a fresh one"),
            (
                "position",
                pa.int64(),
                "its place in the order of proposals; null for a coarser coding",
            ),
            ("after", pa.int64(), "decisions that had been made when it was proposed"),
            (
                "operator",
                pa.string(),
                "how it was proposed: `random`, `grid`, …; `coarsen`: as a coarser coding",
            ),
        ),
    ),
    "rungs": Table(
        "a candidate at a rung",
        (
            ("candidate", pa.string(), "whose"),
            ("rung", pa.int32(), "which, from 0"),
            ("split", pa.string(), "`search`"),
            ("train_steps", pa.int64(), "optimizer steps it had been trained for"),
            (
                "num_examples",
                pa.int64(),
                "examples scored, fewer than the rung's where a race ended early",
            ),
            ("score", pa.float64(), "task score in [0, 1]; null if it failed"),
            ("lower", pa.float64(), "lower end of the 95 % interval of this score alone"),
            ("upper", pa.float64(), "upper end of it"),
            ("program_bits", pa.int64(), "8 times bytes of program.py and payload.bin"),
            ("payload_bits", pa.int64(), "8 times bytes of payload.bin"),
            ("program", pa.string(), "digest of both files; null where no program was kept"),
            ("train_loss", pa.float64(), "mean training loss of the last steps, nats a token"),
            ("seconds", pa.float64(), "time it took at this rung in all"),
            ("train_s", pa.float64(), "of that, training"),
            ("generate_s", pa.float64(), "of that, generating"),
            ("train_tokens", pa.int64(), "tokens trained on"),
            ("input_tokens", pa.int64(), "tokens read in generation"),
            ("output_tokens", pa.int64(), "tokens generated"),
            ("base_digest", pa.string(), "digest of the base model's weights"),
            ("worker", pa.string(), "who did it"),
            ("attempt", pa.int32(), "attempt at the run in which it was done"),
            ("finished_at", _TIME, "when, UTC"),
            ("error", pa.string(), "traceback; null where nothing failed"),
            (
                "excess_bits",
                pa.float64(),
                "of `data`: code length of its examples above that under the final adapter",
            ),
            ("num_generated", pa.int64(), "examples that did not come from the cache of outputs"),
            ("against", pa.string(), "whom it raced, a candidate; null without a race"),
            ("gap", pa.float64(), "its mean score less that of `against`, on the same examples"),
            ("verdict", pa.string(), "how the race ended: `beats`, `loses` or null"),
            ("left", pa.int32(), "rungs until no more training changes it; 0 for prompts"),
            ("pack", pa.string(), "the same for rungs that ran together"),
            ("code_s", pa.float64(), "of `seconds`, coding, building and decoding programs"),
        ),
    ),
    "predictions": Table(
        "an output",
        (
            ("candidate", pa.string(), "whose"),
            ("rung", pa.int32(), "at which; null on the sealed split"),
            ("split", pa.string(), "`search` or `sealed`"),
            ("example", pa.string(), "id of the example, a hash of its input"),
            ("output", pa.string(), "what the program printed, before the task cuts it"),
            ("score", pa.float64(), "of this output, in [0, 1]; for corpus BLEU a proxy"),
            (
                "columns",
                pa.string(),
                "JSON: what the metric says besides, such as the level of a problem; null for most",
            ),
        ),
    ),
    "decisions": Table(
        "a decision",
        (
            ("candidate", pa.string(), "about whom"),
            ("rung", pa.int32(), "after which"),
            ("decision", pa.string(), "`promote`, `stop` or `finish`"),
            ("reason", pa.string(), "in words"),
            ("compared_with", pa.list_(pa.string()), "candidates that decided"),
            ("attempt", pa.int32(), "in which it was made"),
            ("decided_at", _TIME, "when, UTC"),
            ("order", pa.int64(), "its number in the run"),
        ),
    ),
    "programs": Table(
        "a program",
        (
            ("candidate", pa.string(), "whose"),
            ("rung", pa.int32(), "after which"),
            ("program", pa.string(), "digest of both files"),
            ("program_bits", pa.int64(), "8 times bytes of both files"),
            ("payload_bits", pa.int64(), "8 times bytes of payload.bin"),
            ("codecs", pa.string(), "JSON: codec of each section of the payload"),
            ("recipe", pa.string(), "JSON: what program.py is made from"),
            ("script", pa.binary(), "program.py"),
            ("payload", pa.binary(), "payload.bin; null where it is larger than 1 MiB"),
            ("payload_file", pa.string(), "its name in `ledger/payloads/` then, else null"),
        ),
    ),
    "verifications": Table(
        "a run of a program's files",
        (
            ("program", pa.string(), "digest of both files"),
            ("candidate", pa.string(), "whose"),
            ("split", pa.string(), "`search`"),
            ("num_examples", pa.int64(), "inputs that it was given"),
            ("num_equal", pa.int64(), "outputs that are those of the search"),
            ("score", pa.float64(), "of what it printed"),
            ("verified", pa.bool_(), "whether it may be on the front"),
            (
                "verified_on",
                pa.string(),
                "JSON: device, type, machine, Python, versions of libraries",
            ),
            ("error", pa.string(), "why it failed; null where it ran"),
            ("seconds", pa.float64(), "how long it ran"),
            ("finished_at", _TIME, "when, UTC"),
        ),
    ),
    "openings": Table(
        "a choice of programs for a sealed split",
        (
            ("opening", pa.string(), "its id"),
            ("sealed_digest", pa.string(), "digest of the sealed split"),
            ("num_examples", pa.int64(), "in that split"),
            ("selection", pa.list_(pa.string()), "`PROGRAM@BASE_DIGEST` of each chosen program"),
            ("selection_digest", pa.string(), "digest of that list"),
            ("num_programs", pa.int64(), "programs that share the level"),
            ("level", pa.float64(), "probability that all bounds hold"),
            ("targets", pa.list_(pa.float64()), "of the sweeps, ascending"),
            ("repeated", pa.bool_(), "the split had served another choice before"),
            ("attempt", pa.int32(), "in which it was opened"),
            ("opened_at", _TIME, "when, UTC: before a program saw it"),
        ),
    ),
    "certificates": Table(
        "a program on a sealed split",
        (
            ("program", pa.string(), "digest of both files"),
            ("candidate", pa.string(), "whose"),
            ("split", pa.string(), "`sealed`"),
            ("num_examples", pa.int64(), "in that split"),
            ("score", pa.float64(), "there; null if the program failed"),
            (
                "lower",
                pa.float64(),
                "bound from below, holds with all others of the opening at once",
            ),
            ("upper", pa.float64(), "bound from above, likewise"),
            ("level", pa.float64(), "probability that all of them hold"),
            ("num_programs", pa.int64(), "programs of the opening"),
            ("opening", pa.string(), "which"),
            ("repeated", pa.bool_(), "the split had served another choice before"),
            ("base_digest", pa.string(), "digest of the base model's weights"),
            ("error", pa.string(), "why it failed; null where it ran"),
            ("finished_at", _TIME, "when, UTC"),
        ),
    ),
    "workers": Table(
        "a model load",
        (
            ("worker", pa.string(), "who loaded it"),
            ("model", pa.string(), "name of the base model"),
            ("base_digest", pa.string(), "digest of its weights"),
            ("num_parameters", pa.int64(), "of the base model"),
            ("load_s", pa.float64(), "seconds that it took"),
            ("host", pa.string(), "name of the machine"),
            ("pid", pa.int64(), "process there"),
            ("versions", pa.string(), "JSON: versions of libraries"),
            ("started_at", _TIME, "when, UTC"),
        ),
    ),
}
TABLES: dict[str, pa.Schema] = {
    name: pa.schema([(column, kind) for column, kind, _ in table.columns])
    for name, table in MEANINGS.items()
}
