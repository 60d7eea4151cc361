"""The proposer that a sweep file asks for."""

from collections.abc import Sequence

from kilobit.search.proposers.config import (
    EvolutionProposer,
    GridProposer,
    ProposerConfig,
    RandomProposer,
)
from kilobit.search.proposers.evolution import Evolution
from kilobit.search.proposers.grid import Grid
from kilobit.search.proposers.optuna import OptunaProposer
from kilobit.search.proposers.proposer import Proposer
from kilobit.search.proposers.random import RandomDraws
from kilobit.search.space import Families
from kilobit.search.task import Task


def make_proposer(
    config: ProposerConfig,
    families: Families,
    task: Task,
    models: Sequence[str],
    seed: int,
) -> Proposer:
    """Return a new proposer; `contract.replay` brings it to the state of a recorded one.

    Args:
        config: its kind and settings.
        families: the families that are searched.
        task: its train split supplies demonstrations and words.
        models: labels of the base models.
        seed: names its random streams.
    """
    if isinstance(config, RandomProposer):
        return RandomDraws(families, task, models, seed)
    if isinstance(config, GridProposer):
        return Grid(config, families, task, models, seed)
    if isinstance(config, EvolutionProposer):
        return Evolution(config, families, task, models, seed)
    return OptunaProposer(config, families, task, models, seed)
