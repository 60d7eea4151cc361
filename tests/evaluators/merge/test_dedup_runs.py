import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilobit.evaluators.merge import dedup, merge
from kilobit.evaluators.merge.dataset import DATASET_TABLES
from tests.support.cli.datasets import RIGHT, aggregate, rows, said
from tests.support.runs import NUM_EXAMPLES, write_run

SHARES = st.lists(st.sampled_from([(True, False), (False, True), (True, True)]), max_size=4)


@settings(max_examples=10)
@given(shares=SHARES, order=st.booleans(), bad_hash=st.booleans())
def test_the_parts_of_a_run_make_the_whole(
    shares: list[tuple[bool, bool]], order: bool, bad_hash: bool
) -> None:
    whole = {f"c{i}": (float(i % 2), 1.0, 0.0, float(i % 3 == 0)) for i in range(len(shares))}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        # Waiting for the disk is no part of what is tested.
        patch.setattr(os, "fsync", lambda _: None)
        write_run(folder / "whole", whole, attempt_rows=False)
        parts = [
            write_run(
                folder / f"part-{place}",
                {c: whole[c] for c, share in zip(whole, shares, strict=True) if share[place]},
                attempt_rows=False,
            )
            for place in (0, 1)
        ]
        aggregate(folder / "whole", "-o", folder / "one")
        if bad_hash:
            # Rows about other things meet, and are told apart by what they are.
            real = dedup._hashes

            def colliding(*args: Any) -> Any:
                about, both = real(*args)
                return about % 2, both

            patch.setattr(dedup, "_hashes", colliding)
        aggregate(*(parts if order else parts[::-1]), "-o", folder / "two")
        for table in DATASET_TABLES:
            one, two = said(folder / "one", table), said(folder / "two", table)
            # A collision may leave a duplicate, and never takes a row away.
            assert (one.keys() == two.keys() and one <= two) if bad_hash else one == two, table


def test_many_rows_meet_in_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {f"c{i}": (float(i % 2), 1.0, 0.0, 1.0) for i in range(40)}
    one = write_run(tmp_path / "one", scores, attempt_rows=False)
    two = write_run(tmp_path / "two", scores | {"c7": RIGHT, "new": RIGHT}, attempt_rows=False)
    aggregate(one, two, "-o", tmp_path / "few")
    monkeypatch.setattr(dedup, "_SPREAD_BYTES", 500)
    monkeypatch.setattr(dedup, "_PAIRS_AT_ONCE", 1)
    monkeypatch.setattr("kilobit.evaluators.merge.read_plan._UNIT_BYTES", 5000)
    monkeypatch.setattr(merge, "_GROUP_ROWS", 10)
    aggregate(one, two, "-o", tmp_path / "many")
    assert len(list((tmp_path / "many" / "predictions").glob("one-*.parquet"))) > 3
    for table in DATASET_TABLES:
        assert said(tmp_path / "few", table) == said(tmp_path / "many", table)
    assert len(rows(tmp_path / "many", "predictions")) == 41 * NUM_EXAMPLES
    assert len(rows(tmp_path / "many", "conflicts")) > 2
