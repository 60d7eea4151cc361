"""A short version of benchmarks/hostile.py."""

from benchmarks.hostile import attack


def test_hostile_payloads_end_in_the_error_or_a_decode_soon_and_small() -> None:
    summary = attack(300, seed=1)
    assert summary.broken == []
    assert sum(summary.outcomes.values()) == 300
    assert summary.outcomes["PayloadError"] > 100
    assert summary.outcomes["other content"] > 10
