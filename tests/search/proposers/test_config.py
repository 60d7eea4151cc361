import pytest

from kilobit.search.proposers.config import DescentProposer, check_proposer
from kilobit.search.proposers.registry import make_proposer
from kilobit.search.space import Families
from tests.support.worlds import CONFIGS, FAMILIES, TASK

KINDS = tuple(CONFIGS)


def test_descent_needs_prompts_and_their_costs() -> None:
    with pytest.raises(ValueError, match="descent needs prompt_bits"):
        make_proposer(CONFIGS["descent"], FAMILIES, TASK, ["m"], 0)
    bare = Families.model_validate({"prompt": {"candidates": 4}})
    with pytest.raises(ValueError, match=r"give families\.prompt `candidates` above 0"):
        check_proposer(DescentProposer(kind="descent"), bare, ends=True)


@pytest.mark.parametrize("kind", KINDS)
def test_only_a_proposer_that_ends_may_go_without_a_budget(kind: str) -> None:
    if kind in ("random", "grid"):
        check_proposer(CONFIGS[kind], FAMILIES, ends=False)
        return
    check_proposer(CONFIGS[kind], FAMILIES, ends=True)
    with pytest.raises(ValueError, match=f"{kind} never ends by itself: give budget.candidates"):
        check_proposer(CONFIGS[kind], FAMILIES, ends=False)
