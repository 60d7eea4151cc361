"""Verification: the two files of a program must reproduce the recorded predictions.

On CPU in float32 every prediction has to be the same. On a GPU or in a shorter type sums depend on
the hardware; there the score has to lie in the recorded interval, and the number of equal
predictions is reported.
"""

import json
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.parts import DamagedError, DamagedRunError
from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.evaluators.merge.atomic_folder import temporary_folder
from kilobit.evaluators.metrics.metrics import UnscoredError
from kilobit.evaluators.proof.program_files import folder_name, read_program, write_folder
from kilobit.evaluators.proof.sandbox import Limits, ProgramFailedError, Sandbox
from kilobit.search.base_model import BaseModelConfig, check_same, differing_parts
from kilobit.search.front.points import FrontPoint
from kilobit.search.programs.program import Program
from kilobit.search.records import (
    PredictionRecord,
    RungRecord,
    VerificationRecord,
    WorkerRecord,
    rung_part,
)
from kilobit.search.settings import InputError, reason_of, to_copy
from kilobit.search.task import Task

if TYPE_CHECKING:
    from kilobit.evaluators.model.base_model import FrozenModel

_PACKAGES = ("torch", "transformers", "peft", "constriction", "numpy")
Recorded = Mapping[str, str | None]
"""Digests of a base model that its programs were measured with, and for each the digests of its
parts as JSON, None if they are not known."""


def exact(program: Program) -> bool:
    """Return whether all predictions of a program have to be the same."""
    return program.recipe.device == "cpu" and program.recipe.dtype == "float32"


def limits_of(program: Program, seconds: int) -> Limits:
    """Return the limits of a program; none of memory for CUDA, which reserves vast addresses."""
    memory_gb = 0 if program.recipe.device == "cuda" else Limits.memory_gb
    return Limits(seconds=seconds, memory_gb=memory_gb)


def load_here(config: BaseModelConfig, folder: Path) -> tuple["FrozenModel", Path]:
    """Load a base model whose files are on this machine; return it and their folder.

    Raises:
        InputError: if they are missing or can't be loaded.
    """
    from huggingface_hub import snapshot_download

    from kilobit.evaluators.model import base_model

    where = config.path and folder / config.path
    if where is not None and not where.is_dir():
        raise InputError(f"base model {config.label}: there is no folder {where}")
    try:
        if where is None:
            name, revision = config.hub or "", config.revision
            where = Path(snapshot_download(name, revision=revision, local_files_only=True))
        update = {"path": where, "hub": None, "revision": None}
        return base_model.load(config.model_copy(update=update), folder), where
    except Exception as error:  # transformers and the hub raise many types here
        reason = reason_of(error)
        raise InputError(
            f"base model {config.label}: {where or config.hub} can't be loaded: {reason}"
        ) from error


@contextmanager
def model_folder(config: BaseModelConfig, sweep_folder: Path, digests: Recorded) -> Iterator[Path]:
    """Yield the folder of a base model; random weights are written to a temporary one.

    Args:
        config: the base model.
        sweep_folder: the folder that its path is relative to.
        digests: those that its programs were measured with.

    Raises:
        InputError: if there is no such model on this machine, or it has changed.
    """
    from kilobit.evaluators.model.base_model import random_model

    with temporary_folder("model") as scratch:
        found, where = _load_on_cpu(config, sweep_folder)
        _check_digest(config, where, found, digests)
        if config.weights == "random":
            where = scratch
            plain = found.model
            if config.quantization is not None:
                plain = random_model(config, sweep_folder)
            plain.save_pretrained(where)
            found.tokenizer.save_pretrained(where)
        # Free its memory, because the programs load the model themselves.
        del found
        yield where


def _load_on_cpu(config: BaseModelConfig, folder: Path) -> tuple["FrozenModel", Path]:
    return load_here(config.model_copy(update={"device": "cpu"}), folder)


def _check_digest(
    config: BaseModelConfig, where: Path, found: "FrozenModel", digests: Recorded
) -> None:
    others = sorted(one for one in digests if not found.was_recorded_as(one))
    if others:
        recorded = [json.loads(f"{digests[one]}") for one in others if digests[one]]
        raise InputError(
            f"base model {config.label}: {where} has the digest {found.machine}, the programs "
            f"were measured with {', '.join(others)}{differing(found.parts, recorded)}"
        )


def differing(parts: Mapping[str, str], recorded: Iterable[Mapping[str, str]]) -> str:
    """Return the end of a message that says in which parts a machine differs from others."""
    names = {differing_parts(parts, one) for one in recorded}
    return "".join(f"; what differs: {name}" for name in sorted(names) if name)


