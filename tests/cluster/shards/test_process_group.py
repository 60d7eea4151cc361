import socket
import threading

import pytest
import torch
import torch.distributed as dist

from kilobit.cluster.shards.process_group import RankAddress, backend_of, join, leave, listen


def test_a_listener_has_a_port_of_its_own_at_its_host() -> None:
    with listen("127.0.0.1") as one, listen("127.0.0.1") as other:
        assert one.getsockname()[0] == "127.0.0.1"
        assert one.getsockname()[1] != other.getsockname()[1]
        socket.create_connection(one.getsockname(), timeout=5).close()


def test_gpus_talk_by_nccl_and_cpus_by_gloo() -> None:
    assert (backend_of("cuda"), backend_of("cpu")) == ("nccl", "gloo")


def test_one_rank_joins_leaves_and_joins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    for name in ("MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for _ in range(2):
        listener = listen("127.0.0.1")
        address = RankAddress(port=listener.getsockname()[1])
        join(address, "cpu", 20.0, listener)
        total = torch.ones(2)
        dist.all_reduce(total)
        assert total.tolist() == [1, 1]
        leave()
        assert not dist.is_initialized()
    leave()


def test_a_rank_that_finds_no_other_gives_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")
    for name in ("MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    listener = listen("127.0.0.1")
    address = RankAddress(world_size=2, port=listener.getsockname()[1])
    failed: list[RuntimeError] = []

    def wait() -> None:
        try:
            join(address, "cpu", 2.0, listener)
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(30)
    leave()
    assert not thread.is_alive()
    # The next group has the name that it has in a process in which nothing failed.
    listener = listen("127.0.0.1")
    join(RankAddress(port=listener.getsockname()[1]), "cpu", 20.0, listener)
    assert dist.group.WORLD.group_name == "0"  # type: ignore[union-attr]
    leave()
    assert len(failed) == 1
