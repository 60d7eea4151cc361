"""An evaluator: one resident base model that trains and scores candidates, a batch at a time.

It runs as a Ray actor in a pool or in this process; both use the same class. `run_rung` writes the
rows of a rung to the ledger and returns the rung's record. An error of a candidate becomes a record
with its traceback. If the ledger already has the rung its record is returned unchanged, so a
repeated call computes and changes nothing.
"""

import hashlib
import json
import logging
import os
import platform
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

from kilobit.cluster.messages import (
    BaseModelChangedError,
    EvaluatorSetup,
    Notice,
    RungReply,
    check_versions,
)
from kilobit.cluster.shards.group import GroupError, ShardGroup
from kilobit.cluster.shards.load import device_of
from kilobit.cluster.sweep.recorded import check_data, data_parts
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.worker.crash_log import GIVEN_UP_AFTER, CrashLog, crash_log_of
from kilobit.cluster.worker.resident import Resident
from kilobit.cluster.worker.run_rung import Checkpoints, RungRunner
from kilobit.cluster.worker.rung_record import RungRows, Work
from kilobit.cluster.worker.scoring import Scorer, WorkerContext, most_bits_of
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.output_cache import PredictionCache
from kilobit.evaluators.ledger.storage import place
from kilobit.evaluators.model import base_model
from kilobit.evaluators.model.base_model import FrozenModel
from kilobit.evaluators.model.generate import all_parts
from kilobit.evaluators.model.program_builder import Builder
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.base_model import BaseModelConfig, check_same, digest_of
from kilobit.search.candidate import Candidate, Rung
from kilobit.search.records import RungRecord, WorkerRecord

_LOG = logging.getLogger("kilobit")
Asked = tuple[Candidate, Rung]
Ask = TypeVar("Ask")
Answer = TypeVar("Answer")
# An announced call that has not arrived by then died with its process, and may be repeated.
_PATIENCE_S = 60.0


class _Call(Generic[Ask, Answer]):
    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.answer: Answer | None = None
        self.error: BaseException | None = None
        self.over = False


