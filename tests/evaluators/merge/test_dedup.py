"""Equal rows have equal hashes however a file holds them, and others do not."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilobit.evaluators.merge.dedup import hash_rows

TEXTS = st.lists(st.none() | st.text(max_size=40), max_size=30)


@given(texts=TEXTS, start=st.integers(0, 5))
def test_texts_hash_alike_exactly_if_they_are_alike(texts: list[str | None], start: int) -> None:
    column = pa.array(texts, pa.string())
    plain = hash_rows(pa.record_batch([column], ["t"]), ["t"])
    coded = hash_rows(pa.record_batch([column.dictionary_encode()], ["t"]), ["t"])
    assert (plain == coded).all()
    sliced = hash_rows(pa.record_batch([column], ["t"]).slice(start), ["t"])
    assert (plain[start:] == sliced).all()
    assert len(set(plain.tolist())) == len(set(texts))


def test_long_texts_and_their_neighbours_differ() -> None:
    lengths = [0, 1, 7, 8, 9, 15, 16, 17, 2047, 2048, 2049, 5000]
    texts = ["a" * n for n in lengths] + ["a" * (n - 1) + "b" for n in lengths if n]
    found = hash_rows(pa.record_batch([pa.array(texts)], ["t"]), ["t"])
    assert len(set(found.tolist())) == len(texts)
    # Bytes after the end of one text are those of the next.
    alone = [hash_rows(pa.record_batch([pa.array([t])], ["t"]), ["t"])[0] for t in texts]
    assert found.tolist() == [int(value) for value in alone]


def test_columns_of_every_kind_count_and_so_does_their_order() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    rows = pa.record_batch(
        {
            "text": ["a", "b", "a", None],
            "whole": pa.array([1, 1, 2, None], pa.int32()),
            "real": [0.0, -0.0, 0.5, None],
            "flag": [True, True, False, None],
            "time": pa.array([now, now, None, None], pa.timestamp("us", tz="UTC")),
            "nothing": pa.nulls(4),
            "bytes": [b"\x00", b"\x00", b"", None],
        }
    )
    for name, number in zip(rows.schema.names, (3, 3, 3, 3, 2, 1, 3), strict=True):
        assert len(set(hash_rows(rows, [name]).tolist())) == number, name
    one, other = (hash_rows(rows, names) for names in (["text", "whole"], ["whole", "text"]))
    # But for the row that says nothing.
    assert (one == other).tolist() == [False, False, False, True]
    assert not (hash_rows(rows, ["text"], 1) == hash_rows(rows, ["text"], 2)).any()
    assert len(hash_rows(rows.slice(0, 0), ["text"])) == 0


def test_two_starts_collide_on_nothing_in_common() -> None:
    number = 200_000
    rows = pa.record_batch([pa.array([f"candidate {i}" for i in range(number)])], ["t"])
    one, two = (hash_rows(rows, ["t"], start) & np.uint64(0xFFFF) for start in (1, 2))
    same = np.unique(np.stack([one, two]), axis=1).shape[1]
    # As many of the 2**32 pairs as draws without memory give, to a part in ten thousand.
    assert same > number * 0.9999 - 10


def test_a_list_is_no_column_to_compare_by() -> None:
    with pytest.raises(TypeError, match="can't hash a column of type list"):
        hash_rows(pa.record_batch([pa.array([[1]])], ["t"]), ["t"])
