"""Where the followers of a shard group go: on the caller's node if they fit there, else packed."""

import time
import uuid
from collections.abc import Sequence

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from search.shards import ShardsConfig

# How long the ranks try to get onto one node before they take any.
_TOGETHER_S = 5.0
_PROCESS = uuid.uuid4().hex


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
    give_back_room_of_earlier_lives()
    if _fits(here, bundles):
        room: PlacementGroup = placement_group(
            bundles, strategy="STRICT_PACK", name=_new_name(), _soft_target_node_id=here
        )
        if room.wait(min(_TOGETHER_S, config.timeout_s)):
            return room
        remove_placement_group(room)
    room = placement_group(bundles, strategy="PACK", name=_new_name())
    if not room.wait(max(0.0, deadline - time.monotonic())):
        remove_placement_group(room)
        return None
    return room


def _fits(node: str, bundles: Sequence[dict[str, float]]) -> bool:
    """Return whether a node has, in all, what the bundles need together."""
    has: dict[str, float] = next((n["Resources"] for n in ray.nodes() if n["NodeID"] == node), {})
    return all(has.get(name, 0.0) >= sum(b[name] for b in bundles) for name in bundles[0])


def _new_name() -> str:
    return f"{_own_prefix()}/{_PROCESS}/{uuid.uuid4().hex}"


def _own_prefix() -> str:
    return f"shards/{ray.get_runtime_context().get_actor_id()}"


def give_back_room_of_earlier_lives() -> None:
    """Remove what this actor reserved in a process that died.

    Ray keeps an actor's placement groups as long as the actor can be started again.
    """
    own = f"{_own_prefix()}/"
    for group in placement_group_table().values():
        name = group["name"]
        left = name.startswith(own) and not name.startswith(f"{own}{_PROCESS}/")
        if left and group["state"] != "REMOVED":
            remove_placement_group(get_placement_group(name))
