"""An evaluator: one resident base model that trains and scores any candidate, rung by rung.

It runs as a Ray actor in a pool or in this process; both are the same class. `run_rung` writes the
rows of a rung to the ledger and returns the rung's row. Whatever goes wrong with a candidate
becomes a row with its traceback. A rung that the ledger has already is returned as it stands, so a
repeated call costs nothing and changes nothing.
"""

import json
import os
import platform
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cluster import frozen as frozen_model
from cluster.adapters import Adapter, Trained, installed
from cluster.builder import Builder
from cluster.incumbents import read_incumbents
from cluster.messages import BaseModelChangedError, EvaluatorSetup, rung_part
from cluster.prequential import Learned, learn
from cluster.program_files import write_program
from cluster.scoring import Measured, Scorer
from cluster.states import States
from cluster.token_logits import text_bits
from cluster.training import Lesson
from cluster.warm_start import begin_from
from evaluators.cache import PredictionCache
from evaluators.fence import SupersededError
from evaluators.ledger import Ledger
from evaluators.tasks import load_task
from search.base_model import BaseModelConfig
from search.candidate import Candidate
from search.programs.numbers import Tensor
from search.programs.text import TextCodec
from search.rungs import Rung
from search.sweep import Sweep

SPLIT = "search"


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
        self._ledger = Ledger(self._run / "ledger", setup.attempt)
        sweep = self._sweep
        self._builder = Builder(
            self._frozen,
            config,
            self._task,
            sweep.batch_size,
            sweep.length,
            by_index=sweep.train_split_in_machine,
        )
        self._states = States(self._run, self._ledger)
        self._scorer = Scorer(
            self._frozen,
            self._builder,
            self._task,
            self._ledger,
            PredictionCache(sweep.cache or self._run / "cache"),
            sweep.scheduler.racing.level if sweep.scheduler.racing.enabled else None,
            sweep.length,
        )
        self._record_load(config)

    def ready(self) -> str:
        """Return the digest of the base model; an answer says that the model is loaded."""
        return self._frozen.digest

    def prompt_bits(self, texts: Sequence[str]) -> list[float]:
        """Return how many bits each text takes under the base model, inf where it can't code it."""
        return [text_bits(self._frozen, text) for text in texts]

    def run_rung(self, candidate_json: str, rung: Rung) -> dict[str, Any]:
        """Train a candidate up to `rung`, score it on the rung's examples, and record it.

        Raises:
            BaseModelChangedError: if the base model's weights changed; this worker is then spoilt.
            SupersededError: if a newer attempt at the run has begun.
            OSError: if the ledger or an adapter's state can't be written.
        """
        candidate = Candidate.model_validate_json(candidate_json)
        part = rung_part(candidate.id, rung)
        known = self._ledger.read_part("rungs", part)
        if known is not None:
            return known[0]
        began = time.monotonic()
        row = self._row(candidate, rung)
        try:
            row |= self._train_and_score(candidate, rung)
        except (BaseModelChangedError, SupersededError, OSError):
            # What the worker, the run or the disk ran into is not the candidate's failure.
            raise
        except Exception:  # noqa: BLE001 - a candidate may fail in any way, the search goes on
            row["error"] = traceback.format_exc()
        row["seconds"] = time.monotonic() - began
        row["finished_at"] = datetime.now(UTC)
        # The rung's own part comes last: where it exists, its predictions and its programs do too.
        self._ledger.write("rungs", part, [row])
        return row

    def _row(self, candidate: Candidate, rung: Rung) -> dict[str, Any]:
        return {
            "candidate": candidate.id,
            "rung": rung.index,
            "split": SPLIT,
            "num_examples": rung.num_examples,
            "worker": self._setup.worker,
            "attempt": self._setup.attempt,
            "base_digest": self._frozen.digest,
            "left": self._left(candidate, rung),
        }

    def _train_and_score(self, candidate: Candidate, rung: Rung) -> dict[str, Any]:
        """Return the numbers of a candidate; after its last rung also record its variants."""
        last = rung.index == self._sweep.rungs.count - 1
        texts = self._builder.code_text(candidate.prompt, by_model=last)
        if candidate.adapter is None:
            measured = self._score(candidate, rung, texts, None, ())
            return self._record(candidate, rung, measured)
        try:
            with installed(self._frozen, candidate.adapter) as adapter:
                began = time.monotonic()
                trained, content = self._train(candidate, rung, adapter, last)
                train_s = time.monotonic() - began
                measured = self._score(candidate, rung, texts, adapter, content)
                numbers = self._record(candidate, rung, measured)
                if isinstance(content, Learned):
                    numbers["excess_bits"] = content.excess_bits
                elif last and measured.verdict != "loses":
                    self._record_variants(candidate, rung, texts, adapter, content)
        finally:
            digest = frozen_model.weights_digest(self._frozen.model)
            if digest != self._frozen.digest:
                raise BaseModelChangedError(
                    f"the base model's digest was {self._frozen.digest} and is {digest} after "
                    f"candidate {candidate.id}"
                )
        return numbers | {
            "train_steps": trained.steps,
            "train_loss": trained.loss,
            "train_tokens": trained.tokens,
            "train_s": train_s,
        }

    def _record_variants(
        self,
        parent: Candidate,
        rung: Rung,
        texts: dict[TextCodec, bytes],
        adapter: Adapter,
        tensors: Sequence[Tensor],
    ) -> None:
        """Score the same adapter in coarser codings, each a candidate of its own."""
        regimes = {model.label: model.regime for model in self._sweep.base_models}
        for variant in self._sweep.rate_search.variants(parent):
            if self._ledger.read_part("rungs", rung_part(variant.id, rung)) is not None:
                continue
            began = time.monotonic()
            measured = self._score(variant, rung, texts, adapter, tensors)
            about = {
                "candidate": variant.id,
                "task": variant.task,
                "model": variant.model,
                "regime": regimes[variant.model],
                "family": variant.family,
                "spec": variant.canonical(),
                "seed": self._sweep.seed,
                "parent": parent.id,
                "operator": "coarsen",
            }
            self._ledger.write("candidates", variant.id, [about])
            row = self._row(variant, rung) | self._record(variant, rung, measured)
            row |= {"seconds": time.monotonic() - began, "finished_at": datetime.now(UTC)}
            self._ledger.write("rungs", rung_part(variant.id, rung), [row])

    def _train(
        self, candidate: Candidate, rung: Rung, adapter: Adapter, last: bool
    ) -> tuple[Trained, Sequence[Tensor] | Learned]:
        """Go on from the state of an earlier rung, if there is one, and save the new state.

        Without one, begin from the candidate that the adapter's `start` names, if it names one.
        Examples that are coded while the adapter learns from them have to be met from the start.
        """
        assert candidate.adapter is not None
        if candidate.adapter.method == "data":
            learned = learn(self._frozen, adapter, self._task, rung.train_steps, exact=last)
            return learned.trained, learned
        earlier, start = self._states.before(candidate.id, rung.index), candidate.adapter.start
        if earlier is not None:
            adapter.restore(earlier)
        elif start is not None:
            begin_from(adapter, start, self._states.before(start, self._sweep.rungs.count))
        prompt = candidate.prompt.render(self._task)
        lesson = Lesson(self._task, prompt, self._task.splits.train, candidate.chat)
        trained = adapter.train(
            self._frozen, lesson, min(candidate.adapter.steps, rung.train_steps)
        )
        self._states.write(candidate.id, rung.index, adapter.state())
        return trained, adapter.tensors()

    def _score(
        self,
        candidate: Candidate,
        rung: Rung,
        texts: dict[TextCodec, bytes],
        adapter: Adapter | None,
        content: Sequence[Tensor] | Learned,
    ) -> Measured:
        left = self._left(candidate, rung)
        incumbents = read_incumbents(self._run, candidate.model, rung.index, left)
        race = left == 0
        return self._scorer.score(candidate, rung, texts, adapter, content, incumbents, race=race)

    def _left(self, candidate: Candidate, rung: Rung) -> int:
        """Return the rungs until no more training changes a candidate."""
        ladder = self._sweep.rungs.ladder()
        return candidate.trained_at(ladder) - rung.index if candidate.adapter else 0

    def _record(self, candidate: Candidate, rung: Rung, measured: Measured) -> dict[str, Any]:
        """Write a candidate's predictions and its program if it has one; return its numbers."""
        examples = self._task.splits.search[: len(measured.outputs)]
        program, part = measured.program, rung_part(candidate.id, rung)
        cut = [self._task.cut(output) for output in measured.outputs]
        result = self._task.metric.corpus(cut, examples)
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
                    "score": score,
                }
                for output, score, example in zip(
                    measured.outputs, measured.scores, examples, strict=True
                )
            ],
        )
        if measured.exact:
            write_program(self._ledger, part, candidate.id, rung.index, program)
        return {
            "num_examples": len(examples),
            "num_generated": measured.generated,
            "score": result.score,
            "lower": result.lower,
            "upper": result.upper,
            "program_bits": program.program_bits,
            "payload_bits": program.payload_bits,
            "program": program.digest if measured.exact else None,
            "input_tokens": measured.input_tokens,
            "output_tokens": measured.output_tokens,
            "generate_s": measured.generate_s,
            "against": measured.against,
            "gap": measured.gap,
            "verdict": measured.verdict,
            "train_steps": 0,
            "train_s": 0.0,
        }

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
