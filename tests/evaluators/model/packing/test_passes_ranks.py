"""One candidate's error on two ranks is its own; an error of one rank alone ends the worker."""

import multiprocessing
import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from kilobit.cluster.shards import process_group
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker.resident import Resident, Training
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.packing import passes
from kilobit.evaluators.model.packing import train as training
from kilobit.search.base_model import BaseModelConfig
from tests.support.packs import TASK, spec

pytestmark = pytest.mark.timeout(400)
NAMES = ("first", "bad", "third")
CONFIG = {"world_size": 2, "layout": "tensor", "timeout_s": 60.0}


def trained(address: RankAddress, folder: Path, odd_ranks: Sequence[int]) -> list[float | str]:
    """Return the loss of each of three adapters, or the text of its error."""
    config = BaseModelConfig(regime="r", path=folder)
    told = {**CONFIG, "world_size": address.world_size}
    shards = ShardsConfig.model_validate(told) if address.world_size > 1 else ShardsConfig()
    resident = Resident(address, config, Path(), shards, TASK, 1)
    run = training._pass

    def fails_for_one(frozen: FrozenModel, steps: Sequence[Any]) -> None:
        if address.rank in odd_ranks and any(step.job.adapter is bad for step in steps):
            raise ValueError("a module saw mixed rows")
        run(frozen, steps)

    for seed, name in enumerate(NAMES):
        assert resident.adapt(name, spec(seed=seed), None, None)
    bad, passes._PATIENCE_S = resident.adapter("bad"), 3.0
    training._pass = fails_for_one
    try:
        ends = resident.train([Training(name, "", False, 4) for name in NAMES])
    finally:
        training._pass = run
    return [end.trained.loss or 0.0 if end.error is None else str(end.error) for end in ends]


def rank(number: int, port: int, folder: Path, odd_ranks: Sequence[int], end: Connection) -> None:
    torch.set_num_threads(1)
    listener = socket.create_server(("127.0.0.1", port)) if number == 0 else None
    address = RankAddress(number, 2, number, 2, "127.0.0.1", port)
    process_group.join(address, "cpu", 20.0, listener)
    try:
        end.send(trained(address, folder, odd_ranks))
    except Exception as error:  # noqa: BLE001 - the parent reads it
        end.send(f"{type(error).__name__}: {error}")


def on_two_ranks(folder: Path, odd_ranks: Sequence[int]) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    with process_group.listen("127.0.0.1") as taken:
        port = taken.getsockname()[1]
    ends, processes = [], []
    for number in range(2):
        ours, theirs = context.Pipe()
        args = (number, port, folder, tuple(odd_ranks), theirs)
        processes.append(context.Process(target=rank, args=args, daemon=True))
        processes[-1].start()
        ends.append(ours)
    try:
        return [end.recv() if end.poll(180) else "no answer" for end in ends]
    finally:
        for process in processes:
            process.kill()
            process.join()


def test_an_error_on_all_ranks_is_one_candidates_own(model_folders: dict[str, Path]) -> None:
    folder = model_folders["llama"]
    one = trained(RankAddress(), folder, [0])
    assert one[1] == "a module saw mixed rows"
    for found in on_two_ranks(folder, [0, 1]):
        assert found[1] == one[1]
        assert [found[0], found[2]] == pytest.approx([one[0], one[2]], abs=1e-5)


@pytest.mark.slow
def test_an_error_on_one_rank_is_raised(model_folders: dict[str, Path]) -> None:
    found = on_two_ranks(model_folders["llama"], [1])
    assert found[1] == "ValueError: a module saw mixed rows"
    assert isinstance(found[0], str)
