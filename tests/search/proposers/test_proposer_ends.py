import pytest

from kilobit.search.search import check_proposer
from tests.support.worlds import CONFIGS

KINDS = tuple(CONFIGS)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_proposer_that_ends_may_go_without_a_budget(kind: str) -> None:
    if kind in ("random", "grid"):
        check_proposer(CONFIGS[kind], ends=False)
        return
    check_proposer(CONFIGS[kind], ends=True)
    with pytest.raises(ValueError, match=f"{kind} never ends by itself: give budget.candidates"):
        check_proposer(CONFIGS[kind], ends=False)
