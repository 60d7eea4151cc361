"""What a proposal costs: CPU time, and how the state grows, with many candidates behind it.

python benchmarks/proposers.py [CANDIDATES]
"""

import statistics
import sys
import time
import tracemalloc

from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.proposers.config import EvolutionProposer, ProposerConfig, RandomProposer
from kilobit.search.proposers.proposer import Observation
from kilobit.search.proposers.registry import make_proposer
from kilobit.search.space import Families
from kilobit.search.streams import stream

TASK = load_miniature("numbers", 0)
TAIL = 500
FAMILIES = Families.model_validate(
    {
        name: {
            "candidates": 10_000,
            "instructions": ("", "Number:", "Answer with a number."),
            "postprocess": ((), ("last_number",)),
            "demonstrations": (0, 1, 2, 4),
        }
        for name in ("prompt", "lora")
    }
)


def measure(config: ProposerConfig, count: int, *, memory: bool) -> float:
    """Return the median milliseconds of the last proposals, or the bytes a candidate."""
    proposer, rng, times = make_proposer(config, FAMILIES, TASK, ["m"], 0), stream(0, "results"), []
    proposer.propose("m")
    if memory:
        tracemalloc.start()
    for _ in range(count):
        began = time.process_time()
        found = proposer.propose("m")
        times.append(time.process_time() - began)
        assert found is not None
        bits = rng.randrange(3000, 60_000)
        score = rng.random() * bits / 60_000
        proposer.observe(Observation(found.candidate.id, "m", 0, True, True, score, bits, 100, 1.0))
    if memory:
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return grown / count
    return 1000 * statistics.median(times[-TAIL:])


if __name__ == "__main__":
    count = int(sys.argv[1]) if sys.argv[1:] else 10_000
    configs = (RandomProposer(), EvolutionProposer(kind="evolution"))
    for config in configs:
        cost = measure(config, count, memory=False)
        grown = measure(config, count // 5, memory=True)
        print(f"{config.kind}: {cost:.2f} ms a proposal after {count}, {grown:.0f} bytes each")
