"""Rate search: many programs from one trained adapter, coarser and with fewer components.

Training takes most of the time; each of these programs only has to be scored on the same examples.
"""

from typing import Annotated

from pydantic import Field

from evaluators.config import Config
from search.candidate import Candidate

Fraction = Annotated[float, Field(gt=0, le=1)]


class RateSearch(Config):
    """The coarser programs that are made from an adapter after its last rung."""

    steps: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(description="quantisation steps in units of the root mean square of the numbers"),
    ] = (0.25, 0.5, 1.0, 1.5, 2.0)
    keep: Annotated[
        tuple[Fraction, ...],
        Field(description="fractions of the rank components to keep, with steps 0.5 and 1"),
    ] = (0.5, 0.25)

    def variants(self, candidate: Candidate) -> list[Candidate]:
        """Return the candidates that differ from `candidate` only in how its adapter is coded."""
        adapter = candidate.adapter
        if adapter is None or adapter.method == "data":
            return []
        codings = [(step, 1.0) for step in self.steps]
        codings += [(step, keep) for keep in self.keep for step in (0.5, 1.0)]
        found = [
            candidate.model_copy(
                update={"adapter": adapter.model_copy(update={"step": step, "keep": keep})}
            )
            for step, keep in dict.fromkeys(codings)
        ]
        return [variant for variant in found if variant != candidate]
