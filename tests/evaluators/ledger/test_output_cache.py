from pathlib import Path

import pytest

from kilobit.evaluators.ledger.output_cache import Batch, PredictionCache, cache_key

OUTPUTS = Batch(("4", ""), 20, 3)


def test_what_was_saved_is_found_by_the_same_batch_only(tmp_path: Path) -> None:
    outputs = PredictionCache(tmp_path).open("ab12")
    outputs.add(["x", "y"], OUTPUTS)
    outputs.save()
    again = PredictionCache(tmp_path).open("ab12")
    assert again.get(["x", "y"]) == OUTPUTS
    assert again.get(["y", "x"]) is None
    assert again.get(["x"]) is None
    assert PredictionCache(tmp_path).open("ab13").get(["x", "y"]) is None


def test_nothing_is_written_before_save_nor_without_news(tmp_path: Path) -> None:
    outputs = PredictionCache(tmp_path).open("ab12")
    outputs.save()
    assert not list(tmp_path.iterdir())
    outputs.add(["x", "y"], OUTPUTS)
    outputs.save()
    (file,) = tmp_path.rglob("*.parquet")
    before = file.stat().st_mtime_ns
    PredictionCache(tmp_path).open("ab12").save()
    assert file.stat().st_mtime_ns == before


def test_what_is_added_joins_what_was_there(tmp_path: Path) -> None:
    for batch in (["a", "b"], ["c", "d"]):
        outputs = PredictionCache(tmp_path).open("k" * 32)
        outputs.add(batch, OUTPUTS)
        outputs.save()
    again = PredictionCache(tmp_path).open("k" * 32)
    assert again.get(["a", "b"]) == again.get(["c", "d"]) == OUTPUTS


@pytest.mark.parametrize("damage", [b"", b"PAR1 not really", b"\0" * 4000])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: bytes) -> None:
    outputs = PredictionCache(tmp_path).open("ab12")
    outputs.add(["x", "y"], OUTPUTS)
    outputs.save()
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(damage)
    again = PredictionCache(tmp_path).open("ab12")
    assert again.get(["x", "y"]) is None
    again.add(["x", "y"], OUTPUTS)
    again.save()
    assert PredictionCache(tmp_path).open("ab12").get(["x", "y"]) == OUTPUTS


def test_no_flipped_byte_changes_an_output(tmp_path: Path) -> None:
    batch = Batch(("forty-two, since six times seven is that", "12"), 20, 3)
    outputs = PredictionCache(tmp_path).open("ab12")
    outputs.add(["x", "y"], batch)
    outputs.save()
    (file,) = tmp_path.rglob("*.parquet")
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert PredictionCache(tmp_path).open("ab12").get(["x", "y"]) in (None, batch), at


def test_a_file_of_another_key_counts_as_absent(tmp_path: Path) -> None:
    outputs = PredictionCache(tmp_path).open("ab12")
    outputs.add(["x", "y"], OUTPUTS)
    outputs.save()
    (file,) = tmp_path.rglob("*.parquet")
    file.rename(file.with_name("ab13.parquet"))
    assert PredictionCache(tmp_path).open("ab13").get(["x", "y"]) is None


def test_a_truncated_file_counts_as_absent(tmp_path: Path) -> None:
    outputs = PredictionCache(tmp_path).open("ab12")
    outputs.add(["x", "y"], OUTPUTS)
    outputs.save()
    (file,) = tmp_path.rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    assert PredictionCache(tmp_path).open("ab12").get(["x", "y"]) is None


def test_a_key_depends_on_every_part_and_not_on_their_order() -> None:
    parts = {"prompt": "a", "limit": 3}
    assert cache_key(parts) == cache_key(dict(reversed(parts.items())))
    assert len({cache_key(parts | change) for change in ({}, {"prompt": "b"}, {"limit": 4})}) == 3
