"""What the workers of a run spent their time on, family by family.

    python benchmarks/shares.py RUN

`other` is what is neither training nor generation: building adapters, factors, coding, scoring.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.search.records import CandidateRecord, RungRecord


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for each family."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    ledger = Ledger(parser.parse_args(words).run / "ledger")
    family = {one.candidate: one.family for one in ledger.records(CandidateRecord)}
    times: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for rung in ledger.records(RungRecord):
        own = times[family[rung.candidate]]
        for place, value in enumerate((rung.seconds, rung.train_s, rung.generate_s)):
            own[place] += value or 0.0
    print(f"{'family':12} {'seconds':>9} {'training':>9} {'generation':>11} {'other':>7}")
    for name, (whole, training, generation) in sorted(times.items()):
        shares = [part / whole for part in (training, generation, whole - training - generation)]
        print(f"{name:12} {whole:9.1f} {shares[0]:9.1%} {shares[1]:11.1%} {shares[2]:7.1%}")


if __name__ == "__main__":
    main()
