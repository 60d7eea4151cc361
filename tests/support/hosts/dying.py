"""An object of a crew whose process may die; its module imports nothing heavy, as members do."""

import os
import signal
from pathlib import Path

from kilobit.cluster.messages import PoolError
from kilobit.search.settings import InputError


class Worker:
    """Object of a member, in a process that may die."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def square(self, number: int, deaths: int = 0) -> tuple[int, int]:
        for death in range(deaths):
            died = self._folder / f"{number}-{death}"
            if not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return number**2, os.getpid()

    def lose_a_rank(self) -> str:
        lost = self._folder / "lost"
        if not lost.exists():
            lost.touch()
            raise PoolError("rank 1 of the shard group died")
        return "whole"

    def refuse(self, text: str) -> None:
        raise InputError(text)

    def close(self) -> None:
        (self._folder / "closed").touch()
