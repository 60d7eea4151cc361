"""Write the rows of a unit that survive deduplication to one file of a data set."""

import re
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from evaluators.dataset import RUN, schema_of
from evaluators.duplicates import Marks
from evaluators.parts import PART, SCHEMA_VERSION, DamagedError
from evaluators.storage import write_whole
from evaluators.units import Unit, Waiting

_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 1 << 26
_PAYLOAD = re.compile(r"payloads/[0-9a-f]{8,64}\.bin")
_FEW_VALUES = {
    "candidates": ["task", "model", "regime", "family"],
    "predictions": ["candidate", "rung", "split", "example"],
    "rungs": ["rung", "split", "base_digest", "worker", "error", "verdict"],
}


@dataclass(frozen=True)
class Staying:
    """The surviving rows of a unit and the file they are written to.

    Attributes:
        unit: all rows of the unit.
        run: their value in the column `run`.
        path: the output file, in the folder of its table in a data set.
        goes: a mark per row, True if the row is dropped; None if all rows survive.
    """

    unit: Unit
    run: str
    path: Path
    goes: Marks | None

    def write(self) -> tuple[int, int]:
        """Write the surviving rows, if any; return the number of rows read and of rows kept.

        Raises:
            ValueError: naming the file, if one is damaged, of a newer version, or changed
                meanwhile.
            OSError: if one can't be read or written.
        """
        schema = schema_of(self.unit.table)
        read = kept = 0
        waiting = Waiting(_GROUP_ROWS, _GROUP_BYTES)
        writer: pq.ParquetWriter | None = None
        try:
            for batch in self.unit.batches(schema.names[:-1]):
                stays = self._of_those_that_stay(batch, read)
                read, kept = read + len(batch), kept + len(stays)
                if not len(stays):
                    continue
                self._copy_payloads(stays)
                writer = writer or parquet_writer(self.path, schema, self.unit.table)
                if waiting.add(stays):
                    writer.write_table(pa.Table.from_batches(waiting.taken(), schema))
            if self.goes is not None and read != len(self.goes):
                raise ValueError(f"{self.unit.files[0].path}: the file changed while it was read")
            if writer is not None and waiting.batches:
                writer.write_table(pa.Table.from_batches(waiting.taken(), schema))
        finally:
            if writer is not None:
                writer.close()
        return read, kept

    def _of_those_that_stay(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        if self.goes is not None:
            goes = self.goes[first : first + len(batch)]
            if goes.any():
                batch = batch.filter(pa.array(~goes))
        return batch.append_column(RUN, pa.repeat(pa.scalar(self.run), len(batch)))

    def _copy_payloads(self, batch: pa.RecordBatch) -> None:
        if self.unit.table != "programs":
            return
        for name in batch.column("payload_file").drop_null().unique().to_pylist():
            path = self.unit.root / name
            if not _PAYLOAD.fullmatch(name):
                raise DamagedError(self.unit.root / "programs", f"{name!r} is not a payload file")
            to = self.path.parent.parent / name
            if not to.exists():
                try:
                    write_whole(to, path.read_bytes())
                except FileNotFoundError as error:
                    raise DamagedError(path, "the payload of a program is missing") from error


def parquet_writer(path: Path, schema: pa.Schema, table: str) -> pq.ParquetWriter:
    """Return a Parquet writer for one file of a table of a data set."""
    return pq.ParquetWriter(
        path,
        schema.with_metadata({"kilobit_schema": SCHEMA_VERSION}),
        compression="zstd",
        use_dictionary=[*_FEW_VALUES.get(table, ()), PART.name, RUN.name],
        write_page_checksum=True,
    )
