from collections import Counter

from kilobit.search.proposers.grid import GridProposer, log_points
from kilobit.search.search import make_proposer
from kilobit.search.space import Families, LogRange
from tests.support.worlds import TASK


def test_a_grid_holds_every_combination_once() -> None:
    families = Families.model_validate(
        {
            "prompt": {
                "candidates": 1000,
                "instructions": ("", "A", "A"),
                "demonstrations": (0, 2),
                "postprocess": ((), ("lower",)),
                "postprocess_combine": ("upper", "last_word"),
            },
            "lora": {
                "candidates": 1000,
                "rank": (1, 2),
                "training": ("plain", "rate", "bits", "reward"),
                "population": 8,
                "nats_per_kbit": (0.1, 0.2),
                "learning_rate": {"low": 0.01, "high": 0.1},
            },
        }
    )
    config = GridProposer(kind="grid", points=3, sets=2)
    proposer = make_proposer(config, families, TASK, ["m"], 0)
    found = [p.candidate for _ in range(400) if (p := proposer.propose("m")) is not None]
    assert Counter(c.family for c in found) == {"prompt": 2 * (1 + 2) * 2 * 5, "lora": 2 * 6 * 3}
    assert len({c.id for c in found}) == len(found)
    adapters = [c.adapter for c in found if c.adapter]
    assert {a.learning_rate for a in adapters} == {0.01, 0.032, 0.1}
    assert {(a.training, a.nats_per_kbit) for a in adapters} == {
        ("plain", None), ("rate", 0.1), ("rate", 0.2), ("bits", 0.1), ("bits", 0.2),
        ("reward", None),
    }  # fmt: skip
    assert {a.training for a in adapters if a.population == 8} == {"reward"}
    assert len({a.seed for a in adapters}) == 1
    few = families.model_copy(
        update={"lora": families.lora and families.lora.model_copy(update={"candidates": 7})}
    )
    proposer = make_proposer(config, few, TASK, ["m"], 0)
    found = [p.candidate for _ in range(400) if (p := proposer.propose("m")) is not None]
    assert Counter(c.family for c in found)["lora"] == 7


def test_a_grid_has_its_points_on_a_logarithmic_axis() -> None:
    assert log_points(LogRange(low=1e-3, high=1e-1), 3) == [1e-3, 1e-2, 1e-1]
    assert log_points(LogRange(low=1e-3, high=1e-1), 1) == [1e-2]
    assert log_points(LogRange(low=0.02, high=0.02), 5) == [0.02]
