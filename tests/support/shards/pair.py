"""Two ranks of a model in processes of their own, which run one model after the other."""

import multiprocessing
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from kilobit.cluster.shards import process_group
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker.resident import Resident, Training
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import random_numbers
from tests.support.packs import PROMPTS, TASK, texts

_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Course:
    """What one rank found: the model's digest, losses and answers of each candidate."""

    digest: str
    losses: dict[str, float]
    answers: dict[str, list[list[int]]]


def run_course(
    address: RankAddress,
    folder: Path,
    shards: ShardsConfig,
    specs: Mapping[str, AdapterSpec | None],
) -> Course:
    """Train adapters in one pack, give them numbers that show, and answer with all candidates."""
    config = BaseModelConfig(regime="r", path=folder)
    resident = Resident(address, config, Path(), shards, TASK, 1)
    trained = {name: spec for name, spec in specs.items() if spec is not None}
    for name, spec in trained.items():
        assert resident.adapt(name, spec, None, None), name
    asked = [Training(name, PROMPTS[1], False, spec.steps) for name, spec in trained.items()]
    ends = dict(zip(trained, resident.train(asked), strict=True))
    assert {name: end.error for name, end in ends.items()} == dict.fromkeys(trained)
    rows, tokenizer = [], resident.frozen.tokenizer
    for slot, (name, one) in enumerate(specs.items()):
        numbers = [] if one is None else random_numbers(resident.adapter(name), slot)
        resident.fix(name, None if one is None else name, numbers)
        soft = tuple(-1 - i for i in range(one.num_soft if one else 0))
        rows += [
            Asked(slot, (*soft, *tokenizer(text)["input_ids"]), 6, ("\n",))
            for text in texts(PROMPTS[slot % 3])
        ]
    found = resident.answer(list(specs), rows)
    assert resident.unchanged()
    answers: dict[str, list[list[int]]] = {name: [] for name in specs}
    for row, ids in zip(rows, found, strict=True):
        assert not isinstance(ids, Exception)
        answers[list(specs)[row.slot]].append(ids)
    losses = {name: end.trained.loss or 0.0 for name, end in ends.items()}
    return Course(resident.frozen.digest, losses, answers)


class Pair:
    """Two processes that are the ranks of one model after another; new ones after an error."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._ends: list[Connection] = []

    def run(self, folder: Path, layout: str, specs: Mapping[str, AdapterSpec | None]) -> Course:
        """Return what rank 0 found for a model; raise what a rank raised."""
        if not self._processes:
            self._start()
        with process_group.listen("127.0.0.1") as taken:
            port = taken.getsockname()[1]
        for end in self._ends:
            end.send((port, folder, layout, dict(specs)))
        replies: list[Course | Exception] = []
        for end in self._ends:
            # A rank that waits for another one gives up after its time limit.
            late = not end.poll(4 * _TIMEOUT_S)
            replies.append(TimeoutError("a rank did not answer") if late else end.recv())
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors:
            self.stop()
            raise ExceptionGroup("ranks failed", errors)
        assert replies[0] == replies[1]
        assert isinstance(replies[0], Course)
        return replies[0]

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, theirs), daemon=True)
            process.start()
            self._processes.append(process)
            self._ends.append(ours)

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._ends = [], []


def _serve(rank: int, end: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        port, folder, layout, specs = end.recv()
        address = RankAddress(rank, 2, rank, 2, "127.0.0.1", port)
        told = {"world_size": 2, "layout": layout, "timeout_s": _TIMEOUT_S}
        reply: Course | Exception
        try:
            listener = socket.create_server(("127.0.0.1", port)) if rank == 0 else None
            process_group.join(address, "cpu", _TIMEOUT_S, listener)
            reply = run_course(address, folder, ShardsConfig.model_validate(told), specs)
        except Exception as error:  # noqa: BLE001 - the parent raises it
            reply = RuntimeError(f"rank {rank}: {type(error).__name__}: {error}")
        finally:
            process_group.leave()
        end.send(reply)
