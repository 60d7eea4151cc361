"""What each proposer finds with the same number of examples, on real searches.

    python benchmarks/proposers.py CASE [--seeds 10] [--work DIR] [--kinds random tpe ...]

CASE is one of `CASES`: prompts or LoRA adapters for an embedded model on a built-in task. Every
proposer has its own settings, the default scheduler without races, one worker, and as many
generated examples as `budget` says; an example that the same program generated before is free.
All searches of a case share DIR (runs/proposers/CASE), so no candidate is computed twice, and an
interrupted run goes on where it stopped. So that adapters repeat, all of them begin with the same
random numbers and train at the nearest of four learning rates.

Prints mean and 95 % interval over seeds: the hypervolume below the front of the programs that
finished the last rung (score against log2 of program bits, up to 2^16 bits and from score 0), the
bits of the shortest program at the target score, and processor time of a proposal.
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from scipy.stats import t as student

from kilobit.cluster.messages import EvaluatorSetup, rung_part
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.front.pareto import hypervolume, pareto_front
from kilobit.search.schedulers.racing import incumbent_of
from kilobit.search.search import KINDS, ProposerConfig, Search, make_proposer, make_scheduler

HERE = Path(__file__).parent
REFERENCE_BITS = 2**16
LEARNING_RATES = (3e-3, 6e-3, 1.2e-2, 2.4e-2)
PROMPTS = {
    "prompt": {
        "candidates": 1000,
        "instructions": [
            "",
            "Number:",
            "In German:",
            "Digits.",
            "Answer with a number.",
            "Answer with one word.",
            "Translate this sentence into German.",
            "Read the question and give only the final number.",
            "How many? Answer in digits only.",
            "Do as told.",
        ],
        "demonstrations": [0, 1, 2, 4],
        "postprocess": [[], ["last_number"], ["last_word"], ["lower"]],
    }
}
ADAPTERS = {
    "lora": {
        "candidates": 1000,
        "rank": [1, 2, 4],
        "target_modules": [
            ["v_proj"],
            ["q_proj", "v_proj"],
            ["down_proj", "up_proj"],
            ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        ],
        "layers": [None, [2, 3], [0, 1], [3]],
        "learning_rate": {"low": LEARNING_RATES[0], "high": LEARNING_RATES[-1]},
        "steps": [10, 20],
        "batch_size": 8,
    }
}


@dataclass(frozen=True)
class Case:
    """A search: task and model, families, ladder, generated examples in all, target score."""

    task: str
    regime: str
    target: float
    families: dict[str, Any] = field(default_factory=lambda: PROMPTS)
    rungs: dict[str, int] = field(
        default_factory=lambda: {"examples": 18, "train_steps": 10, "eta": 3, "count": 3}
    )
    budget: int = 3000


ONE_RUNG = {"examples": 54, "train_steps": 20, "count": 1}
CASES = {
    "numbers": Case("numbers", "pretrained", 0.8),
    "translation": Case("translation", "pretrained", 0.75),
    "adapters": Case("translation", "pretrained", 0.7, ADAPTERS, ONE_RUNG, 40 * 54),
}


@dataclass(frozen=True)
class Point:
    """A length and a score."""

    bits: int
    score: float


@dataclass
class Measured:
    """A result of a candidate at a rung, with the score of each example."""

    row: dict[str, Any]
    scores: list[float]


class World:
    """Real results of candidates, each computed once."""

    def __init__(self, case: Case, work: Path) -> None:
        model = {"regime": case.regime, "path": f"../examples/tiny/{case.regime}"}
        self.sweep = TypeAdapter(Sweep).validate_python(
            {
                "name": "proposers",
                "task": {"kind": "miniature", "name": case.task},
                "base_models": (model,),
                "families": case.families,
                "rungs": case.rungs,
                "rate_search": {"steps": (), "keep": ()},
                "workers": {"per_model": 1, "threads": 1},
            },
            strict=False,
        )
        self.model = self.sweep.base_models[0].label
        self.task = load_task(self.sweep.task, HERE)
        self.evaluator = RungEvaluator(
            EvaluatorSetup(
                sweep=self.sweep.model_dump_json(),
                sweep_folder=str(HERE),
                run_folder=str(work),
                model=self.model,
                worker="0",
                attempt=1,
            )
        )
        self._ledger = Ledger(work / "ledger")
        self._known: dict[tuple[str, int], Measured] = {}
        self._stand_ins: dict[str, str] = {}

    def measure(self, candidate: Candidate, rung: Rung) -> Measured:
        """Return the result of a candidate, or of the one that stands for it."""
        stand_in = self._stand_in(candidate)
        key = stand_in.id, rung.index
        if key not in self._known:
            row = self.evaluator.run_rung(stand_in.canonical(), rung)
            if row.get("error"):
                print(f"{stand_in.canonical()}: {row['error'].splitlines()[-1]}", flush=True)
            predictions = self._ledger.read_part("predictions", rung_part(stand_in.id, rung)) or []
            self._known[key] = Measured(row, [one["score"] for one in predictions])
        return self._known[key]

    def _stand_in(self, candidate: Candidate) -> Candidate:
        spec = candidate.adapter
        if spec is None:
            return candidate
        rate = min(LEARNING_RATES, key=lambda known: abs(math.log(known / spec.learning_rate)))
        start = self._stand_ins[spec.start] if spec.start else None
        same = spec.model_copy(update={"seed": 0, "learning_rate": rate, "start": start})
        found = candidate.model_copy(update={"adapter": same})
        self._stand_ins[candidate.id] = found.id
        return found


@dataclass(frozen=True)
class Outcome:
    """What a search found: the front of finished programs, and how many were proposed."""

    front: list[Point]
    num_proposed: int
    propose_ms: float


def search(world: World, case: Case, config: ProposerConfig, seed: int) -> Outcome:
    """Search until the budget is spent."""
    sweep, model = world.sweep, world.model
    proposer = make_proposer(config, sweep.families, world.task, [model], seed)
    scheduler = make_scheduler(sweep.scheduler, sweep.rungs)
    one = Search(proposer, scheduler, "program_bits")
    generated: dict[str, int] = {}
    candidates: dict[str, Candidate] = {}
    finished: list[Point] = []
    spent, count, cpu_s = 0, 0, 0.0
    while spent < case.budget:
        began = time.process_time()
        proposal = one.propose(model)
        cpu_s += time.process_time() - began
        if proposal is None:
            break
        candidate, count = proposal.candidate, count + 1
        candidates[candidate.id] = candidate
        plain = candidate.model_copy(update={"postprocess": ()}).id
        for rung in sweep.rungs.ladder():
            found = world.measure(candidate, rung)
            left = max(0, candidate.trained_at(sweep.rungs.ladder()) - rung.index)
            fresh = max(0, rung.num_examples - generated.get(plain, 0))
            generated[plain] = max(rung.num_examples, generated.get(plain, 0))
            spent += fresh
            row = found.row | {
                "candidate": candidate.id,
                "seconds": float(rung.num_examples),
                "left": left,
                "against": None,
                "gap": None,
            }
            front = scheduler.incumbents(model, rung.index, left=left)
            rival = incumbent_of(front, row["program_bits"]) if found.scores else None
            if rival is not None and rival.candidate != candidate.id:
                theirs = world.measure(candidates[rival.candidate], rung).scores
                gap = (sum(found.scores) - sum(theirs)) / rung.num_examples
                row |= {"against": rival.candidate, "gap": gap}
            decision = one.take(row)
            if decision.action == "finish" and row["score"] is not None:
                finished.append(Point(row["program_bits"], row["score"]))
            if decision.action != "promote":
                break
    return Outcome(pareto_front(finished), count, 1000 * cpu_s / max(1, count))


def shown(values: Sequence[float], digits: int) -> str:
    """Return mean and 95 % interval of some values."""
    if len(values) < 2:
        return " ".join(f"{value:,.{digits}f}" for value in values) or "none"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return f"{mean:,.{digits}f} ({mean - half:,.{digits}f} to {mean + half:,.{digits}f})"


def main() -> None:
    """Search with each proposer and print a line of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--work", type=Path, metavar="DIR")
    args = parser.parse_args()
    case = CASES[args.case]
    world = World(case, args.work or Path("runs/proposers") / args.case)
    print(f"{args.case}, {case.budget} examples\n")
    print("| proposer | hypervolume | minus random | bits at target | reach it | proposed | ms |")
    print("|---|---|---|---|---|---|---|")
    configs: TypeAdapter[ProposerConfig] = TypeAdapter(ProposerConfig)
    base: list[float] = []
    for kind in args.kinds:
        run = partial(search, world, case, configs.validate_python({"kind": kind}))
        outcomes = [run(seed) for seed in range(args.seeds)]
        volumes = [hypervolume(outcome.front, REFERENCE_BITS) for outcome in outcomes]
        base = base or volumes
        more = [mine - other for mine, other in zip(volumes, base, strict=True)]
        at = [
            min(point.bits for point in outcome.front if point.score >= case.target)
            for outcome in outcomes
            if any(point.score >= case.target for point in outcome.front)
        ]
        tried = statistics.mean(outcome.num_proposed for outcome in outcomes)
        cost = statistics.mean(outcome.propose_ms for outcome in outcomes)
        print(
            f"| {kind} | {shown(volumes, 3)} | {shown(more, 3)} | {shown(at, 0)} "
            f"| {len(at)} of {args.seeds} | {tried:.0f} | {cost:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
