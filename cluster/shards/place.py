"""The position of a rank in its group."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
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
