"""Placement of ranks: placement groups, and the address at which a rank finds the others.

A placement group has a bundle for each rank of a worker, on few nodes. The caller of
`request_placement` owns it and removes it. When a node dies, Ray keeps
the placement group and reschedules it, so its state says whether a worker is placed at all.
"""

from dataclasses import dataclass
from typing import Any

from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from kilobit.cluster.sweep.workers import ShardsConfig


def request_placement(config: ShardsConfig) -> PlacementGroup:
    """Request a bundle for every rank, on as few nodes as possible; does not wait."""
    amounts = {"CPU": config.cpus_per_rank, "GPU": config.gpus_per_rank}
    bundle = {name: amount for name, amount in amounts.items() if amount}
    # Ray rejects an empty bundle; this small share of a CPU is always available.
    placement: PlacementGroup = placement_group(
        [bundle or {"CPU": 0.001}] * config.world_size, strategy="PACK"
    )
    return placement


def is_placed(placement: str) -> bool:
    """Return whether the placement group with this id is placed at this moment."""
    table = placement_group_table(PlacementGroup(PlacementGroupID(bytes.fromhex(placement))))
    return bool(table.get("state") == "CREATED")


def placed() -> set[str]:
    """Return the ids of all placement groups that are placed at this moment."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    return {name for name, placement in table.items() if placement["state"] == "CREATED"}


@dataclass(frozen=True)
class RankAddress:
    """Position of a rank among all ranks and on its node, and the address of rank 0.

    Attributes:
        rank: from 0 to world_size - 1; rank 0 is the caller's process.
        world_size: number of ranks.
        local_rank: position among the ranks of the same node.
        local_size: number of ranks on the same node.
        host: address at which rank 0 listens for the other ranks.
        port: port at which rank 0 listens; 0 if there is one rank.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: str = "127.0.0.1"
    port: int = 0
