"""How much goes into one pass: as much as fits, those of like width together.

The size of a pass is counted in tokens that it holds. A planner begins with what was measured
(`cluster.packing.measure`) and halves it where memory runs out all the same.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Planner:
    """Cuts work into passes.

    Attributes:
        limit: most tokens of a pass, None without a limit.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit

    def ran_out(self, tokens: int) -> None:
        """Learn that memory did not suffice for a pass of so many tokens."""
        half = max(1, tokens // 2)
        self.limit = half if self.limit is None else min(self.limit, half)

    def run(
        self, sizes: Sequence[int], work: Callable[[list[int]], Sequence[Result]]
    ) -> list[Result | MemoryError]:
        """Return the results of all rows; where memory runs out, half a pass is tried.

        Args:
            sizes: tokens of each row.
            work: takes the places of the rows of a pass and returns their results.

        Returns:
            A row that does not fit into memory even by itself has an error in its place.
        """
        found: dict[int, Result | MemoryError] = {}
        todo = self.split(range(len(sizes)), lambda i: sizes[i])
        while todo:
            part = todo.pop(0)
            try:
                new = work(part)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                message = str(error)
            else:
                found.update(zip(part, new, strict=True))
                continue
            # Out here the tensors that the error held are gone.
            self.ran_out(sum(sizes[i] for i in part))
            half = len(part) // 2
            if half:
                todo[:0] = [part[:half], part[half:]]
            else:
                found[part[0]] = MemoryError(f"a row does not fit into memory: {message}")
        return [found[i] for i in range(len(sizes))]

    def split(self, items: Sequence[Item], size: Callable[[Item], int]) -> list[list[Item]]:
        """Return `items` in their order as passes within the limit, each with one at least."""
        passes: list[list[Item]] = []
        room = 0
        for item in items:
            if not passes or (self.limit is not None and size(item) > room):
                passes.append([])
                room = self.limit or 0
            passes[-1].append(item)
            room -= size(item)
        return passes


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether `error` says that an allocation failed, on a GPU or on a CPU."""
    # PyTorch has a type for GPUs only; on a CPU it raises RuntimeError with the system's message.
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)
