"""What the rows of a table claim: which rows are about the same, and what they say about it.

Rows of two sources are about the same if the columns of `about` are equal, and with them what their
runs have in common (`Shared`). If they also agree on `says`, the later one is a duplicate; if not,
a conflict. All other columns differ by nature: times, workers, attempts, positions in a search.
"""

from dataclasses import dataclass
from enum import Enum, auto


class Shared(Enum):
    """What two rows must have in common to be about the same.

    Attributes:
        NOTHING: the columns tell enough, because a candidate's id is a hash of all that it is.
        CONDITIONS: the task and the ladder, which say what a rung's number and an example's mean.
        RUN: they are what one run did, so only copies and later states of it repeat them.
    """

    NOTHING = auto()
    CONDITIONS = auto()
    RUN = auto()


@dataclass(frozen=True)
class Claim:
    """What rows of a table claim.

    Attributes:
        shared: what their runs have in common.
        about: columns that say what they are about.
        says: columns that say what was found.
        fails: rows with an error say that nothing was found, which is another claim.
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
    # One that lost a race was scored on fewer examples.
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
