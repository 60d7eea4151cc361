"""Candidates that operators change, and everything that an operator makes of one."""

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate, Prompt
from kilobit.search.proposers.evolution import OPERATORS
from kilobit.search.proposers.operators_prompt import Corpus, Surroundings
from kilobit.search.streams import stream
from tests.support.worlds import FAMILIES, TASK, assert_allowed

TRAIN = [(e.input, e.target) for e in TASK.splits.train]


CORPUS = Corpus((("Number:",), ("one", "two", "three")), ("word",))


PROMPT = Candidate(
    task="numbers",
    model="m",
    prompt=Prompt(instruction="a b c d", demonstrations=tuple(TRAIN[:2])),
    postprocess=("last_number",),
)


SPEC = AdapterSpec(
    method="lora",
    rank=2,
    target_modules=("v_proj",),
    layers=(0, 1),
    learning_rate=0.01,
    steps=60,
    batch_size=16,
    seed=5,
    training="rate",
    nats_per_kbit=0.01,
    step=0.5,
    keep=0.5,
)


LORA = Candidate(task="numbers", model="m", prompt=Prompt(instruction="Number:"), adapter=SPEC)


DATA = LORA.model_copy(
    update={
        "prompt": Prompt(),
        "adapter": AdapterSpec(
            method="data", rank=4, size=64, target_modules=("q_proj", "v_proj"),
            learning_rate=1e-3, steps=64, batch_size=1, seed=1,
        )
    }
)  # fmt: skip


def around(*, mate: Candidate | None = None, trained: bool = False) -> Surroundings:
    return Surroundings(FAMILIES.named(), TASK, CORPUS, mate, trained)


def outcomes(
    operator: str, parent: Candidate, near_it: Surroundings | None = None
) -> list[Candidate]:
    """Everything that an operator makes of a parent, in 300 draws; each is new and allowed."""
    found: dict[Candidate, None] = {}
    for i in range(300):
        child = OPERATORS[operator](parent, near_it or around(), stream("test", operator, i))
        if child is not None:
            found[child] = None
    for child in found:
        assert_allowed(child)
        assert child != parent
    return list(found)
