"""A short version of benchmarks/certification.py."""

import pytest

from benchmarks import certification
from benchmarks.certification import simulate


def test_certified_bounds_hold_for_all_programs_where_the_search_split_flatters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certification, "POOL_CANDIDATES", 100)
    monkeypatch.setattr(certification, "POOL_EXAMPLES", 2000)
    tally = simulate("binary", 300, seed=1)
    # Exact bounds fail in 5 % of the searches at most; 15 more would be bad luck of 1 in 10,000.
    assert tally.certified >= 0.95 * 300 - 15
    assert tally.naive < 0.9 * 300
    assert tally.flattery > 0
    tally = simulate("bounded", 40, seed=1)
    assert tally.certified >= 35
    tally = simulate("bleu", 15, seed=1)
    assert tally.certified >= 12
