import pyarrow as pa
import pytest

from kilobit.evaluators.ledger.parts import TABLES, columns
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


def test_a_part_is_named_by_candidate_and_rung() -> None:
    record = RungRecord(candidate="c", rung=2, num_examples=1)
    assert record.part == rung_part("c", 2) == "c-r2"


def test_a_row_without_what_every_row_has_or_with_more_is_no_record() -> None:
    whole = {"candidate": "c", "rung": 0, "num_examples": 1}
    assert RungRecord.of(whole).score is None
    for row in ({"candidate": "c", "rung": 0}, whole | {"colour": "red"}):
        with pytest.raises(TypeError):
            RungRecord.of(row)
