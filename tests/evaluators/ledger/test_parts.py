from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import TABLES, DamagedError, as_parquet, checked, read_parquet
from tests.support.rows import part_rows, write_rows


@pytest.mark.parametrize("few", [True, False])
def test_a_flipped_bit_of_a_part_is_seen(tmp_path: Path, few: bool) -> None:
    ledger = Ledger(tmp_path, 1)
    rows = [{"candidate": "c", "output": f"the output {i}"} for i in range(8 if few else 2000)]
    path = write_rows(ledger, "predictions", "c-r0", rows)
    content = bytearray(path.read_bytes())
    place = content.index(b"the output") if few else len(content) // 3
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"c-r0\.a1\.parquet: not a part of a ledger") as found:
        part_rows(ledger, "predictions", "c-r0")
    assert found.value.path == path
    ledger.set_aside(path)
    assert part_rows(ledger, "predictions", "c-r0") is None
    assert path.with_name(f"{path.name}.damaged").exists()


def _value(kind: pa.DataType) -> Any:
    """Return a value of a column that no damage turns into another valid one by itself."""
    if pa.types.is_timestamp(kind):
        return datetime(2026, 1, 1, tzinfo=UTC)
    if pa.types.is_list(kind):
        return [_value(kind.value_type)]
    of = {pa.types.is_floating: 0.5, pa.types.is_integer: 7, pa.types.is_boolean: True}
    of |= {pa.types.is_binary: b"abc", pa.types.is_string: "text"}
    return next(value for is_kind, value in of.items() if is_kind(kind))


@pytest.mark.parametrize("table", TABLES)
def test_no_flipped_bit_of_any_table_changes_a_value(tmp_path: Path, table: str) -> None:
    schema, path = TABLES[table], tmp_path / "a-r0.a1.parquet"
    row = {field.name: _value(field.type) for field in schema}
    content = as_parquet(pa.Table.from_pylist([row], schema=schema), path.name, "run")
    assert read_parquet(path, schema, content, "run").to_pylist() == [row]
    found = 0
    for at in range(len(content)):
        flipped = content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        try:
            rows = read_parquet(path, schema, flipped, "run").to_pylist()
        except ValueError:
            found += 1
            continue
        # In the key of the checksum a letter is wrong: then it is a file of an older version.
        assert rows == [row], at
    assert found > 0.98 * len(content)


def test_a_file_without_a_checksum_of_the_whole_is_read(tmp_path: Path) -> None:
    content = as_parquet(pa.table({"a": [1]})).replace(b"kilobit_crc32", b"kilobit_other")
    assert checked(content) == content
