"""Where results are read from: the folders of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cluster.program_files import folder_name, read_program
from cluster.run_folder import open_run, read_manifest
from evaluators.ledger import Ledger
from evaluators.storage import Place
from search.programs.program import Program
from search.sweep import Sweep


@dataclass(frozen=True)
class Source:
    """The results of one run.

    Attributes:
        name: what its points call their run.
        place: its folder, where its programs lie.
        about: its `run.json`: the sweep, commands, versions, attempts.
        sweep: what was asked for.
        ledger: its tables.
    """

    name: str
    place: Place
    about: Mapping[str, Any]
    sweep: Sweep
    ledger: Ledger

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of a table, one Arrow column each.

        Raises:
            ValueError: naming the file, if one is damaged or of a newer version.
        """
        return self.ledger.read(table, columns)

    def program(self, candidate: str) -> Program:
        """Return the program that a candidate was at the last rung.

        Raises:
            ValueError: naming the file, if it is gone, damaged or of a newer version.
        """
        return read_program(self.ledger, f"{candidate}-r{self.sweep.rungs.count - 1}")

    def program_folder(self, model: str, candidate: str) -> Place | None:
        """Return the folder in which a program lies as files, or None if there is none."""
        folder = self.place / "programs" / folder_name(model, candidate)
        return folder if (folder / "program.py").exists() else None

    def scorecard(self) -> bytes | None:
        """Return what is in the run's scorecard.parquet, or None if there is none."""
        try:
            return (self.place / "scorecard.parquet").read_bytes()
        except FileNotFoundError:
            return None


def open_sources(places: Sequence[Place]) -> list[Source]:
    """Return what lies in these folders, in their order.

    Raises:
        SweepError: if one holds no results.
    """
    return [_of_run(place) for place in places]


def _of_run(place: Place) -> Source:
    run = open_run(place)
    return Source(run.path.name, run.path, read_manifest(run.path), run.sweep, run.ledger)
