"""Checkpoints of adapters between rungs: one file per candidate, rung and attempt."""

from contextlib import suppress

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.search.records import RungRecord, rung_part


class Checkpoints:
    """The folder `states` of a run, which holds its checkpoints.

    Args:
        run: the run's folder.
        ledger: says with which attempt's checkpoint a rung was measured.
    """

    def __init__(self, run: Place, ledger: Ledger) -> None:
        self._folder, self._ledger = run / "states", ledger

    def write(self, candidate: str, rung: int, state: bytes) -> None:
        """Write the checkpoint of a candidate after a rung.

        Raises:
            OSError: if it can't be written.
        """
        assert self._ledger.attempt is not None
        write_whole(self._file(candidate, rung, self._ledger.attempt), state)

    def before(self, candidate: str, rung: int) -> bytes | None:
        """Return a candidate's latest checkpoint from before `rung`, None if there is none.

        Where several attempts wrote one at the same rung, it is the one that the accepted row was
        measured with.

        Raises:
            OSError, ValueError: if a part of the ledger can't be read.
        """
        for index in range(rung - 1, -1, -1):
            records = self._ledger.read_part(RungRecord, rung_part(candidate, index))
            attempt = records[0].attempt if records else None
            file = None if attempt is None else self._file(candidate, index, attempt)
            if file is not None:
                with suppress(FileNotFoundError, NotADirectoryError):
                    return file.read_bytes()
        return None

    def _file(self, candidate: str, rung: int, attempt: int) -> Place:
        return self._folder / f"{rung_part(candidate, rung)}.a{attempt}.safetensors"
