"""What the driver tells a worker reaches it while it is busy, and the process after it."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from kilobit.cluster.fleet.pool import Pool
from kilobit.cluster.fleet.session import ray_session
from kilobit.cluster.messages import Notice
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.candidate import Candidate, Prompt, Rung
from kilobit.search.schedulers.racing import Incumbent
from tests.support.rows import rows_of

pytestmark = [pytest.mark.ray, pytest.mark.timeout(420)]


@pytest.fixture
def pool(write_sweep: Callable[..., Path], tmp_path: Path) -> Iterator[Pool]:
    sweep = load_sweep(write_sweep(workers={"per_model": 1, "pack": 2}))
    with ray_session():
        pool = Pool(sweep, tmp_path, tmp_path / "run", 1, local=True)
        try:
            pool.wait_for_enough(lambda *_: None)
            yield pool
        finally:
            pool.stop()


def test_a_notice_comes_before_or_after_the_calls_and_outlives_the_process(
    pool: Pool, tmp_path: Path
) -> None:
    (name,), first_rung = [worker.name for worker in pool.workers], Rung(0, 4, 2)
    first, second = [
        Candidate(task="numbers", model="llama", prompt=Prompt(instruction=text))
        for text in ("one", "and another, which is longer")
    ]
    worker: Any = ray.get_actor(name)
    # The call comes first: the worker waits until it hears that it is expected.
    call = worker.run_rung.remote(first.canonical(), first_rung)
    assert ray.wait([call], timeout=3)[0] == []
    pool.tell(name, Notice(1, {first.id: 0}, more=False))
    record = ray.get(call).record
    assert (record.error, record.against) == (None, None)
    incumbents = {(0, 0): (Incumbent(first.id, record.program_bits, 1.0),)}
    pool.tell(name, Notice(2, {second.id: 0}, more=False, incumbents=incumbents))
    (pid,) = [one["pid"] for one in rows_of(Ledger(tmp_path / "run" / "ledger"), "workers")]
    os.kill(pid, signal.SIGKILL)
    record = ray.get(worker.run_rung.remote(second.canonical(), first_rung)).record
    assert record.against == first.id
    pids = {one["pid"] for one in rows_of(Ledger(tmp_path / "run" / "ledger"), "workers")}
    assert len(pids) == 2
