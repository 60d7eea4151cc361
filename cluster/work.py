"""A candidate at a rung while a worker has it in hand."""

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cluster.adapters import Adapter, Trained
from cluster.messages import BaseModelChangedError, rung_part
from cluster.prequential import Learned
from cluster.scoring import Scoring
from cluster.shards.group import GroupError
from evaluators.fence import SupersededError
from search.candidate import Candidate
from search.programs.numbers import Tensor
from search.programs.text import TextCodec
from search.rungs import Rung

Row = dict[str, Any]


@dataclass
class Work:
    """What is known of a candidate at a rung so far.

    Attributes:
        candidate: what is tried.
        rung: how far.
        row: its row of the ledger.
        texts: its prompt as the codecs write it.
        adapter: its adapter, beside the model or on it; None for prompts.
        key: of an adapter that is beside the model.
        content: the adapter's trained numbers, or what it has learned from.
        trained: what its training did.
        scoring: its way through the examples.
        train_s: seconds of its training.
        code_s: seconds of coding its prompt, and of building and decoding its program.
        seconds: that it has cost.
    """

    candidate: Candidate
    rung: Rung
    row: Row
    texts: dict[TextCodec, bytes] = field(default_factory=dict)
    adapter: Adapter | None = None
    key: str | None = None
    content: Sequence[Tensor] | Learned = ()
    trained: Trained | None = None
    scoring: Scoring | None = None
    train_s: float = 0.0
    code_s: float = 0.0
    seconds: float = 0.0
    _guards: int = 0

    @property
    def part(self) -> str:
        """Return the name of its parts of the ledger."""
        return rung_part(self.candidate.id, self.rung)

    @property
    def failed(self) -> bool:
        """Return whether something went wrong with it."""
        return self.row.get("error") is not None

    def fail(self, error: BaseException) -> None:
        """Take down what went wrong; the first error stays."""
        if not self.failed:
            self.row["error"] = "".join(traceback.format_exception(error))

    @contextmanager
    def coding(self) -> Iterator[None]:
        """Count the time as that of coding."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.code_s += time.monotonic() - began

    def spend(self, seconds: float) -> None:
        """Count its share of time that was spent on many; not where all time is counted anyway."""
        if not self._guards:
            self.seconds += seconds

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Count the time, and make what goes wrong with the candidate an error of its row.

        Raises:
            BaseModelChangedError, GroupError, SupersededError, OSError: what the worker, the run or
                the disk ran into is not the candidate's failure.
        """
        began = time.monotonic()
        self._guards += 1
        try:
            yield
        except (BaseModelChangedError, GroupError, SupersededError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - a candidate may fail in any way
            self.fail(error)
        finally:
            self._guards -= 1
            self.spend(time.monotonic() - began)
