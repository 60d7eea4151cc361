"""Where a rank is, as it is told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a rank is.

    Attributes:
        rank: 0 is the rank that the caller talks to.
        world_size: number of ranks.
        local_rank: position among the ranks of the same node.
        local_size: ranks on the same node.
        host: address at which rank 0 waits for the others.
        port: its port; 0 where there is one rank.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    host: str = "127.0.0.1"
    port: int = 0
