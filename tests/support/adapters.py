"""Settings of adapters as a sweep would draw them."""

from typing import Any

from kilobit.search.adapter_methods import AdapterSpec

ADAPTER = {"learning_rate": 0.01, "steps": 5, "batch_size": 2, "seed": 3}


def spec(**changes: Any) -> AdapterSpec:
    """Return an adapter of the data recipe with changes."""
    values: dict[str, Any] = {
        "method": "data",
        "rank": 2,
        "size": 8,
        "target_modules": ("q_proj",),
        "learning_rate": 1e-3,
        "steps": 10,
        "batch_size": 1,
        "seed": 0,
    }
    return AdapterSpec.model_validate(values | changes)
