"""What commands do with hostile input: files, folders and words that attack.

    python -m benchmarks.hostile_input

Runs the table of `tests/hostile/`, each case in a fork of one process, and prints for each kind the
number of inputs and the most processor seconds and memory of one. Exits with 1 if a promise is
broken.
"""

import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.hostile.case import Commands, Result, problems
from tests.hostile.table import CASES


def main() -> int:
    """Print a row for each kind, and what was broken."""
    found: dict[str, list[Result]] = defaultdict(list)
    broken = []
    with tempfile.TemporaryDirectory() as folder, Commands(Path(folder)) as commands:
        for number, case in enumerate(CASES):
            here = Path(folder, str(number))
            here.mkdir()
            place = commands.place(here)
            result = commands.run(case.make(place), here)
            found[case.kind].append(result)
            wrong = problems(result, place, case.allowed)
            broken += [f"{case.kind}: {case.name}: {one}" for one in wrong]
    found["all"] = [result for results in found.values() for result in results]
    print("| kind | inputs | most processor s | most MB |\n|---|---|---|---|")
    for kind, results in found.items():
        most_s = max(result.cpu_s for result in results)
        most_mb = max(result.grown_mb for result in results)
        print(f"| {kind} | {len(results)} | {most_s:.2f} | {most_mb:.0f} |")
    print("\n".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
