"""Mistakes that need no model: each is refused without the libraries that only a search needs."""

import pytest

from benchmarks.refusals import HEAVY, REFUSALS, refuse


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_loads_no_library_that_it_does_not_need(name: str) -> None:
    refusal = REFUSALS[name]
    refused = refuse(refusal)
    assert refusal.says in refused.output
    assert refused.status == refusal.status
    assert not (refused.modules & HEAVY) - refusal.allowed
