import pyarrow as pa

from kilobit.evaluators.ledger.tables import MEANINGS, TABLES


def test_every_table_has_a_schema_with_its_columns_in_order() -> None:
    assert set(TABLES) == set(MEANINGS)
    for name, table in MEANINGS.items():
        assert TABLES[name].names == [column for column, _, _ in table.columns]
        assert TABLES[name].types == [kind for _, kind, _ in table.columns]


def test_every_column_says_what_it_means_and_none_is_there_twice() -> None:
    for table in MEANINGS.values():
        assert table.row.startswith(("a ", "an ", "one ", "the "))
        names = [name for name, _, _ in table.columns]
        assert len(names) == len(set(names))
        assert all(meaning.strip() for _, _, meaning in table.columns)


def test_the_columns_that_old_runs_have_keep_their_names_and_types() -> None:
    old = {"candidate": pa.string(), "rung": pa.int32(), "score": pa.float64()}
    schema = TABLES["rungs"]
    assert {name: schema.field(name).type for name in old} == old
    assert schema.field("program_bits").type == schema.field("payload_bits").type == pa.int64()
