"""The settings of a sweep's proposer, one model for each kind."""

from typing import Annotated, Literal

from pydantic import Field

from evaluators.config import Config
from search.space import Families

Sets = Annotated[
    int,
    Field(ge=1, le=1000, description="seeded sets of demonstrations to choose from, of each size"),
]


class RandomProposer(Config):
    """Random draws from the families, as many as their `candidates` say."""

    kind: Annotated[Literal["random"], Field(description="independent draws")] = "random"


class GridProposer(Config):
    """All combinations of what the families list, at most `candidates` of each."""

    kind: Annotated[Literal["grid"], Field(description="all combinations of what is listed")]
    points: Annotated[
        int, Field(ge=1, le=100, description="values of a learning rate, on a logarithmic axis")
    ] = 3
    sets: Sets = 4


class TpeProposer(Config):
    """Optuna's multi-objective tree-structured Parzen estimator."""

    kind: Annotated[
        Literal["tpe"], Field(description="fewer bits and higher scores, arXiv 1907.10902")
    ]
    fresh: Annotated[int, Field(ge=1, description="random draws before it begins")] = 16
    sets: Sets = 8


class Nsga2Proposer(Config):
    """Optuna's NSGA-II, a genetic algorithm on the front."""

    kind: Annotated[
        Literal["nsga2"], Field(description="fewer bits and higher scores, Deb et al. 2002")
    ]
    population: Annotated[int, Field(ge=2, description="candidates of a generation")] = 24
    sets: Sets = 8


class EvolutionProposer(Config):
    """Candidates are varied by operators that are chosen by what they brought."""

    kind: Annotated[Literal["evolution"], Field(description="programs evolve from the front")]
    fresh: Annotated[int, Field(ge=1, description="random draws before anything is varied")] = 16
    discount: Annotated[
        float,
        Field(gt=0, le=1, description="how much of an operator's record each result leaves"),
    ] = 0.99


class DescentProposer(Config):
    """Cheaper instructions for short prompts, word by word."""

    kind: Annotated[
        Literal["descent"], Field(description="prompts that the model itself finds more likely")
    ]
    fresh: Annotated[int, Field(ge=1, description="random draws before it begins")] = 16
    neighbours: Annotated[
        int, Field(ge=1, le=10_000, description="changes of a prompt whose cost is computed")
    ] = 128
    tries: Annotated[
        int, Field(ge=1, description="cheaper changes of a prompt that are tried, cheapest first")
    ] = 16
    tolerance: Annotated[
        float,
        Field(ge=0, le=1, description="how far below where it began the score may be"),
    ] = 0.02


ProposerConfig = Annotated[
    RandomProposer
    | GridProposer
    | TpeProposer
    | Nsga2Proposer
    | EvolutionProposer
    | DescentProposer,
    Field(discriminator="kind"),
]
KINDS = ("random", "grid", "tpe", "nsga2", "evolution", "descent")


def check_proposer(config: ProposerConfig, families: Families, *, ends: bool) -> None:
    """Check what a proposer needs of the rest of a sweep.

    Args:
        config: the proposer.
        families: what is tried.
        ends: the sweep limits its candidates or its seconds.

    Raises:
        ValueError: if something is missing.
    """
    if not isinstance(config, RandomProposer | GridProposer) and not ends:
        raise ValueError(
            f"proposer: {config.kind} has no end of its own: give budget.candidates or "
            "budget.seconds"
        )
    prompt = families.prompt
    if isinstance(config, DescentProposer) and not (
        prompt and prompt.candidates and any(prompt.instructions)
    ):
        raise ValueError(
            "proposer: descent shortens instructions: give families.prompt `candidates` above 0 "
            "and instructions"
        )
