"""Where the ranks of a worker go: a placement group with a bundle for each, close together.

Who asks for room owns it and gives it back. Ray keeps a group whose node is gone and looks for
another place for it, so its state says whether a worker has a place at all.
"""

from typing import Any

from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table

from search.shards import ShardsConfig


def ask_for_room(config: ShardsConfig) -> PlacementGroup:
    """Ask for a bundle for every rank, on as few nodes as they fit on; does not wait."""
    amounts = {"CPU": config.cpus_per_rank, "GPU": config.gpus_per_rank}
    bundle = {name: amount for name, amount in amounts.items() if amount}
    # Ray takes no empty bundle; this much of a CPU is there always.
    room: PlacementGroup = placement_group(
        [bundle or {"CPU": 0.001}] * config.world_size, strategy="PACK"
    )
    return room


def is_placed(room: str) -> bool:
    """Return whether the room of this id has its place at this moment."""
    table = placement_group_table(PlacementGroup(PlacementGroupID(bytes.fromhex(room))))
    return bool(table.get("state") == "CREATED")


def placed() -> set[str]:
    """Return the ids of all rooms that have their place at this moment."""
    table: dict[str, dict[str, Any]] = placement_group_table()
    return {name for name, room in table.items() if room["state"] == "CREATED"}
