"""Where the followers of a shard group go: on the caller's node if they fit there, else packed."""

import time
from collections.abc import Sequence

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from search.shards import ShardsConfig

# How long the ranks try to get onto one node before they take any.
_TOGETHER_S = 5.0


def find_room(config: ShardsConfig) -> PlacementGroup | None:
    """Reserve a bundle for every follower, or return None if there is no room within the timeout.

    Bundles that fit on the caller's node together are kept together.
    """
    amounts = {"CPU": config.cpus_per_rank, "GPU": config.gpus_per_rank}
    bundle = {name: amount for name, amount in amounts.items() if amount}
    # Ray takes no empty bundle; this much of a CPU is there always.
    bundles = [bundle or {"CPU": 0.001}] * (config.world_size - 1)
    here = ray.get_runtime_context().get_node_id()
    deadline = time.monotonic() + config.timeout_s
    if _fits(here, bundles):
        room: PlacementGroup = placement_group(
            bundles, strategy="STRICT_PACK", _soft_target_node_id=here
        )
        if room.wait(min(_TOGETHER_S, config.timeout_s)):
            return room
        remove_placement_group(room)
    room = placement_group(bundles, strategy="PACK")
    if not room.wait(max(0.0, deadline - time.monotonic())):
        remove_placement_group(room)
        return None
    return room


def _fits(node: str, bundles: Sequence[dict[str, float]]) -> bool:
    """Return whether a node has, in all, what the bundles need together."""
    has: dict[str, float] = next((n["Resources"] for n in ray.nodes() if n["NodeID"] == node), {})
    return all(has.get(name, 0.0) >= sum(b[name] for b in bundles) for name in bundles[0])
