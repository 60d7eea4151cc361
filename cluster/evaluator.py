"""An evaluator: one resident base model that trains and scores any candidate, rung by rung.

It runs as a Ray actor in a pool or in this process; both are the same class. `run_rung` writes the
rows of a rung to the ledger and returns the rung's row. Whatever goes wrong with a candidate
becomes a row with its traceback. A rung that the ledger has already is returned as it stands, so a
repeated call costs nothing and changes nothing.
"""

import hashlib
import json
import os
import platform
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cluster import frozen as frozen_model
from cluster.generation import Generated, generate
from cluster.lora import Lora, Trained, installed
from cluster.messages import BaseModelChangedError, EvaluatorSetup, rung_part
from evaluators.ledger import Ledger, write_whole
from evaluators.metrics import Example
from evaluators.tasks import load_task
from search.base_model import BaseModelConfig
from search.candidate import Candidate
from search.programs.payload import Content, decode, encode
from search.programs.postprocess import postprocess
from search.rungs import Rung
from search.sweep import Sweep

SPLIT = "search"


@dataclass(frozen=True)
class _Measured:
    payload: bytes
    codecs: dict[str, str]
    trained: Trained
    generated: Generated
    outputs: list[str]
    train_s: float
    generate_s: float


class Evaluator:
    """One resident base model; see the module's text.

    Raises:
        OSError, ValueError: on construction, if the model or the task can't be loaded.
    """

    def __init__(self, setup: EvaluatorSetup) -> None:
        self._sweep = Sweep.model_validate_json(setup.sweep, strict=True)
        folder = Path(setup.sweep_folder)
        torch.set_num_threads(self._sweep.workers.threads)
        self._setup = setup
        self._task = load_task(self._sweep.task, folder)
        config = next(m for m in self._sweep.base_models if m.label == setup.model)
        self._frozen = frozen_model.load(config, folder)
        self._run = Path(setup.run_folder)
        self._ledger = Ledger(self._run / "ledger")
        self._record_load(config)

    def ready(self) -> str:
        """Return the digest of the base model; an answer says that the model is loaded."""
        return self._frozen.digest

    def run_rung(self, candidate_json: str, rung: Rung) -> dict[str, Any]:
        """Train a candidate up to `rung`, score it on the rung's examples, and record it.

        Raises:
            BaseModelChangedError: if the base model's weights changed; this worker is then spoilt.
            OSError: if the ledger or an adapter's state can't be written.
        """
        candidate = Candidate.model_validate_json(candidate_json)
        part = rung_part(candidate.id, rung)
        known = self._ledger.read_part("rungs", part)
        if known is not None:
            return known[0]
        began = time.monotonic()
        row: dict[str, Any] = {
            "candidate": candidate.id,
            "rung": rung.index,
            "split": SPLIT,
            "num_examples": rung.num_examples,
            "worker": self._setup.worker,
            "attempt": self._setup.attempt,
            "base_digest": self._frozen.digest,
        }
        try:
            row |= self._record(candidate, rung, part)
        except (BaseModelChangedError, OSError):
            # The worker's and the disk's failures are not the candidate's: it may be tried again.
            raise
        except Exception:  # noqa: BLE001 - a candidate may fail in any way, the search goes on
            row["error"] = traceback.format_exc()
        row["seconds"] = time.monotonic() - began
        row["finished_at"] = datetime.now(UTC)
        # The rung's own part comes last: where it exists, its predictions and its program do too.
        self._ledger.write("rungs", part, [row])
        return row

    def _record(self, candidate: Candidate, rung: Rung, part: str) -> dict[str, Any]:
        """Measure a candidate, write its predictions and its program, and return its numbers."""
        examples = self._task.splits.search[: rung.num_examples]
        measured = self._measure(candidate, rung, examples)
        metric = self._task.metric
        result = metric.corpus(measured.outputs, examples)
        program = hashlib.sha256(measured.payload).hexdigest()
        bits = 8 * len(measured.payload)
        self._ledger.write(
            "predictions",
            part,
            [
                {
                    "candidate": candidate.id,
                    "rung": rung.index,
                    "split": SPLIT,
                    "example": example.id,
                    "output": output,
                    "score": metric.per_example(output, example),
                }
                for output, example in zip(measured.outputs, examples, strict=True)
            ],
        )
        self._ledger.write(
            "programs",
            part,
            [
                {
                    "candidate": candidate.id,
                    "rung": rung.index,
                    "program": program,
                    "payload_bits": bits,
                    "codecs": json.dumps(measured.codecs, sort_keys=True),
                    "payload": measured.payload,
                }
            ],
        )
        return {
            "score": result.score,
            "lower": result.lower,
            "upper": result.upper,
            "payload_bits": bits,
            "program": program,
            "train_steps": measured.trained.steps,
            "train_loss": measured.trained.loss,
            "train_tokens": measured.trained.tokens,
            "input_tokens": measured.generated.input_tokens,
            "output_tokens": measured.generated.output_tokens,
            "train_s": measured.train_s,
            "generate_s": measured.generate_s,
        }

    def _measure(
        self, candidate: Candidate, rung: Rung, examples: tuple[Example, ...]
    ) -> _Measured:
        if candidate.adapter is None:
            return self._measure_program(candidate, examples, None, Trained(0, None, 0), 0.0)
        try:
            with installed(self._frozen, candidate.adapter) as lora:
                began = time.monotonic()
                trained = self._train(candidate, rung, lora)
                train_s = time.monotonic() - began
                return self._measure_program(candidate, examples, lora, trained, train_s)
        finally:
            digest = frozen_model.weights_digest(self._frozen.model)
            if digest != self._frozen.digest:
                raise BaseModelChangedError(
                    f"the base model's digest was {self._frozen.digest} and is {digest} after "
                    f"candidate {candidate.id}"
                )

    def _train(self, candidate: Candidate, rung: Rung, lora: Lora) -> Trained:
        """Go on from the state of an earlier rung, if there is one, and save the new state."""
        assert candidate.adapter is not None
        for index in range(rung.index - 1, -1, -1):
            earlier = self._state_file(candidate, index)
            if earlier.exists():
                lora.restore(earlier.read_bytes())
                break
        prompt = candidate.prompt.render(self._task)
        until = min(candidate.adapter.steps, rung.train_steps)
        trained = lora.train(self._frozen, self._task, prompt, self._task.splits.train, until)
        write_whole(self._state_file(candidate, rung.index), lora.state())
        return trained

    def _state_file(self, candidate: Candidate, rung_index: int) -> Path:
        return self._run / "states" / f"{candidate.id}-r{rung_index}.safetensors"

    def _measure_program(
        self,
        candidate: Candidate,
        examples: tuple[Example, ...],
        lora: Lora | None,
        trained: Trained,
        train_s: float,
    ) -> _Measured:
        """Encode the program, decode it, and run what was decoded."""
        content = Content(
            prompt=candidate.prompt.render(self._task),
            max_new_tokens=candidate.max_new_tokens,
            postprocess=candidate.postprocess,
            adapter=lora.file() if lora else None,
        )
        payload, codecs = encode(content)
        program = decode(payload)
        if lora:
            assert program.adapter is not None
            # What is scored is what the payload says, float16 numbers included.
            lora.assign(program.adapter.values)
        task = self._task
        limit = min(program.max_new_tokens or task.max_new_tokens, task.max_new_tokens)
        began = time.monotonic()
        generated = generate(
            self._frozen,
            [program.prompt + task.ask(example.input) for example in examples],
            max_new_tokens=limit,
            stop=task.stop,
            batch_size=self._sweep.workers.batch_size,
        )
        generate_s = time.monotonic() - began
        outputs = [postprocess(task.cut(text), program.postprocess) for text in generated.texts]
        return _Measured(payload, codecs, trained, generated, outputs, train_s, generate_s)

    def _record_load(self, config: BaseModelConfig) -> None:
        packages = ("torch", "transformers", "peft", "ray")
        self._ledger.write(
            "workers",
            f"{self._setup.worker}-a{self._setup.attempt}-{os.getpid()}",
            [
                {
                    "worker": self._setup.worker,
                    "model": config.label,
                    "base_digest": self._frozen.digest,
                    "num_parameters": sum(p.numel() for p in self._frozen.model.parameters()),
                    "load_s": self._frozen.load_s,
                    "host": platform.node(),
                    "pid": os.getpid(),
                    "versions": json.dumps({name: version(name) for name in packages}),
                    "started_at": datetime.now(UTC),
                }
            ],
        )
