from pathlib import Path

import pytest

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import DamagedError
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
