"""Rows of evaluators, as a scorecard compares them."""

from kilobit.evaluators.battery.battery import Row
from kilobit.search.front.points import FrontPoint

POINT = FrontPoint(
    run="r", task="t", model="m", regime="m", candidate="a", family="prompt", program_bits=4000,
    payload_bits=500, score=0.85, lower=None, upper=None, num_examples=9, split="search",
    verified=True, certified=True, program="p",
)  # fmt: skip


def rows(
    values: list[float], item: str = "x", tags: list[dict[str, str]] | None = None
) -> list[Row]:
    return [Row(item, str(i), value, tags[i] if tags else {}) for i, value in enumerate(values)]
