"""Reference calculations that benchmarks and tests compare the product with."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.program_builder import run_batch
from kilobit.evaluators.model.rate_training import LearnedBits, open_probability
from kilobit.search.programs.postprocess import postprocess
from kilobit.search.programs.program import Program
from kilobit.search.programs.token_coder import NextLogits
from kilobit.search.schedulers.racing import Race


def run_program(
    program: Program, prompt: str, frozen: FrozenModel, model: Any, inputs: Sequence[str]
) -> list[str]:
    """Return the outputs that program.py prints for `inputs`; see `run_batch`."""
    generated, recipe = run_batch(program, prompt, frozen, model, inputs), program.recipe
    return [postprocess(text, recipe.postprocess, recipe.stop) for text in generated.texts]


def ideal_bits(ids: Sequence[int], start: int, next_logits: NextLogits) -> float:
    """Return the sum of -log2 p over `ids` by the model's own float64 softmax, in bits."""
    bits = 0.0
    for position, token in enumerate(ids):
        logits = next_logits([start, *ids[:position]]).astype(np.float64)
        highest = logits.max()
        nats = highest + np.log(np.exp(logits - highest).sum()) - logits[token]
        bits += float(nats / np.log(2))
    return bits


def plain_bits(transform: LearnedBits, weights: Mapping[str, torch.Tensor]) -> int:
    """Return the bits as the paper counts them, plus the ranges and widths that it omits.

    Each number of a kept rank counts with its tensor's bit width, each tensor with 16 bits for its
    range and 2 for its width, and each rank with 1 bit.
    """
    total = 0
    for name, weight in weights.items():
        ranks = transform.learned.get(f"rank/{name.replace('lora_A', 'lora_B')}")
        alive, count = weight.numel(), 0
        if ranks is not None:
            count = len(ranks)
            alive = weight.numel() // count * int((open_probability(ranks) > 0.5).sum())
        total += alive * transform.bit_width(name) + 18 + (count if "lora_B" in name else 0)
    return total


class EValues(NamedTuple):
    """The capitals of a race, its evidence for each verdict: 1 at the start, inf on overflow."""

    beats: float
    loses: float


def e_values(race: Race) -> EValues:
    """Return the evidence for both sides of a race after the last example used."""
    return EValues(_exp(race.beats.log()), _exp(race.loses.log()))


def _exp(log: float) -> float:
    return math.exp(log) if log < 709 else math.inf
