from collections.abc import Sequence

from kilobit.search.proposers.config import DescentProposer
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.proposers.registry import make_proposer
from kilobit.search.space import Families
from tests.support.worlds import TASK, drive, fake_bits, make, proposals

FAMILIES = Families.model_validate(
    {
        "prompt": {
            "candidates": 20,
            "instructions": ("", "Please answer the question with a single number.", "Hello there"),
            "demonstrations": (0, 1),
        }
    }
)


def search(
    count: int, tolerance: float = 0.02, tries: int = 16, neighbours: int = 128
) -> list[Proposal]:
    """One worker; every candidate finishes."""
    config = DescentProposer(
        kind="descent", fresh=12, tolerance=tolerance, tries=tries, neighbours=neighbours
    )
    proposer = make_proposer(config, FAMILIES, TASK, ["m"], 0, prompt_bits=fake_bits)
    found = []
    for _ in range(count):
        proposal = proposer.propose("m")
        assert proposal is not None
        found.append(proposal)
        text = proposal.candidate.prompt.instruction
        score = 0.2 + 0.6 * ("number" in text)
        proposer.observe(
            Observation(
                proposal.candidate.id, "m", 0, True, True, score,
                3000 + 8 * len(proposal.candidate.prompt.render(TASK)), 10, 1.0,
            )
        )  # fmt: skip
    return found


def cost(proposal: Proposal) -> float:
    return fake_bits("m", [proposal.candidate.prompt.render(TASK)])[0]


def test_descent_leaves_what_the_score_needs_and_drops_the_rest() -> None:
    found = search(60)
    good = [p for p in found if "number" in p.candidate.prompt.instruction]
    first = min(cost(p) for p in found[:12] if "number" in p.candidate.prompt.instruction)
    last = min(map(cost, good))
    # Seven of eight words go; what is left is "number" with its period.
    assert last <= 8 * len("number.\n")
    assert last < first / 4


def test_every_step_is_cheaper_than_where_it_came_from_and_the_cheapest_comes_first() -> None:
    # So few changes that some of those to be tried cost more than the prompt.
    found = search(60, neighbours=16)
    by_id = {p.candidate.id: p for p in found}
    steps = [p for p in found if p.operator == "descent"]
    assert len(steps) > 10
    siblings: dict[str, list[float]] = {}
    for step in steps:
        assert step.parent is not None
        assert cost(step) < cost(by_id[step.parent])
        siblings.setdefault(step.parent, []).append(cost(step))
        before = by_id[step.parent].candidate.prompt
        assert step.candidate.prompt.demonstrations == before.demonstrations
        change = len(step.candidate.prompt.instruction.split()) - len(before.instruction.split())
        assert -1 <= change <= 1
    assert all(costs == sorted(costs) for costs in siblings.values())


def test_a_prompt_is_left_after_its_tries() -> None:
    parents = [p.parent for p in search(60, tries=3) if p.parent]
    assert max(map(parents.count, parents)) == 3


def begun_from(found: list[Proposal]) -> set[str]:
    """The instructions, not drawn ones, that a descent went on from."""
    made = {p.candidate.id: p.candidate for p in found if p.operator == "descent"}
    return {made[p.parent].prompt.instruction for p in found if p.parent in made}


def test_it_goes_on_only_where_the_score_is_kept() -> None:
    strict, loose = begun_from(search(60)), begun_from(search(60, tolerance=1.0))
    assert strict
    assert all("number" in text for text in strict)
    assert not all("number" in text for text in loose)


def test_costs_are_asked_once_for_a_prompt_with_all_its_changes() -> None:
    asked: list[Sequence[str]] = []

    def counted(model: str, texts: Sequence[str]) -> list[float]:
        assert model == "m"
        asked.append(texts)
        return fake_bits(model, texts)

    config = DescentProposer(kind="descent", fresh=12, neighbours=20)
    proposer = make_proposer(config, FAMILIES, TASK, ["m"], 0, prompt_bits=counted)
    found = proposals(
        drive(proposer, 40, lambda c: (4000, len(c.prompt.instruction) / 100), fails=0)
    )
    parents = {p.parent for p in found if p.parent}
    assert len(parents) <= len(asked) <= len(parents) + 12
    assert all(2 <= len(texts) <= 21 for texts in asked)


def test_before_anything_finished_it_draws() -> None:
    proposer = make("descent")
    assert {p.operator for _ in range(30) if (p := proposer.propose("m"))} == {"random"}
