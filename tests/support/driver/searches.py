"""A search over given candidates, as tests of its ledger need it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kilobit.cluster.driver.check import Plan
from kilobit.cluster.driver.recorder import Recorder
from kilobit.cluster.driver.replay import Replayed, replay
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.candidate import Candidate
from kilobit.search.proposers.proposer import Observation, Proposal
from kilobit.search.records import RungRecord
from kilobit.search.search import SchedulerConfig, Search, make_scheduler
from kilobit.search.task import Task

ONE = Candidate(task="none", model="llama")
RECORD = RungRecord(
    candidate=ONE.id, rung=0, num_examples=6, score=0.5, payload_bits=8, program_bits=900
)


class Listed:
    """Proposes given candidates in their order."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._waiting = list(candidates)
        self.seen: list[Observation] = []

    def propose(self, model: str) -> Proposal | None:
        mine = [candidate for candidate in self._waiting if candidate.model == model]
        if not mine:
            return None
        self._waiting.remove(mine[0])
        return Proposal(mine[0], "listed")

    def observe(self, observation: Observation) -> None:
        self.seen.append(observation)


def a_run(folder: Path, sweep: Sweep, attempt: int = 1) -> RunFolder:
    return RunFolder(folder, sweep, Path(), attempt, locked=True)


def a_search(
    sweep: Sweep, candidates: Sequence[Candidate], limit: int | None = None
) -> tuple[Search, Listed]:
    proposer = Listed(candidates)
    scheduler = make_scheduler(sweep.scheduler, sweep.rungs)
    return Search(proposer, scheduler, sweep.length, limit), proposer


def a_recorder(
    run: RunFolder, task: Task, search: Search, state: Replayed | None = None
) -> Recorder:
    plan = Plan(task, (), {}, None, ())
    return Recorder(run, plan, search, state or replay(run.ledger, search), lambda *_: None)


def recorder_of(run: RunFolder, candidates: Sequence[Candidate] = (ONE,)) -> Recorder:
    task = load_task(run.sweep.task, Path())
    search, _ = a_search(run.sweep, candidates)
    recorder = a_recorder(run, task, search)
    for candidate in candidates:
        recorder.propose(candidate.model)
    return recorder


def asha(sweep: Sweep, **changes: Any) -> Sweep:
    """Return a sweep whose scheduler compares scores alone."""
    return sweep.model_copy(update={"scheduler": SchedulerConfig(kind="asha"), **changes})


def rung_record(
    candidate: Candidate, rung: int, score: float | None = 0.5, **more: Any
) -> RungRecord:
    about = {"candidate": candidate.id, "rung": rung, "score": score, "num_examples": 6}
    return RungRecord(**about | {"program_bits": 900, "payload_bits": 80} | more)


def write_rung(ledger: Ledger, record: RungRecord) -> None:
    ledger.write(RungRecord, record.part, [record])
