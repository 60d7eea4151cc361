"""Searches without a model: candidates get their bits and scores from formulas."""

import hashlib
import math
from collections.abc import Callable

from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate
from kilobit.search.proposers.evolution import EvolutionProposer
from kilobit.search.proposers.grid import GridProposer
from kilobit.search.proposers.optuna import Nsga2Proposer, TpeProposer
from kilobit.search.proposers.proposer import Observation, Proposal, Proposer
from kilobit.search.proposers.random import RandomProposer
from kilobit.search.schedulers.asha import Asha
from kilobit.search.schedulers.scheduler import Result
from kilobit.search.search import ProposerConfig, make_proposer
from kilobit.search.space import AdapterFamily, Families
from kilobit.search.streams import stream
from kilobit.search.task import Task

TASK = load_miniature("numbers", 0)
FAMILIES = Families.model_validate(
    {
        "prompt": {
            "candidates": 300,
            "instructions": ("", "Number:", "Answer the question with a number.", "One two three"),
            "demonstrations": (0, 1, 2, 4),
            "postprocess": ((), ("last_number",)),
            "postprocess_combine": ("lower", "cut:."),
            "chat": (False, True),
            "max_new_tokens": (None, 6),
        },
        "lora": {
            "candidates": 300,
            "instructions": ("", "Number:"),
            "demonstrations": (0, 1),
            "rank": (1, 2, 6),
            "target_modules": (("v_proj",), ("v_proj", "q_proj"), ("down_proj",)),
            "layers": (None, (0, 1), (3,)),
            "learning_rate": {"low": 1e-3, "high": 1e-1},
            "steps": (60, 180),
            "training": ("plain", "rate"),
            "nats_per_kbit": (0.01, 0.1),
        },
        "tinylora": {"candidates": 100, "size": (13, 64)},
        "trainable_tokens": {"candidates": 50, "tokens": ((1, 2), (3,))},
        "ia3": {"candidates": 50, "target_modules": (("v_proj",), ("down_proj", "k_proj"))},
        "data": {"candidates": 50, "size": (8, 64), "steps": (64, 128), "rank": (1, 4)},
    }
)
CONFIGS: dict[str, ProposerConfig] = {
    "random": RandomProposer(),
    "grid": GridProposer(kind="grid"),
    "tpe": TpeProposer(kind="tpe", fresh=8),
    "nsga2": Nsga2Proposer(kind="nsga2", population=8),
    "evolution": EvolutionProposer(kind="evolution", fresh=8),
}
World = Callable[[Candidate], tuple[int, float]]


def make(
    kind: str, seed: int = 0, families: Families = FAMILIES, models: tuple[str, ...] = ("m",)
) -> Proposer:
    return make_proposer(CONFIGS[kind], families, TASK, models, seed)


def bits_of(candidate: Candidate) -> int:
    """A length that grows with everything that a program would have to write."""
    bits = 3000 + 4 * len(candidate.prompt.render(TASK)) + 60 * len(candidate.postprocess)
    spec = candidate.adapter
    if spec is not None:
        numbers = 16 * (spec.rank or 1) * len(spec.target_modules or (1,))
        numbers *= len(spec.layers or range(4))
        bits += int(numbers * spec.keep * math.log2(2 + 4 / spec.step)) + 8 * (spec.size or 0)
    return bits


def hashed(candidate: Candidate) -> float:
    """A number in [0, 1) that nobody can learn."""
    return int(hashlib.sha256(candidate.id.encode()).hexdigest()[:8], 16) / 2**32


def noise(candidate: Candidate) -> tuple[int, float]:
    return bits_of(candidate), hashed(candidate)


def smooth(candidate: Candidate) -> tuple[int, float]:
    """Scores grow with length and with a good instruction, step and learning rate."""
    score = 0.1 + 0.1 * ("number" in candidate.prompt.instruction.lower())
    score += 0.06 * min(len(candidate.prompt.demonstrations), 4)
    score += 0.1 * ("last_number" in candidate.postprocess)
    score -= 0.1 * candidate.chat + 0.05 * (candidate.max_new_tokens is not None)
    spec = candidate.adapter
    if spec is not None:
        distance = abs(math.log(spec.learning_rate / 0.02))
        score += 0.4 * math.exp(-distance) * min(1, (spec.rank or 1) / 4)
        score += 0.05 * ("v_proj" in (spec.target_modules or ()))
    return bits_of(candidate), min(max(score, 0.0), 1.0)


