"""Candidates for workers."""

from typing import Any

from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate


def lora(**changes: Any) -> Candidate:
    values = {
        "method": "lora",
        "rank": 1,
        "target_modules": ("q_proj",),
        "learning_rate": 0.01,
        "steps": 4,
        "batch_size": 2,
        "seed": 1,
    }
    return candidate(adapter=AdapterSpec.model_validate(values | changes))


def candidate(**changes: Any) -> Candidate:
    return Candidate.model_validate({"task": "numbers", "model": "llama"} | changes)
