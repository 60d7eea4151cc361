"""In-memory state of one candidate at one rung, on its worker."""

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
    """State of a candidate at a rung: its row so far, its adapter and its timings.

    Attributes:
        candidate: the candidate.
        rung: the rung.
        row: its row of the ledger, as far as it is known.
        texts: its prompt as coded by each codec.
        adapter: its adapter, beside the model or on it; None for prompts.
        key: key of an adapter that is beside the model.
        content: the adapter's trained numbers, or the examples it has learned from.
        trained: result of its training.
        scoring: its progress through the examples.
        train_s: seconds of its training.
        code_s: seconds of coding its prompt, and of building and decoding its program.
        seconds: all seconds spent on it.
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
        """Return the name of its parts in the ledger."""
        return rung_part(self.candidate.id, self.rung)

    @property
    def failed(self) -> bool:
        """Return whether it has an error."""
        return self.row.get("error") is not None

    def fail(self, error: BaseException) -> None:
        """Record an error in its row; the first one is kept."""
        if not self.failed:
            self.row["error"] = "".join(traceback.format_exception(error))

    @contextmanager
    def coding(self) -> Iterator[None]:
        """Count the time of the block as coding."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.code_s += time.monotonic() - began

    def spend(self, seconds: float) -> None:
        """Count its share of time spent on several candidates, unless `guarded` is counting."""
        if not self._guards:
            self.seconds += seconds

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Count the time of the block, and record failures of the candidate in its row.

        Raises:
            BaseModelChangedError, GroupError, SupersededError, OSError: failures of the worker, the
                run or the disk, which are not the candidate's.
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
