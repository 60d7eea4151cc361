"""The settings of a sweep's proposer, one model for each kind."""

from typing import Annotated, Literal

from pydantic import Field

from kilobit.search.settings import Config

Sets = Annotated[
    int,
    Field(ge=1, le=1000, description="seeded sets of demonstrations to choose from, of each size"),
]


class RandomProposer(Config):
    """Random draws from the families, as many as their `candidates` say."""

    kind: Annotated[Literal["random"], Field(description="independent draws")] = "random"


class GridProposer(Config):
    """All combinations of the values that the families list, at most `candidates` of each."""

    kind: Annotated[Literal["grid"], Field(description="all combinations of the listed values")]
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
    population: Annotated[int, Field(ge=2, description="candidates per generation")] = 24
    sets: Sets = 8


class EvolutionProposer(Config):
    """Variations of candidates near the front, by operators chosen by their past gains."""

    kind: Annotated[Literal["evolution"], Field(description="candidates near the front are varied")]
    fresh: Annotated[int, Field(ge=1, description="random draws before it begins")] = 16
    discount: Annotated[
        float,
        Field(gt=0, le=1, description="factor by which each result fades the operators' records"),
    ] = 0.99


ProposerConfig = Annotated[
    RandomProposer | GridProposer | TpeProposer | Nsga2Proposer | EvolutionProposer,
    Field(discriminator="kind"),
]
KINDS = ("random", "grid", "tpe", "nsga2", "evolution")
# Kinds of older versions: runs that used them can be read, but not resumed.
REMOVED_KINDS = ("descent",)


def check_proposer(config: ProposerConfig, *, ends: bool) -> None:
    """Check that a sweep ends, by itself or by its budget.

    Args:
        config: the proposer.
        ends: the sweep limits its candidates or its seconds.

    Raises:
        ValueError: if it does not.
    """
    if not isinstance(config, RandomProposer | GridProposer) and not ends:
        raise ValueError(
            f"proposer: {config.kind} never ends by itself: give budget.candidates or "
            "budget.seconds"
        )
