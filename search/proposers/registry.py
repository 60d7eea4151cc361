"""The proposer that a sweep file asks for."""

from collections.abc import Sequence

from kilobit.search.proposers.config import (
    DescentProposer,
    EvolutionProposer,
    GridProposer,
    ProposerConfig,
    RandomProposer,
)
from kilobit.search.proposers.descent import PromptBits, PromptDescent
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
    *,
    prompt_bits: PromptBits | None = None,
) -> Proposer:
    """Return a new proposer; `contract.replay` brings it to the state of a recorded one.

    Args:
        config: its kind and settings.
        families: the families that are searched.
        task: its train split supplies demonstrations and words.
        models: labels of the base models.
        seed: names its random streams.
        prompt_bits: for `descent`: the lengths of whole prompts in bits under a model.

    Raises:
        ValueError: if the kind needs `prompt_bits` and there is none.
    """
    if isinstance(config, RandomProposer):
        return RandomDraws(families, task, models, seed)
    if isinstance(config, GridProposer):
        return Grid(config, families, task, models, seed)
    if isinstance(config, EvolutionProposer):
        return Evolution(config, families, task, models, seed)
    if isinstance(config, DescentProposer):
        if prompt_bits is None:
            raise ValueError(
                "descent needs prompt_bits: the lengths of prompts in bits under a model"
            )
        return PromptDescent(config, families, task, models, seed, prompt_bits)
    return OptunaProposer(config, families, task, models, seed)
