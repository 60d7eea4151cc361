"""Ledger rows of a candidate at a rung: predictions, program, and last the row of the rung.

A worker writes them. Raises `SupersededError` if a newer attempt at the run has begun, and
`OSError` if they can't be written.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from cluster.program_files import write_program
from cluster.scoring import Measured
from cluster.work import Row, Work
from evaluators.ledger import Ledger
from evaluators.task import Task
from search.candidate import Candidate
from search.rungs import Rung
from search.sweep import Sweep

SPLIT = "search"


class RungRows:
    """Writer of one worker's ledger rows.

    Args:
        sweep: the sweep of the candidates.
        task: how outputs are scored.
        ledger: the ledger to write to.
        about: the columns that have the same value in all rows.
    """

    def __init__(self, sweep: Sweep, task: Task, ledger: Ledger, about: dict[str, Any]) -> None:
        self._sweep, self._task, self._ledger, self._about = sweep, task, ledger, about
        self._regimes = {model.label: model.regime for model in sweep.base_models}

    def begin(self, candidate: Candidate, rung: Rung) -> Row:
        """Return a new row with the columns that are known before the rung runs."""
        return {
            "candidate": candidate.id,
            "rung": rung.index,
            "split": SPLIT,
            "num_examples": rung.num_examples,
            "left": self.left(candidate, rung),
            **self._about,
        }

    def left(self, candidate: Candidate, rung: Rung) -> int:
        """Return the number of rungs until a candidate's training is complete."""
        ladder = self._sweep.rungs.ladder()
        return candidate.trained_at(ladder) - rung.index if candidate.adapter else 0

    def record(self, work: Work, measured: Measured) -> None:
        """Write a candidate's predictions and its program if it has one; fill in its row.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if they can't be written.
        """
        examples = self._task.splits.search[: len(measured.outputs)]
        program, candidate, rung = measured.program, work.candidate, work.rung
        cut = [self._task.cut(output) for output in measured.outputs]
        result = self._task.metric.corpus(cut, examples)
        self._ledger.write(
            "predictions",
            work.part,
            [
                {
                    "candidate": candidate.id,
                    "rung": rung.index,
                    "split": SPLIT,
                    "example": example.id,
                    "output": output,
                    "score": score,
                    "columns": self._task.columns(output, example),
                }
                for output, score, example in zip(
                    measured.outputs, measured.scores, examples, strict=True
                )
            ],
        )
        if measured.exact:
            write_program(self._ledger, work.part, candidate.id, rung.index, program)
        work.row |= {
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

    def introduce(self, variant: Candidate, parent: Candidate) -> None:
        """Record a coarser coding of `parent` as a candidate of its own.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if it can't be written.
        """
        about = {
            "candidate": variant.id,
            "task": variant.task,
            "model": variant.model,
            "regime": self._regimes[variant.model],
            "family": variant.family,
            "spec": variant.canonical(),
            "seed": self._sweep.seed,
            "parent": parent.id,
            "operator": "coarsen",
        }
        self._ledger.write("candidates", variant.id, [about])

    def finish(self, works: Sequence[Work]) -> None:
        """Write the rungs' own parts last: if one exists, its predictions and program exist too.

        Raises:
            SupersededError: if a newer attempt at the run has begun.
            OSError: if they can't be written.
        """
        for work in works:
            if work.trained is not None and not work.failed:
                work.row |= {
                    "train_steps": work.trained.steps,
                    "train_loss": work.trained.loss,
                    "train_tokens": work.trained.tokens,
                    "train_s": work.train_s,
                }
            spent = {"seconds": work.seconds, "code_s": work.code_s}
            work.row |= {**spent, "finished_at": datetime.now(UTC)}
            self._ledger.write("rungs", work.part, [work.row])
