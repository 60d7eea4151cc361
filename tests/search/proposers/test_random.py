from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.proposers.random import ROUND, ShortFirst


class Listed:
    def __init__(self, lengths: list[int]) -> None:
        self.left = {model: list(lengths) for model in ("a", "b")}
        self.seen: list[Observation] = []

    def propose(self, model: str) -> Proposal | None:
        if not self.left[model]:
            return None
        text = "x" * self.left[model].pop(0)
        return Proposal(Candidate(task="t", model=model, prompt=Prompt(instruction=text)), "listed")

    def observe(self, observation: Observation) -> None:
        self.seen.append(observation)


def lengths_of(proposer: ShortFirst, model: str) -> list[int]:
    found = []
    while (proposal := proposer.propose(model)) is not None:
        found.append(len(proposal.candidate.prompt.instruction))
    return found


def length(candidate: Candidate) -> int | None:
    return len(candidate.prompt.instruction) or None


def test_few_candidates_come_from_short_to_long_and_the_unknown_last() -> None:
    proposer = ShortFirst(Listed([5, 0, 2, 9, 1]), length)
    assert lengths_of(proposer, "a") == [1, 2, 5, 9, 0]
    assert lengths_of(proposer, "b") == [1, 2, 5, 9, 0]


def test_many_come_in_rounds_over_all_lengths() -> None:
    lengths = list(range(1, 3 * ROUND + 1))
    found = lengths_of(ShortFirst(Listed(lengths[::-1]), length), "a")
    assert sorted(found) == lengths
    rounds = [found[i * ROUND : (i + 1) * ROUND] for i in range(3)]
    for one in rounds:
        assert one == sorted(one)
        assert one[0] <= 3
        assert one[-1] >= 3 * ROUND - 2


def test_results_are_passed_on() -> None:
    inner = Listed([1])
    seen = Observation("c", "a", 0, True, False, 0.5, 8, 6, 1.0)
    ShortFirst(inner, length).observe(seen)
    assert inner.seen == [seen]
