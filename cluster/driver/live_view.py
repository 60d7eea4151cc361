"""Progress display of a running search: a live table, or plain lines without a terminal.

Time is passed in, so tests advance it.
"""

from collections import Counter
from collections.abc import Callable, Iterable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kilobit.cluster.console import pause_s, renews, tell
from kilobit.search.records import DecisionRecord, RungRecord
from kilobit.search.schedulers.scheduler import Decision


class LiveProgress:
    """Progress statistics of a search, updated from rows and decisions.

    Args:
        num_candidates: number of candidates over all attempts; None if unknown.
        num_rungs: number of rungs.
        clock: returns the time in seconds.
        budget_s: what is left of the time budget as the search begins, None without one.
    """

    def __init__(
        self,
        num_candidates: int | None,
        num_rungs: int,
        clock: Callable[[], float],
        budget_s: float | None = None,
    ) -> None:
        self._budget_s = budget_s
        self.num_candidates, self.num_rungs = num_candidates, num_rungs
        self._clock, self._began = clock, clock()
        self.ended: set[str] = set()
        self._ended_before = 0
        self.failed: set[str] = set()
        self.at_rung: Counter[int] = Counter()
        self.examples = 0
        # Of the last rung of a training by reward.
        self.reward: str | None = None
        # Best score and its number of examples, for each model and decade of bits.
        self.best: dict[str, dict[int, tuple[float, int]]] = {}

    def take_earlier(
        self, rungs: Iterable[RungRecord], decisions: Iterable[DecisionRecord]
    ) -> None:
        """Count the rungs of earlier attempts; their best scores and speed are not shown.

        Decisions without a record of their rung do not count.
        """
        errors = {(record.candidate, record.rung): record.error for record in rungs}
        for decided in decisions:
            key = (decided.candidate, decided.rung)
            if key not in errors:
                continue
            self.at_rung[decided.rung] += 1
            if decided.decision != "promote":
                self.ended.add(decided.candidate)
            if errors[key]:
                self.failed.add(decided.candidate)
        self._ended_before = len(self.ended)

    def add(self, model: str, record: RungRecord, decision: Decision) -> None:
        """Count one finished rung."""
        self.at_rung[record.rung] += 1
        if decision.action != "promote":
            self.ended.add(record.candidate)
        if record.error:
            self.failed.add(record.candidate)
        if record.rewards and record.best_reward is not None:
            self.reward = (
                f"generation {record.train_steps}: mean reward {record.rewards[-1]:.2f}, "
                f"best {record.best_reward:.2f}"
            )
        if record.score is None or record.payload_bits is None:
            return
        self.examples += record.num_generated or 0
        decades = self.best.setdefault(model, {})
        new = (record.score, record.num_examples)
        key = decade(record.payload_bits)
        # More examples weigh more than a higher score on fewer.
        if key not in decades or (new[1], new[0]) > (decades[key][1], decades[key][0]):
            decades[key] = new

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the search began."""
        return self._clock() - self._began

    def left_s(self) -> float | None:
        """Return the expected seconds to the end, None if nothing is known of it.

        Known is the pace once this attempt has ended a candidate, and the end of its time budget.
        """
        known, here = [], len(self.ended) - self._ended_before
        if here and self.num_candidates is not None:
            known.append(self.elapsed_s / here * (self.num_candidates - len(self.ended)))
        if self._budget_s is not None:
            known.append(max(0.0, self._budget_s - self.elapsed_s))
        return min(known, default=None)

    def line(self) -> str:
        """Return the statistics as one line."""
        rungs = " ".join(f"rung {i}: {self.at_rung[i]}" for i in range(self.num_rungs))
        left, most = self.left_s(), self.num_candidates
        rate = self.examples / self.elapsed_s if self.elapsed_s > 0 else 0.0
        return (
            f"{len(self.ended)}{'' if most is None else f'/{most}'} candidates, {rungs}, "
            f"{len(self.failed)} failed, {rate:.0f} examples/s, "
            f"{f'{self.reward}, ' if self.reward else ''}"
            f"{clock_text(self.elapsed_s)} elapsed, "
            f"{clock_text(left) if left is not None else '?'} left"
        )


class LiveView:
    """Live display of a `Course`; a context manager."""

    def __init__(self, course: LiveProgress, console: Console) -> None:
        self._course, self._console = course, console
        # On a terminal a timer redraws the table, so that the clock advances during a long rung.
        self._live = (
            Live(console=console, get_renderable=self._table, refresh_per_second=2)
            if renews(console)
            else None
        )
        self._last = 0.0
        self._told: Counter[int] | None = None

    def __enter__(self) -> "LiveView":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        elif self._told != self._course.at_rung:
            self._tell()

    def update(self) -> None:
        """Print the line again, without a terminal and at most every ten seconds."""
        now = self._course.elapsed_s
        if self._live is None and now - self._last >= pause_s(self._console):
            self._last = now
            self._tell()

    def _tell(self) -> None:
        self._told = self._course.at_rung.copy()
        tell(self._console, self._course.line())

    def _table(self) -> Group:
        course = self._course
        decades = sorted({d for best in course.best.values() for d in best})
        table = Table(
            "base model", title="best score by payload bits (examples it was measured on)"
        )
        for number in decades:
            table.add_column(decade_label(number), justify="right")
        for model, best in course.best.items():
            cells = [f"{best[d][0]:.2f} ({best[d][1]})" if d in best else "" for d in decades]
            table.add_row(model, *cells)
        # A bar ends without a new line, so it needs a row of its own.
        below = Table.grid()
        below.add_row(ProgressBar(total=course.num_candidates, completed=len(course.ended)))
        below.add_row(Text(course.line()))
        return Group(table, below)


def decade(bits: int) -> int:
    """Return the number of digits of a length in bits, 0 for no bits."""
    return len(str(bits)) if bits else 0


def decade_label(number: int) -> str:
    """Return the column heading of a decade."""
    from kilobit.evaluators.figures.canvas import bits_label

    return "0 bit" if number == 0 else f"< {bits_label(10**number)}"


def clock_text(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
