"""A worker of several ranks gives what one of one rank gives, also where a rank is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from kilobit.cluster.shards.group import ShardGroup
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.cluster.worker.resident import Resident, Training
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model.packing.decode import Asked
from kilobit.search.base_model import BaseModelConfig
from tests.conftest import REPOSITORY, random_numbers
from tests.support.driver.ledgers import content
from tests.support.packs import PROMPTS, TASK, mixed, texts
from tests.support.rows import rows_of
from tests.support.shards.residents import room_for

pytestmark = [pytest.mark.ray]
Write = Callable[..., Path]
Found = tuple[str, list[float], list[Any]]


class Course:
    """A process that is rank 0 of a group: adapters of all kinds are trained and answer."""

    def run(self, folder: Path, shards: ShardsConfig) -> Found:
        config = BaseModelConfig(regime="r", path=folder)
        args = (config, Path(), shards, TASK, 1)
        with ShardGroup(shards, "cpu", Resident, args, room_for(shards)) as group:
            specs = mixed("qwen2" if "olmo3" in folder.name else "llama")
            for i, spec in enumerate(specs):
                assert group.call("adapt", str(i), spec, None, None)
            asked = [Training(str(i), PROMPTS[i % 3], False, s.steps) for i, s in enumerate(specs)]
            ends = group.call("train", asked)
            assert [end.error for end in ends] == [None] * len(specs)
            frozen, rows = group.resident.frozen, []
            for i, spec in enumerate(specs):
                numbers = random_numbers(group.resident.adapter(str(i)), i)
                group.call("fix", str(i), str(i), numbers)
                soft = spec.size or 0 if spec.method == "soft_prompt" else 0
                for text in texts(PROMPTS[i % 3]):
                    ids = frozen.tokenizer(text)["input_ids"]
                    rows.append(
                        Asked(i, (*(-1 - place for place in range(soft)), *ids), 6, ("\n",))
                    )
            answers = group.call("answer", [str(i) for i in range(len(specs))], rows)
            group.call("forget")
            assert group.call("unchanged")
            return frozen.machine, [end.trained.loss for end in ends], answers


@pytest.fixture(scope="module")
def folder(model_folders: dict[str, Path]) -> Path:
    return model_folders["llama"]


@pytest.fixture
def course(session: None) -> Iterator[Callable[[Path, ShardsConfig], Found]]:
    import ray

    actors = []

    def run(folder: Path, shards: ShardsConfig) -> Found:
        actors.append(ray.remote(Course).options(num_cpus=0).remote())
        found: Found = ray.get(actors[-1].run.remote(folder, shards), timeout=110)
        return found

    yield run
    for actor in actors:
        ray.kill(actor)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_packs_of_all_kinds_are_the_same_on_one_rank_and_on_two(
    course: Callable[[Path, ShardsConfig], Found], folder: Path
) -> None:
    digest, losses, answers = course(folder, ShardsConfig())
    for layout in ("tensor", "zero3"):
        told = {"world_size": 2, "layout": layout, "cpus_per_rank": 0.1, "timeout_s": 60.0}
        found = course(folder, ShardsConfig.model_validate(told))
        assert found[0] == digest
        assert found[1] == pytest.approx(losses, abs=1e-5)
        assert found[2] == answers


@pytest.mark.slow
def test_a_plan_that_gathers_outputs_and_splits_inputs_gives_the_same(
    course: Callable[[Path, ShardsConfig], Found], olmo3: Path
) -> None:
    one = course(olmo3, ShardsConfig())
    two = {"world_size": 2, "layout": "tensor", "cpus_per_rank": 0.1, "timeout_s": 60.0}
    found = course(olmo3, ShardsConfig.model_validate(two))
    assert found[1] == pytest.approx(one[1], abs=1e-5)
    assert (found[0], found[2]) == (one[0], one[2])


class Run:
    """A search in a process of its own."""

    def __init__(self, sweep: Path, out: Path, world_size: int) -> None:
        words = [
            f"workers.shards.world_size={world_size}",
            "workers.shards.timeout_s=30",
            "workers.cpus=0.4",
        ]
        self.out = out
        self.process = subprocess.Popen(
            [sys.executable, "launch.py", "run", str(sweep), "--out", str(out), *words],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ranks(self) -> list[psutil.Process]:
        """Return the processes of the worker: rank 0 and its followers."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any(name in "".join(process.cmdline()) for name in ("Evaluator", "_Follower")):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def deaths_in_a_row(self) -> int:
        """Return how often the worker died since it last finished something, as it says itself."""
        (file,) = (self.out / "in_hand").glob("*.json")
        return int(json.loads(file.read_text())["in_a_row"])

    def end(self) -> str:
        output, _ = self.process.communicate()
        assert self.process.returncode == 0, output
        return output


def killed_run(sweep: Path, folder: Path, waits: Sequence[float]) -> int:
    """Compare a run of two ranks, one of which is killed now and then, with an undisturbed one."""
    shared = set(Path("/dev/shm").iterdir())
    alone = Run(sweep, folder / "alone", 1)
    alone.end()
    rng, kills = random.Random(0), 0
    run = Run(sweep, folder / "two", 2)
    rungs = run.out / "ledger" / "rungs"
    while run.process.poll() is None and not (rungs.is_dir() and any(rungs.iterdir())):
        time.sleep(0.05)
    for number, wait in enumerate(waits):
        time.sleep(wait)
        # A worker that dies again and again without finishing anything between is given up.
        while number % 3 == 2 and run.process.poll() is None and run.deaths_in_a_row() > 0:
            time.sleep(0.05)
        ranks: list[psutil.Process] = []
        while not ranks and run.process.poll() is None:
            ranks = run.ranks()
        if ranks:
            rng.choice(ranks).send_signal(signal.SIGKILL)
            kills += 1
    everybody = run.process.pid
    run.end()
    left = [p for p in psutil.process_iter() if p.pid != everybody and _session(p) == everybody]
    assert left == []
    assert set(Path("/dev/shm").iterdir()) <= shared
    found, expected = content(run.out), content(alone.out)
    # Losses are summed in another order; whatever follows from them is the same.
    del found["rungs"], expected["rungs"]
    assert found == expected
    columns = ("candidate", "rung", "score", "program", "error")
    rows = [
        sorted(tuple(row[c] for c in columns) for row in rows_of(Ledger(out / "ledger"), "rungs"))
        for out in (run.out, alone.out)
    ]
    assert rows[0] == rows[1]
    return kills


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return -1


LORA = {"rank": [1], "target_modules": [["q_proj"]], "steps": [4], "batch_size": 2}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_search_on_two_ranks_survives_the_death_of_one(
    write_sweep: Write, tmp_path: Path
) -> None:
    sweep = write_sweep(
        families={"prompt": {"candidates": 3}, "lora": {**LORA, "candidates": 3}},
        workers={"pack": 2},
    )
    assert killed_run(sweep, tmp_path, [0.3]) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_search_on_two_ranks_survives_twenty_deaths(write_sweep: Write, tmp_path: Path) -> None:
    sweep = write_sweep(
        families={
            "prompt": {"candidates": 140, "demonstrations": [0, 1, 2]},
            "lora": {**LORA, "candidates": 100, "rank": [1, 2, 3]},
        },
        workers={"pack": 2},
    )
    rng = random.Random(1)
    assert killed_run(sweep, tmp_path, [rng.uniform(2, 6) for _ in range(20)]) == 20