class ProgramRunner:
    """Runner of programs in sandboxes, on the machine that holds their base models.

    Args:
        models: each base model by label.
        sweep_folder: the folder that paths of models are relative to.
        threads: number of torch threads of each program.
        fresh: whether each program gets an interpreter of its own.
    """

    def __init__(
        self,
        models: Mapping[str, BaseModelConfig],
        sweep_folder: Path,
        threads: int,
        *,
        fresh: bool = False,
    ) -> None:
        self._models, self._sweep_folder = models, sweep_folder
        self._stack, self._lock = ExitStack(), threading.Lock()
        self._folders: dict[str, tuple[Path, Recorded]] = {}
        self._sandbox = self._stack.enter_context(Sandbox(threads, fresh=fresh))

    def run(
        self,
        label: str,
        recorded: Recorded,
        program: Program,
        inputs: Sequence[str],
        limits: Limits,
        train: bytes | None,
    ) -> list[str]:
        """Return the outputs of a program's files for `inputs` in a process of its own.

        Args:
            label: of the base model.
            recorded: its digests, as the search recorded them.
            program: the program.
            inputs: the inputs.
            limits: time, memory and priority.
            train: the train split as a file, if it needs it.

        Raises:
            InputError: if its base model is missing or has changed.
            ProgramFailedError: if the files fail.
        """
        with self._lock:
            if label not in self._folders or recorded.keys() - self._folders[label][1].keys():
                found = model_folder(self._models[label], self._sweep_folder, recorded)
                self._folders[label] = self._stack.enter_context(found), recorded
        return self._sandbox.run(
            program.script,
            program.payload,
            self._folders[label][0],
            inputs,
            limits,
            train,
            has_adapter=program.recipe.adapter is not None or program.recipe.data is not None,
        )

    def warm(self) -> None:
        """Begin to import what programs need, and do not wait for it."""
        self._sandbox.warm()

    def end_idle(self) -> None:
        """End the programs that get only processor time that no other process wants."""
        self._sandbox.end_idle()

    def check(self, label: str, recorded: Recorded) -> None:
        """Check that a base model and the libraries that decide its outputs are as recorded.

        Raises:
            InputError: if the base model is missing, or is not the recorded one.
            ValueError: naming what else has changed.
        """
        from kilobit.evaluators.model.generate import all_parts

        config = self._models[label]
        found, where = _load_on_cpu(config, self._sweep_folder)
        # The settings of the sweep are those of the run; here it is loaded on the CPU in any case.
        now = all_parts(found, train_split_in_machine=False)
        for known in map(json.loads, filter(None, recorded.values())):
            known |= {name: now[name] for name in ("kind of device", "train_split_in_machine")}
            check_same(f"base model {label}: its", now, known, "files")
        # Of versions that recorded no parts.
        _check_digest(config, where, found, recorded)

    def close(self) -> None:
        """End the processes of the sandbox and remove temporary models."""
        self._stack.close()


