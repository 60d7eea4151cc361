"""Cache of generated outputs, so that no example goes twice through the same program.

A file holds the raw outputs, before any post-processing, of all programs that generate the same
way: its key is a digest of the base model, the text before the question, the adapter's numbers and
the limits. Programs that differ only in post-processing share it, and so do rungs, attempts, and
runs with the same folder. Outputs are stored per batch, because float sums, and with them a near
tie between two tokens, may depend on the other examples of the batch: a stored batch is used only
for the same examples in the same order.

Results never depend on the cache. A file that is damaged or can't be read counts as absent, and if
two workers write the same file at once, the later write wins.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from kilobit.evaluators.ledger.parts import as_parquet, read_parquet
from kilobit.evaluators.ledger.storage import Place, write_whole

_SCHEMA = pa.schema(
    [
        ("batch", pa.string()),
        ("outputs", pa.list_(pa.string())),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Batch:
    """Raw outputs of examples that were generated together, with numbers of tokens."""

    outputs: tuple[str, ...]
    input_tokens: int
    output_tokens: int


def cache_key(parts: Mapping[str, object]) -> str:
    """Return the digest of everything that determines raw outputs (32 hex digits)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class PredictionCache:
    """A folder of cached outputs, one file per key."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder

    def open(self, key: str) -> "CachedOutputs":
        """Return the cached outputs of `key`, empty if there are none."""
        return CachedOutputs(self._folder / key[:2] / f"{key}.parquet")


class CachedOutputs:
    """The cached outputs of one key; `save` writes added batches."""

    def __init__(self, path: Place) -> None:
        self._path = path
        self._batches: dict[str, Batch] = {}
        self._saved = 0
        with suppress(OSError, ValueError):
            rows = read_parquet(path, _SCHEMA).to_pylist()
            self._batches = {
                row["batch"]: Batch(
                    tuple(row["outputs"]), row["input_tokens"], row["output_tokens"]
                )
                for row in rows
            }
            self._saved = len(self._batches)

    def get(self, examples: Sequence[str]) -> Batch | None:
        """Return the batch of exactly these example ids in this order, or None."""
        found = self._batches.get(_name(examples))
        return found if found is not None and len(found.outputs) == len(examples) else None

    def add(self, examples: Sequence[str], batch: Batch) -> None:
        """Add the batch that was generated for these example ids."""
        assert len(examples) == len(batch.outputs)
        self._batches[_name(examples)] = batch

    def of(self, name: str) -> "CachedOutputs":
        """Return the part of these outputs that belongs to `name`, and is saved with them."""
        return _Part(self, name)

    def save(self) -> None:
        """Write the file if batches were added since the last save.

        Raises:
            OSError: if it can't be written.
        """
        if len(self._batches) == self._saved:
            return
        rows = [{"batch": name} | vars(batch) for name, batch in self._batches.items()]
        content = pa.Table.from_pylist(rows, schema=_SCHEMA)
        write_whole(self._path, as_parquet(content, self._path.name))
        self._saved = len(self._batches)


class _Part(CachedOutputs):
    """The cached outputs of one name among those of a key."""

    def __init__(self, whole: CachedOutputs, name: str) -> None:
        self._whole, self._of = whole, name

    def get(self, examples: Sequence[str]) -> Batch | None:
        return self._whole.get([f"{self._of} {example}" for example in examples])

    def add(self, examples: Sequence[str], batch: Batch) -> None:
        self._whole.add([f"{self._of} {example}" for example in examples], batch)

    def save(self) -> None:
        self._whole.save()


def _name(examples: Sequence[str]) -> str:
    return hashlib.sha256("\x1f".join(examples).encode()).hexdigest()[:32]
