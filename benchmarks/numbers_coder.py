"""How close coded adapter numbers come to their empirical entropy, and what 13 numbers cost.

    python benchmarks/numbers_coder.py [--seeds 30]

Prints a Markdown table: sections of Gaussian and Laplace numbers at 2, 3 and 4 bits, with step,
scales and whole bytes, against n times the empirical entropy of their integers, and against the
same with Miller's correction, because the entropy of a few numbers comes out too low. Then the
payload of a TinyLoRA of 13 numbers and of a LoRA-XS of 256, both trained for a few steps on the
pre-trained embedded model.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import load
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.programs.coarsening import coarse
from kilobit.search.programs.numbers import Integers, Tensor, encode_numbers, quantise
from kilobit.search.programs.program import WAYS

TINY = Path(__file__).parent.parent / "examples" / "tiny"


def coded_bits(code: int, integers: list[Integers]) -> int:
    """Return the bits of the shortest section."""
    sections = (encode_numbers(code, integers, way) for way in WAYS)
    return 8 * min(len(section) for section in sections if section is not None)


def entropy_bits(integers: list[Integers]) -> float:
    """Return how many numbers there are times their empirical entropy."""
    flat = np.concatenate([i.reshape(-1) for i in integers])
    _, counts = np.unique(flat, return_counts=True)
    return float(-(counts * np.log2(counts / len(flat))).sum())


def bias_bits(integers: list[Integers]) -> float:
    """Return by how much the empirical entropy of so few numbers is too low (Miller 1955)."""
    num_values = len(np.unique(np.concatenate([i.reshape(-1) for i in integers])))
    return float((num_values - 1) / 2 * np.log2(np.e))


def excesses(size: int, seeds: int) -> Iterator[tuple[int, float, float]]:
    """Yield bits a number and the excess of each vector, without and with Miller's correction."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for bits in (2, 3, 4):
            for draw in (rng.normal, rng.laplace):
                numbers: Tensor = draw(size=(1, size)).astype(np.float32)
                code, integers = quantise([numbers], 4.0 * 2.0**-bits)
                coded, entropy = coded_bits(code, integers), entropy_bits(integers)
                yield bits, coded / entropy - 1, coded / (entropy + bias_bits(integers)) - 1


def trained(method: str, **shape: object) -> tuple[int, list[Integers]]:
    """Return a small adapter after a few steps, at steps of an eighth of its numbers' size."""
    task = load_miniature("numbers", 0)
    spec = AdapterSpec.model_validate(
        {"method": method, "learning_rate": 0.03, "steps": 20, "batch_size": 8, "seed": 0} | shape
    )
    frozen = load(BaseModelConfig(regime="pretrained", path=Path("pretrained")), TINY)
    with installed(frozen, spec) as adapter:
        adapter.train(frozen, Lesson(task, "", task.splits.train), spec.steps)
        return coarse(adapter.tensors(), adapter.units, spec.step, 1.0)


def main() -> None:
    """Print the table and the two adapters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    args = parser.parse_args()
    print("| numbers | 2 bits | 3 bits | 4 bits | largest | mean, bias corrected |")
    print("|---|---|---|---|---|---|")
    for size in (256, 512, 1024, 4096):
        found = list(excesses(size, args.seeds))
        means = [np.mean([excess for b, excess, _ in found if b == bits]) for bits in (2, 3, 4)]
        cells = " | ".join(f"{mean:.1%}" for mean in means)
        largest, corrected = max(e for _, e, _ in found), np.mean([c for *_, c in found])
        print(f"| {size} | {cells} | {largest:.1%} | {corrected:.1%} |", flush=True)
    for method, shape in (
        ("tinylora", {"size": 13, "target_modules": ("down_proj", "v_proj")}),
        ("lora_xs", {"rank": 4, "target_modules": ("down_proj", "o_proj", "q_proj", "v_proj")}),
    ):
        code, integers = trained(method, **shape)
        count, bits = sum(i.size for i in integers), coded_bits(code, integers)
        entropy = entropy_bits(integers)
        print(f"{method}: {count} numbers, {bits // 8} bytes, entropy {entropy:.0f} bits")


if __name__ == "__main__":
    main()
