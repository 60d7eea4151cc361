import pyarrow as pa

from kilobit.evaluators.ledger.parts import TABLES, columns
from kilobit.search.records import RECORDS


def test_every_table_has_a_schema_with_its_columns_in_order() -> None:
    assert list(TABLES) == [record.table for record in RECORDS]
    for record in RECORDS:
        assert TABLES[record.table].names == [name for name, _, _ in columns(record)]
        assert TABLES[record.table].types == [kind for _, kind, _ in columns(record)]


def test_every_column_says_what_it_means_and_none_is_there_twice() -> None:
    for record in RECORDS:
        assert (record.__doc__ or "").startswith(("A ", "An ", "One ", "The "))
        names = [name for name, _, _ in columns(record)]
        assert len(names) == len(set(names))
        assert all(meaning.strip() for _, _, meaning in columns(record))


def test_the_columns_that_old_runs_have_keep_their_names_and_types() -> None:
    old = {"candidate": pa.string(), "rung": pa.int32(), "score": pa.float64()}
    schema = TABLES["rungs"]
    assert {name: schema.field(name).type for name in old} == old
    assert schema.field("program_bits").type == schema.field("payload_bits").type == pa.int64()
