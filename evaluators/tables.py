"""The columns of the ledger's tables. A column may be added, none changes its meaning."""

import pyarrow as pa

_TIME = pa.timestamp("us", tz="UTC")
TABLES: dict[str, pa.Schema] = {
    "candidates": pa.schema(
        [
            ("candidate", pa.string()),
            ("task", pa.string()),
            ("model", pa.string()),
            ("regime", pa.string()),
            ("family", pa.string()),
            ("spec", pa.string()),
            ("seed", pa.int64()),
            ("estimated_bits", pa.int64()),
            ("parent", pa.string()),
            ("position", pa.int64()),
            ("after", pa.int64()),
            ("operator", pa.string()),
        ]
    ),
    "rungs": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("split", pa.string()),
            ("train_steps", pa.int64()),
            ("num_examples", pa.int64()),
            ("score", pa.float64()),
            ("lower", pa.float64()),
            ("upper", pa.float64()),
            ("program_bits", pa.int64()),
            ("payload_bits", pa.int64()),
            ("program", pa.string()),
            ("train_loss", pa.float64()),
            ("seconds", pa.float64()),
            ("train_s", pa.float64()),
            ("generate_s", pa.float64()),
            ("train_tokens", pa.int64()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("base_digest", pa.string()),
            ("worker", pa.string()),
            ("attempt", pa.int32()),
            ("finished_at", _TIME),
            ("error", pa.string()),
            ("excess_bits", pa.float64()),
            ("num_generated", pa.int64()),
            ("against", pa.string()),
            ("gap", pa.float64()),
            ("verdict", pa.string()),
            ("left", pa.int32()),
            ("pack", pa.string()),
            ("code_s", pa.float64()),
        ]
    ),
    "predictions": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("split", pa.string()),
            ("example", pa.string()),
            ("output", pa.string()),
            ("score", pa.float64()),
            ("columns", pa.string()),
        ]
    ),
    "decisions": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("decision", pa.string()),
            ("reason", pa.string()),
            ("compared_with", pa.list_(pa.string())),
            ("attempt", pa.int32()),
            ("decided_at", _TIME),
            ("order", pa.int64()),
        ]
    ),
    "programs": pa.schema(
        [
            ("candidate", pa.string()),
            ("rung", pa.int32()),
            ("program", pa.string()),
            ("program_bits", pa.int64()),
            ("payload_bits", pa.int64()),
            ("codecs", pa.string()),
            ("recipe", pa.string()),
            ("script", pa.binary()),
            ("payload", pa.binary()),
            ("payload_file", pa.string()),
        ]
    ),
    "verifications": pa.schema(
        [
            ("program", pa.string()),
            ("candidate", pa.string()),
            ("split", pa.string()),
            ("num_examples", pa.int64()),
            ("num_equal", pa.int64()),
            ("score", pa.float64()),
            ("verified", pa.bool_()),
            ("verified_on", pa.string()),
            ("error", pa.string()),
            ("seconds", pa.float64()),
            ("finished_at", _TIME),
        ]
    ),
    "openings": pa.schema(
        [
            ("opening", pa.string()),
            ("sealed_digest", pa.string()),
            ("num_examples", pa.int64()),
            ("selection", pa.list_(pa.string())),
            ("selection_digest", pa.string()),
            ("num_programs", pa.int64()),
            ("level", pa.float64()),
            ("targets", pa.list_(pa.float64())),
            ("repeated", pa.bool_()),
            ("attempt", pa.int32()),
            ("opened_at", _TIME),
        ]
    ),
    "certificates": pa.schema(
        [
            ("program", pa.string()),
            ("candidate", pa.string()),
            ("split", pa.string()),
            ("num_examples", pa.int64()),
            ("score", pa.float64()),
            ("lower", pa.float64()),
            ("upper", pa.float64()),
            ("level", pa.float64()),
            ("num_programs", pa.int64()),
            ("opening", pa.string()),
            ("repeated", pa.bool_()),
            ("base_digest", pa.string()),
            ("error", pa.string()),
            ("finished_at", _TIME),
        ]
    ),
    "workers": pa.schema(
        [
            ("worker", pa.string()),
            ("model", pa.string()),
            ("base_digest", pa.string()),
            ("num_parameters", pa.int64()),
            ("load_s", pa.float64()),
            ("host", pa.string()),
            ("pid", pa.int64()),
            ("versions", pa.string()),
            ("started_at", _TIME),
        ]
    ),
}