class Verifier:
    """Verify the programs of one run.

    Args:
        folder: of the run; programs are written below it.
        ledger: of the run.
        last_rung: number of the rung at which programs are finished.
        task: its task.
        timeout_s: wall-clock limit for one program.
        call: calls a method of a `ProgramRunner` with arguments, here or on another machine.
    """

    def __init__(
        self,
        folder: Place,
        ledger: Ledger,
        last_rung: int,
        task: Task,
        timeout_s: int,
        call: Callable[..., list[str]],
    ) -> None:
        self._folder, self._ledger, self._last_rung = folder, ledger, last_rung
        self._timeout_s, self._call = timeout_s, call
        self.task: Task = task

    def program_of(self, point: FrontPoint) -> Program:
        """Return the program of a point from the ledger.

        Raises:
            DamagedRunError: if it is damaged.
        """
        with self._setting_aside():
            return read_program(self._ledger, self._part(point))

    @contextmanager
    def _setting_aside(self) -> Iterator[None]:
        """Rename a part that turns out damaged, so that the next attempt recomputes its rung."""
        try:
            yield
        except DamagedError as error:
            self._ledger.set_aside(error.path)
            raise DamagedRunError(
                f"{error}; recompute its rung by `{to_copy('resume', self._folder)}`"
            ) from error

    def outputs(
        self, point: FrontPoint, program: Program, inputs: Sequence[str], *, idle: bool = False
    ) -> list[str]:
        """Return the outputs of a program's files for `inputs` in a process of its own.

        Raises:
            ProgramFailedError: if the files fail, or are not those that were scored.
            InputError: if the base model is missing or has changed.
        """
        if program.digest != point.program:
            raise ProgramFailedError(f"the ledger holds {program.digest}, not the scored program")
        train = train_file(self.task) if names_examples(program) else None
        rungs = self._ledger.read_part(RungRecord, self._part(point)) or ()
        recorded = recorded_of(self._ledger, point.model, [rung.base_digest for rung in rungs])
        limits = replace(limits_of(program, self._timeout_s), idle=idle)
        return self._call("run", point.model, recorded, program, inputs, limits, train)

    def _part(self, point: FrontPoint) -> str:
        return rung_part(point.candidate, self._last_rung)

    def verify(self, point: FrontPoint, *, idle: bool = False) -> VerificationRecord:
        """Write the folder of a program, run it, compare the outputs, and record the result.

        Args:
            point: the program.
            idle: whether it gets only processor time that no other process wants. What goes wrong
                may then be for lack of time or memory, so it is not recorded, and nothing damaged
                is set aside.

        Raises:
            DamagedRunError, DamagedError: if the ledger's part of it is damaged; nothing is
                recorded then.
            OSError: if the ledger can't be written.
        """
        ledger, began = self._ledger, time.monotonic()
        part = self._part(point)
        with nullcontext() if idle else self._setting_aside():
            program = read_program(ledger, part)
            predictions = ledger.read_part(PredictionRecord, part)
            if not predictions:
                raise DamagedError(ledger.folder / "predictions" / f"{part}.*", "the file is gone")
        examples = self.task.splits.search[: len(predictions)]
        folder = program_folder(self._folder, point)
        recorded = [one.output for one in predictions]
        lines = [
            json.dumps({"input": e.input, "output": output}, ensure_ascii=False) + "\n"
            for e, output in zip(examples, recorded, strict=True)
        ]
        write_whole(folder / "examples.jsonl", "".join(lines).encode())
        train = train_file(self.task) if names_examples(program) else None
        if train is not None:
            write_whole(folder / "train.jsonl", train)
        about: dict[str, Any] = {
            "candidate": point.candidate,
            "task": point.task,
            "model": point.model,
            "score": point.score,
            "split": point.split,
            "base_digest": None,
        }
        for rung in ledger.read_part(RungRecord, part) or ():
            about["base_digest"] = rung.base_digest
            about["machine"], about["data"] = rung.machine, rung.data
            known = recorded_of(ledger, point.model, [rung.base_digest])
            about["parts"] = json.loads(known.get(f"{rung.base_digest}") or "null")
            if rung.excess_bits is not None:
                about["excess_bits"] = rung.excess_bits
        write_folder(folder, program, about)
        where = verified_on(program)
        found = VerificationRecord(
            # The digest of the point, so that an exchanged program counts as examined too.
            program=point.program,
            candidate=point.candidate,
            split=point.split,
            num_examples=len(examples),
            num_equal=0,
            verified=False,
            verified_on=json.dumps(where),
        )
        try:
            inputs = [example.input for example in examples]
            outputs = self.outputs(point, program, inputs, idle=idle)
            found = self._compared(found, program, point, recorded, outputs)
        except (ProgramFailedError, UnscoredError) as error:
            found = replace(found, error=str(error))
        if idle and not found.verified:
            return found
        write_folder(
            folder,
            program,
            about | {"verified": found.verified, "num_equal": found.num_equal, "on": where},
        )
        found = replace(found, seconds=time.monotonic() - began, finished_at=datetime.now(UTC))
        ledger.write(VerificationRecord, point.candidate, [found])
        return found

    def _compared(
        self,
        found: VerificationRecord,
        program: Program,
        point: FrontPoint,
        recorded: Sequence[str],
        outputs: Sequence[str],
    ) -> VerificationRecord:
        examples = self.task.splits.search[: len(outputs)]
        cut = [self.task.cut(output, program.recipe.postprocess) for output in outputs]
        score = self.task.metric.corpus(cut, examples).score
        num_equal = sum(a == b for a, b in zip(recorded, outputs, strict=True))
        if exact(program):
            verified = num_equal == len(recorded)
        else:
            lower = point.score if point.lower is None else point.lower
            upper = point.score if point.upper is None else point.upper
            verified = lower <= score <= upper
        return replace(found, num_equal=num_equal, score=score, verified=verified)


def recorded_of(ledger: Ledger, model: str, more: Iterable[str | None] = ()) -> Recorded:
    """Return the digests of a base model that a run's workers recorded, and more without parts."""
    loads = [load for load in ledger.records(WorkerRecord) if load.model == model]
    found = {load.base_digest: load.parts for load in loads}
    return {one: found.get(one) for one in (*found, *more) if one is not None}


def program_folder(run: Place, point: FrontPoint) -> Place:
    """Return the folder of a program, named by its base model and its candidate."""
    return run / "programs" / folder_name(point.model, point.candidate)


def names_examples(program: Program) -> bool:
    """Return whether a program needs the train split beside the model."""
    return program.recipe.prompt is not None and program.recipe.prompt.codec == "index"


def train_file(task: Task) -> bytes:
    """Return the train split for program.py: one JSON list of input and target per line.

    It is ASCII, so that program.py reads the same text in every locale.
    """
    pairs = (json.dumps([e.input, e.target]) for e in task.splits.train)
    return "".join(pair + "\n" for pair in pairs).encode()


def verified_on(program: Program) -> dict[str, Any]:
    """Return where a verification ran: device, type of the weights, versions."""
    return {
        "device": program.recipe.device,
        "dtype": program.recipe.dtype,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }
