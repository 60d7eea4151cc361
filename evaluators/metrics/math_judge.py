"""Script that compares mathematical answers with math-verify, one line in, one line out.

It runs in a separate process (`kilobit.evaluators.metrics.math_equality`), because an answer such
as 9^9^9^9 may use unlimited time and memory. At the limit of CPU time a signal ends this process,
at the limit of memory an error does; the caller takes its death as "not equal".
"""

import json
import logging
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 4 << 30
# math-verify calls numbers equal that differ by less than ten to the minus this.
DIGITS = 400


def _exact(found: Any) -> Any:
    """Return a parsed answer with its decimals as fractions; math-verify rounds decimals."""
    from sympy import Float, Rational

    decimals = found.atoms(Float) if hasattr(found, "atoms") else ()
    return found.xreplace({one: Rational(str(one)) for one in decimals}) if decimals else found


def main() -> None:
    """Answer each line `[gold, output]` with 1 or 0; the argument is the CPU seconds per line."""
    cpu_s = float(sys.argv[1])
    # math-verify warns that its own time-outs are switched off.
    logging.disable()
    from math_verify import LatexExtractionConfig, parse, verify

    whole = [LatexExtractionConfig(boxed_match_priority=0)]
    # A parent's ignored signals are inherited, so restore the timer's; Ctrl-C must not end a check.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        gold, output = (
            [
                _exact(one)
                for one in parse(
                    f"\\boxed{{{text}}}",
                    extraction_config=whole,
                    fallback_mode="no_fallback",
                    parsing_timeout=None,
                )
            ]
            for text in json.loads(line)
        )
        equal = bool(
            gold and output and verify(gold, output, numeric_precision=DIGITS, timeout_seconds=None)
        )
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{int(equal)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