HARD = Families.model_validate(
    {
        "lora": {
            "candidates": 300,
            "rank": (1, 2, 4, 8, 16),
            "demonstrations": (0, 1, 2),
            "target_modules": (("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "b", "c")),
            "layers": (None, (0,), (1,), (2,), (0, 1), (2, 3)),
            "learning_rate": {"low": 1e-4, "high": 1e-1},
            "steps": (30, 90, 270),
            "training": ("plain", "rate", "bits"),
            "nats_per_kbit": (0.001, 0.01, 0.1),
            "postprocess": ((), ("last_number",), ("lower",)),
            "chat": (False, True),
        }
    }
)


def hard(candidate: Candidate) -> tuple[int, float]:
    """A score that is a product: a random draw seldom has all of its factors."""
    spec = candidate.adapter
    assert spec is not None
    rank, modules = spec.rank or 1, spec.target_modules or ()
    score = math.exp(-abs(math.log(spec.learning_rate / 5e-3)))
    score *= {"plain": 0.8, "rate": 1.0, "bits": 0.5}[spec.training]
    score *= min(1, spec.steps / 150)
    score *= 1.0 if "b" in modules else 0.4
    score *= 1.0 if spec.layers is None or 2 in spec.layers else 0.5
    score *= min(1, 0.4 + 0.15 * math.log2(1 + rank))
    score *= 1.0 if "last_number" in candidate.postprocess else 0.7
    score *= 0.6 if candidate.chat else 1.0
    score *= (1 - 0.15 * max(0, spec.step - 0.5)) * (1 - 0.3 * (1 - spec.keep))
    numbers = 64 * rank * len(modules) * len(spec.layers or range(4))
    bits = numbers * (8 if spec.training == "plain" else 4) * spec.keep
    bits /= 1 + math.log2(1 + spec.step)
    return int(3000 + bits + 400 * len(candidate.prompt.demonstrations)), score


def drive(
    proposer: Proposer,
    count: int,
    world: World = noise,
    *,
    models: tuple[str, ...] = ("m",),
    workers: int = 4,
    num_rungs: int = 3,
    seed: int = 0,
    fails: float = 0.05,
) -> list[Proposal | Observation]:
    """Run a search of `count` proposals on some workers that end in an order by the seed."""
    rng = stream(seed, "drive")
    scheduler = Asha(num_rungs=num_rungs, eta=2)
    events: list[Proposal | Observation] = []
    running: list[tuple[Candidate, int]] = []
    proposed, open_models = 0, set(models)
    while proposed < count or running:
        model = models[proposed % len(models)]
        if proposed < count and len(running) < workers and model in open_models:
            found = proposer.propose(model)
            if found is not None:
                events.append(found)
                running.append((found.candidate, 0))
                proposed += 1
                continue
            if not running:
                return events
        if not running:
            return events
        candidate, rung = running.pop(rng.randrange(len(running)))
        bits, score = world(candidate)
        failed = rng.random() < fails
        reported = (None, None) if failed else (score, bits)
        decision = scheduler.report(Result(candidate.id, candidate.model, rung, *reported))
        goes_on = decision.action == "promote"
        observation = Observation(
            candidate.id,
            candidate.model,
            rung,
            not goes_on,
            decision.action == "finish",
            None if failed else score,
            None if failed else bits,
            10 * 2**rung,
            1.0 * 2**rung,
        )
        events.append(observation)
        proposer.observe(observation)
        if goes_on:
            running.append((candidate, rung + 1))
    return events


def proposals(events: list[Proposal | Observation]) -> list[Proposal]:
    return [event for event in events if isinstance(event, Proposal)]


def assert_allowed(candidate: Candidate, families: Families = FAMILIES, task: Task = TASK) -> None:
    """Check a candidate against what the sweep declares, from its canonical JSON on."""
    assert Candidate.model_validate_json(candidate.canonical()) == candidate
    family = families.named()[candidate.family]
    assert family.candidates
    train = {(e.input, e.target) for e in task.splits.train}
    shown, words = candidate.prompt.demonstrations, candidate.prompt.instruction.split()
    assert set(shown) <= train
    assert len(set(shown)) == len(shown)
    assert min(family.demonstrations) <= len(shown) <= max(family.demonstrations)
    longest = max(len(text.split()) for text in family.instructions)
    assert len(words) <= (max(2 * longest, 8) if longest else 0)
    assert candidate.chat in family.chats
    assert candidate.max_new_tokens in family.max_new_tokens
    steps = {step for steps in family.postprocess for step in steps}
    assert set(candidate.postprocess) <= steps | set(family.postprocess_combine)
    assert len(candidate.postprocess) <= 3
    spec = candidate.adapter
    assert (spec is None) == (not isinstance(family, AdapterFamily))
    if spec is not None and isinstance(family, AdapterFamily):
        assert_allowed_adapter(spec, family)


def assert_allowed_adapter(spec: AdapterSpec, family: AdapterFamily) -> None:
    shapes = family.shapes()
    for name in ("rank", "size"):
        if name in shapes:
            assert 1 <= getattr(spec, name) <= max(shapes[name])
    for name in ("target_modules", "layers"):
        if getattr(spec, name) is not None:
            listed = {item for group in shapes[name] for item in group or ()}
            assert set(getattr(spec, name)) <= listed
    if spec.layers is None and "layers" in shapes:
        assert None in shapes["layers"]
    if spec.tokens is not None:
        assert spec.tokens in shapes["tokens"]
    rates = family.rates(spec.method)
    assert rates.low <= spec.learning_rate <= rates.high
    assert spec.relative == family.relative
    assert 1 <= spec.steps <= max(family.steps)
    assert spec.batch_size == family.batch_size
    assert spec.training in family.training
    if spec.nats_per_kbit is not None:
        low, high = min(family.nats_per_kbit), max(family.nats_per_kbit)
        assert low / 10 <= spec.nats_per_kbit <= 10 * high
    assert 0.125 <= spec.step <= 2
    assert 0.0625 <= spec.keep <= 1
