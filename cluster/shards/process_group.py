"""The process group of a shard group's ranks: listening, joining and leaving.

Every wait is bounded by the given timeout. Rank 0 listens at one port, on the one address that the
other ranks use; gloo and NCCL open their own connections between ranks.
"""

import os
import socket
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist

Backend = Literal["gloo", "nccl"]


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


def listen(host: str) -> socket.socket:
    """Return a socket that listens at a free port of `host`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind((host, 0))
    listener.listen()
    return listener


def backend_of(device: str) -> Backend:
    """Return the communication backend for tensors of a device."""
    return "nccl" if device == "cuda" else "gloo"


def join(
    address: RankAddress, device: str, timeout_s: float, listener: socket.socket | None
) -> None:
    """Join the ranks' process group as `address` says; rank 0 brings its listening socket.

    Raises:
        RuntimeError: from torch, if the ranks don't find one another in time.
    """
    timeout = timedelta(seconds=timeout_s)
    local_rank = address.local_rank
    if device == "cuda":
        # Ray shows each process only its own GPUs, so GPUs are counted from 0 in every process.
        local_rank %= max(torch.cuda.device_count(), 1)
        torch.cuda.set_device(local_rank)
        # A failed collective must not abort this process: rank 0 reports it.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
    os.environ |= {
        "RANK": str(address.rank),
        "WORLD_SIZE": str(address.world_size),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_SIZE": str(address.local_size),
        "LOCAL_WORLD_SIZE": str(address.local_size),
        "MASTER_ADDR": address.host,
        "MASTER_PORT": str(address.port),
    }
    interface = _interface_to(address.host)
    if interface is not None:
        # By default gloo and NCCL use the address that the host name resolves to, which other
        # machines often can't reach.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address.host,
        address.port,
        address.world_size,
        is_master=address.rank == 0,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=None if listener is None else listener.detach(),
    )
    try:
        dist.init_process_group(
            backend_of(device),
            store=store,
            rank=address.rank,
            world_size=address.world_size,
            timeout=timeout,
        )
    except Exception:
        _forget_failed_group()
        raise


def _forget_failed_group() -> None:
    """Let this process join the next group under the name that other ranks know it by.

    torch names groups by a counter, which a group that failed leaves raised; only a group that
    was destroyed resets it.
    """
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    dist.destroy_process_group()


def _interface_to(host: str) -> str | None:
    """Return the network interface by which this process reaches a host, None if none is found."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Connecting a datagram socket sends nothing; it only asks for a route.
        probe.connect((host, 1))
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == own for address in addresses):
            return name
    return None


def leave() -> None:
    """Leave the process group, if there is one, so that this process can join another."""
    comm: Any = sys.modules.get("deepspeed.comm.comm")
    if comm is not None and comm.cdb is not None:
        comm.destroy_process_group()
        comm.cdb = None
        # DeepSpeed keeps references to all models that it ran here, and so to their weights.
        offload = sys.modules.get("deepspeed.runtime.zero.parameter_offload")
        if offload is not None:
            offload.FWD_MODULE_STACK.clear()
    if dist.is_initialized():
        dist.destroy_process_group()