class Batcher(Generic[Ask, Answer]):
    """Batcher of concurrent calls: it answers them together, one batch at a time.

    The first call while no batch is running leads: it waits until its batch is complete and
    computes all of its answers. Calls that arrive meanwhile wait for their turn.

    Args:
        work: computes the answers of a batch, in its order.
        size: most calls of a batch.
        is_complete: takes the waiting calls; tells whether no more are expected.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Ask]], Sequence[Answer]],
        size: int,
        is_complete: Callable[[Sequence[Ask]], bool],
    ) -> None:
        self._work, self._size, self._is_complete = work, size, is_complete
        self._waiting: list[_Call[Ask, Answer]] = []
        self._changed, self._turn = threading.Condition(), threading.Lock()

    def run(self, ask: Ask) -> Answer:
        """Return the answer to a call; an error of a batch is raised in all of its callers."""
        call: _Call[Ask, Answer] = _Call(ask)
        with self._changed:
            self._waiting.append(call)
            self._changed.notify_all()
        with self._turn:
            while not call.over:
                self._lead()
        if call.error is not None:
            raise call.error
        return call.answer  # type: ignore[return-value]

    def look(self) -> None:
        """Look again whether the batch is complete, because what is expected has changed."""
        with self._changed:
            self._changed.notify_all()

    def _lead(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_complete([call.ask for call in self._waiting]), _PATIENCE_S
            )
            pack, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        try:
            for call, answer in zip(pack, self._work([c.ask for c in pack]), strict=True):
                call.answer = answer
        except BaseException as error:  # noqa: BLE001 - it is raised in every caller
            for call in pack:
                call.error = error
        for call in pack:
            call.over = True


class RungEvaluator:
    """One resident base model that trains and scores candidates; see the module's docstring.

    Raises:
        OSError, ValueError: on construction, if the model or the task can't be loaded.
    """

    def __init__(self, setup: EvaluatorSetup, crash_log: CrashLog | None = None) -> None:
        check_versions(setup.versions)
        sweep = Sweep.model_validate_json(setup.sweep, strict=True)
        folder, run = Path(setup.sweep_folder), place(setup.run_folder)
        self._setup = setup
        self._crash_log = crash_log or crash_log_of(setup)
        task = load_task(sweep.task, folder)
        config = next(m for m in sweep.base_models if m.label == setup.model)
        workers = sweep.workers_by_model[setup.model]
        shards, threads = workers.ranks(setup.cpus), workers.threads
        device = "cpu" if shards.world_size == 1 else device_of(config)
        args = (config, folder, shards, task, threads)
        self._group = ShardGroup(shards, device, Resident, args, setup.placement)
        self._frozen = self._group.resident.frozen
        self._ledger = Ledger(run / "ledger", setup.attempt)
        in_machine = sweep.train_split_in_machine
        self._about = {
            "machine": all_parts(self._frozen, train_split_in_machine=in_machine),
            "data": data_parts(task, sweep),
        }
        _check_unchanged(self._ledger, config.label, self._frozen, self._about)
        digests = {name: digest_of(parts) for name, parts in self._about.items()}
        self._digests = {"base_digest": self._frozen.machine, **digests}
        self._rows = RungRows(sweep, task, self._ledger, setup.worker, self._digests)
        builder = Builder(
            self._frozen,
            config,
            task,
            sweep.program_batch_size or sweep.workers.batch_size,
            sweep.minimised,
            by_index=sweep.train_split_in_machine,
            encode=partial(self._group.call, "encode_text"),
        )
        template = self._frozen.tokenizer.chat_template is not None
        most_bits = most_bits_of(sweep, builder, task, config.label, template=template)
        self._context = WorkerContext(
            sweep,
            task,
            self._group,
            builder,
            self._ledger,
            digests,
            folder=folder,
            most_bits=most_bits,
        )
        scorer = Scorer(self._context, PredictionCache(sweep.cache or run / "cache"))
        states = Checkpoints(run, self._ledger)
        self._runner = RungRunner(self._context, scorer, states, self._rows)
        self._gatherer: Batcher[Asked, RungReply] = Batcher(
            self.run_rungs, workers.slots, self._is_complete
        )
        self._record_load(config)
        self._crash_log.ready()
        if self._crash_log.came_back is not None:
            _LOG.warning("died and was started again%s", self._crash_log.came_back)
        _LOG.info("loaded %s on %s", config.label, platform.node())
        why_not = self._group.resident.packs.why_not
        if why_not is not None:
            _LOG.warning("%s: candidates run one by one, %s", config.label, why_not)

    def ready(self) -> str:
        """Return the digest of the base model; the model is loaded once this returns."""
        return self._frozen.machine

    def beat(self) -> None:
        """Return once every rank has answered, which it does also while it computes."""
        self._group.beat()

    def hear(self, notice: Notice) -> None:
        """Take a notice from the driver; without any, no more calls and no incumbents are expected.

        It may be called at any time, also while a batch is running.
        """
        self._context.notice = notice
        self._gatherer.look()

    def run_rung(self, candidate_json: str, rung: Rung) -> RungReply:
        """Train a candidate up to `rung`, score it on the rung's examples, and record it.

        Concurrent calls from several threads are run together as one batch.

        Raises:
            BaseModelChangedError: if the base model's weights changed; this worker must not be
                reused.
            SupersededError: if a newer attempt at the run has begun.
            OSError: if the ledger or an adapter's checkpoint can't be written.
        """
        return self._gatherer.run((Candidate.model_validate_json(candidate_json), rung))

    def run_rungs(self, asked: Sequence[Asked]) -> list[RungReply]:
        """Run the rungs of several candidates as one batch; see `run_rung`."""
        self._group.resident.use_threads()
        works = [Work(one, rung, self._rows.begin(one, rung)) for one, rung in asked]
        parts = "\n".join(sorted(work.part for work in works))
        pack = hashlib.sha256(parts.encode()).hexdigest()[:16]
        new = []
        for work in works:
            work.record = replace(work.record, pack=pack)
            if not self._is_known(work):
                new.append(work)
        suspects = [work for work in new if self._crash_log.deaths(work.part)]
        # Rungs during which a worker died run alone. Skip an empty batch: in the crash log it would
        # count as finished work.
        for works_of_a_pack in ([w for w in new if w not in suspects], *([w] for w in suspects)):
            if works_of_a_pack:
                self._run(works_of_a_pack)
        together = tuple(work.record for work in works)
        return [RungReply(record, together, self._setup.worker) for record in together]

    def _run(self, works: Sequence[Work]) -> None:
        _LOG.debug("begins %s", ", ".join(work.part for work in works))
        with self._crash_log.holding([work.part for work in works]):
            try:
                self._runner.run(works)
                self._check_base()
            except GroupError as error:
                # The ranks are out of step and can't be used again. Record the cause in the crash
                # log and exit: the restarted worker makes a new group.
                self._crash_log.blame(str(error))
                os._exit(1)
            self._rows.finish(works)

    def _is_complete(self, waiting: Sequence[Asked]) -> bool:
        notice = self._context.notice
        return notice is None or notice.is_complete({one.id: rung.index for one, rung in waiting})

    def _is_known(self, work: Work) -> bool:
        """Return whether a rung needs no work: it is in the ledger or its worker died too often."""
        known = self._ledger.read_part(RungRecord, work.part)
        if known is not None:
            work.record = known[0]
        elif self._crash_log.deaths(work.part) >= GIVEN_UP_AFTER:
            why = self._crash_log.cause
            work.fail(f"its worker died {GIVEN_UP_AFTER} times while it ran{why}")
            self._rows.finish([work])
            _LOG.warning("%s is given up: %s", work.part, work.record.error)
        else:
            return False
        return True

    def _check_base(self) -> None:
        if not self._group.call("unchanged"):
            raise BaseModelChangedError("the weights of the base model have changed")

    def _record_load(self, config: BaseModelConfig) -> None:
        packages = ("torch", "transformers", "peft", "ray")
        load = WorkerRecord(
            worker=self._setup.worker,
            model=config.label,
            base_digest=self._frozen.machine,
            machine=self._digests["machine"],
            parts=json.dumps(self._about["machine"]),
            data=json.dumps(self._about["data"]),
            num_parameters=base_model.num_parameters(self._frozen),
            weight_bytes=base_model.loaded_bytes(self._frozen),
            load_s=self._frozen.load_s,
            host=platform.node(),
            pid=os.getpid(),
            versions=json.dumps({name: version(name) for name in packages}),
            started_at=datetime.now(UTC),
            alone=self._group.resident.packs.why_not,
        )
        name = f"{load.worker}-a{self._setup.attempt}-{load.pid}"
        self._ledger.write(WorkerRecord, name, [load])


def _check_unchanged(
    ledger: Ledger, label: str, frozen: FrozenModel, about: Mapping[str, Mapping[str, str]]
) -> None:
    """Check that the machine and the data are those of earlier attempts of the run.

    Of a run of a version that recorded less, what it recorded is compared.

    Raises:
        ValueError: naming what has changed.
    """
    records = ledger.records(WorkerRecord)
    if any(one.model == label and one.machine is None for one in records):
        _LOG.warning("%s: the machine of earlier attempts is not known in all parts", label)
    for record in records:
        if record.model == label:
            known = json.loads(record.parts) if record.parts else {}
            if not known and not frozen.was_recorded_as(record.base_digest):
                known = {"weights": record.base_digest}
            check_same(f"base model {label}: its", about["machine"], known, "files")
    check_data(records, about["data"])
