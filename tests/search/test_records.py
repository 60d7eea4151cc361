"""A record and the row of its table are the same values."""

import pyarrow as pa
import pytest

from kilobit.evaluators.ledger.tables import TABLES, columns
from kilobit.search.records import RECORDS, Record, RungRecord, rung_part


def test_a_record_is_the_one_of_its_row() -> None:
    def example(kind: pa.DataType) -> object:
        if pa.types.is_list(kind):
            return [example(kind.value_type)]
        text = pa.types.is_string(kind) or pa.types.is_binary(kind)
        return pa.array(["7"] if text else [1]).cast(kind)[0].as_py()

    def check(record: type[Record]) -> None:
        row = {name: example(kind) for name, kind, _ in columns(record)}
        whole = pa.Table.from_pylist([row], schema=TABLES[record.table])
        (found,) = record.all_of(whole)
        again = pa.Table.from_pylist([found.row()], schema=TABLES[record.table])
        assert again == whole
        assert hash(found) == hash(record.of(row))

    for record in RECORDS:
        check(record)


def test_an_unknown_column_is_refused() -> None:
    known = {"candidate": "a", "rung": 0, "num_examples": 1}
    assert RungRecord.of(known).score is None
    with pytest.raises(TypeError, match="scroe"):
        RungRecord.of(known | {"scroe": 1})


def test_parts_are_named_by_candidate_and_rung() -> None:
    record = RungRecord(candidate="a", rung=3, num_examples=1)
    assert record.part == rung_part("a", 3) == "a-r3"
