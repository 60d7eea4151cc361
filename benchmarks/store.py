"""How many requests a ledger on an object store takes, and how long a resume is.

    AWS_ENDPOINT_URL=... AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... \
        python benchmarks/store.py s3://BUCKET/FOLDER [--candidates 300]

Writes the ledger of a search as `benchmarks/ledger.py` does, killed as late as possible after it
last folded its parts, then begins the next attempt. Counts calls of the store in this process; a
page of 1,000 names counts one, and so does a deletion of many. What is in FOLDER is deleted first.
"""

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from ledger import SWEEP, search_of, write

from kilobit.cluster.driver.replay import replay
from kilobit.cluster.runs.lock import lock_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger.compaction import begin
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.ledger.storage import place, remove
from kilobit.evaluators.ledger.stored_path import StoredPath

_CALLS: Counter[str] = Counter()


def count_calls() -> None:
    """Count what is asked of the store from now on."""
    for name in ("stat", "read_bytes", "write_bytes", "create", "touch", "rglob", "unlink_all"):
        real = getattr(StoredPath, name)

        def counted(
            self: StoredPath, *args: Any, real: Any = real, name: str = name, **how: Any
        ) -> Any:
            _CALLS[name] += 1
            return real(self, *args, **how)

        setattr(StoredPath, name, counted)


def main() -> None:
    """Print all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=place)
    parser.add_argument("--candidates", type=int, default=300)
    args = parser.parse_args()
    remove(args.folder.rglob("*"))
    folder, figures = args.folder / "run" / "ledger", dict[str, Any]()
    count_calls()
    began = time.monotonic()
    decisions = write(folder, args.candidates)
    figures["decisions"] = decisions
    figures["seconds_to_write_a_decision"] = round((time.monotonic() - began) / decisions, 4)
    figures["calls_a_decision"] = {k: round(n / decisions, 2) for k, n in _CALLS.items()}
    for when in ("after_a_kill", "once_more"):
        _CALLS.clear()
        began = time.monotonic()
        with lock_run(folder) as attempt:
            begin(folder, attempt)
            state = replay(Ledger(folder, attempt), search_of(load_sweep(SWEEP)))
        seconds = round(time.monotonic() - began, 2)
        assert state.order == decisions
        figures[when] = {"seconds": seconds, "calls": dict(_CALLS)}
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
