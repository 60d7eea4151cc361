"""Ranks of one model in forks of a process that has imported the libraries; none imports them."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from kilobit.cluster.shards import process_group
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tests.support.shards.residents", "kilobit.cluster.fleet.measurer", "peft"]
)


class Forks:
    """Ranks that each hold an object; a context manager.

    Args:
        shards: number of ranks and their time limit.
        factory: called on every rank as `factory(address, *args)`.
        args: sent to every rank.
    """

    def __init__(self, shards: ShardsConfig, factory: Callable[..., Any], *args: Any) -> None:
        with process_group.listen("127.0.0.1") as taken:
            port = taken.getsockname()[1]
        self._begin(shards, factory, args, port, 0)
        self._replies()

    def _begin(
        self,
        shards: ShardsConfig,
        factory: Callable[..., Any],
        args: Sequence[Any],
        port: int,
        first: int,
    ) -> None:
        self._processes: list[Any] = []
        self._ends: list[Connection] = []
        self._late_s, size = 4 * shards.timeout_s, shards.world_size
        for rank in range(first, size):
            address = RankAddress(rank, size, rank, size, "127.0.0.1", port)
            ours, theirs = _CONTEXT.Pipe()
            told = (theirs, address, shards.timeout_s, factory, args)
            process = _CONTEXT.Process(target=_serve, args=told, daemon=True)
            process.start()
            self._processes.append(process)
            self._ends.append(ours)

    def call(self, method: str, *args: Any) -> Any:
        """Run a method on all ranks and return what the first one returns."""
        return self.each(method, *args)[0]

    def each(self, method: str, *args: Any) -> list[Any]:
        """Run a method on all ranks and return what each returns."""
        for end in self._ends:
            end.send((method, args))
        return self._replies()

    def _replies(self) -> list[Any]:
        replies = []
        for end in self._ends:
            late = not end.poll(self._late_s)
            replies.append(TimeoutError("a rank did not answer") if late else end.recv())
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors:
            self.__exit__()
            raise ExceptionGroup("ranks failed", errors)
        return replies

    def __enter__(self) -> "Forks":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.join()


class ForkedGroup(Forks):
    """In place of a `ShardGroup`: rank 0 is in this process, the others are forks."""

    def __init__(
        self,
        shards: ShardsConfig,
        device: str,
        factory: Callable[..., Any],
        args: Sequence[Any],
        placement: None,
    ) -> None:
        listener = process_group.listen("127.0.0.1")
        port, size = listener.getsockname()[1], shards.world_size
        self._begin(shards, factory, args, port, 1)
        # Joining sets variables of this process, which other tests must not see.
        self._environ = dict(os.environ)
        own = RankAddress(0, size, 0, size, "127.0.0.1", port)
        process_group.join(own, device, shards.timeout_s, listener)
        self.resident = factory(own, *args)
        self._replies()

    def call(self, method: str, *args: Any) -> Any:
        """Run a method on all ranks and return what the first one returns."""
        for end in self._ends:
            end.send((method, args))
        found = getattr(self.resident, method)(*args)
        self._replies()
        return found

    def __exit__(self, *_: object) -> None:
        process_group.leave()
        os.environ.clear()
        os.environ.update(self._environ)
        super().__exit__()


def _serve(
    end: Connection,
    address: RankAddress,
    timeout_s: float,
    factory: Callable[..., Any],
    args: Sequence[Any],
) -> None:
    torch.set_num_threads(1)
    try:
        at = ("127.0.0.1", address.port)
        listener = socket.create_server(at) if address.rank == 0 else None
        process_group.join(address, "cpu", timeout_s, listener)
        resident = factory(address, *args)
        end.send(None)
        while True:
            method, given = end.recv()
            end.send(getattr(resident, method)(*given))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        end.send(RuntimeError(f"rank {address.rank}: {type(error).__name__}: {error}"))
