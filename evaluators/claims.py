"""Claims of the rows of a table: the columns that identify their subject and hold their findings.

Rows of two sources have the same subject if their columns `about` are equal and their runs share
what `Shared` demands. If the rows also agree on the columns `says`, the later one is a duplicate;
if not, they conflict. All other columns are not compared, because they differ by nature: times,
workers, attempts, positions in a search.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Shared(Enum):
    """Properties that the runs of two rows must share if the rows have the same subject.

    Attributes:
        NOTHING: the columns suffice, because a candidate's id is a hash of its whole definition.
        CONDITIONS: the task and the ladder, which define the number of a rung and of an example.
        RUN: the run: its rows record its actions, so only copies and later versions repeat them.
    """

    NOTHING = auto()
    CONDITIONS = auto()
    RUN = auto()


@dataclass(frozen=True)
class Claim:
    """Subject and findings of the rows of a table.

    Attributes:
        shared: properties that the runs of two rows must share.
        about: columns that identify the subject.
        says: columns that hold the findings.
        fails: the table has rows with an error; they have other subjects than rows without one.
    """

    shared: Shared
    about: tuple[str, ...]
    says: tuple[str, ...] = ()
    fails: bool = False


_CONFLICT = ("table", "candidate", "rung", "split", "example", "program", "column", "kept", "other")
CLAIMS = {
    "candidates": Claim(
        Shared.NOTHING, ("candidate",), ("task", "model", "regime", "family", "spec")
    ),
    # By number of examples, because a candidate that lost a race was scored on fewer.
    "rungs": Claim(
        Shared.CONDITIONS,
        ("candidate", "rung", "split", "num_examples"),
        ("score", "program_bits", "payload_bits", "program", "base_digest"),
        fails=True,
    ),
    "predictions": Claim(
        Shared.CONDITIONS, ("candidate", "rung", "split", "example"), ("output", "score")
    ),
    "decisions": Claim(Shared.RUN, ("candidate", "rung", "order")),
    "programs": Claim(
        Shared.CONDITIONS, ("candidate", "rung", "program"), ("program_bits", "payload_bits")
    ),
    "verifications": Claim(
        Shared.CONDITIONS, ("program", "candidate", "split"), ("verified", "score")
    ),
    "openings": Claim(Shared.RUN, ("opening",)),
    "certificates": Claim(
        Shared.CONDITIONS,
        ("program", "candidate", "split", "opening", "base_digest"),
        ("score", "lower", "upper", "num_examples"),
        fails=True,
    ),
    "workers": Claim(Shared.RUN, ("worker", "host", "pid", "started_at")),
    "points": Claim(Shared.RUN, ("line",)),
    "conflicts": Claim(Shared.RUN, _CONFLICT),
}
