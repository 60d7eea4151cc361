"""Judges answers to mathematical problems by math-verify, one line in, one line out.

Run as a script in a process of its own (`evaluators.benchmarks.math_equality`): an answer such as
9^9^9^9 may take all time and memory there are. After so many seconds of computing, or on too much
memory, this process dies by the system's hand, and that is its answer.
"""

import json
import logging
import resource
import signal
import sys

MEMORY_BYTES = 4 << 30


def main() -> None:
    """Answer each line `[gold, output]` by 1 or 0; the argument is the seconds for each."""
    cpu_s = float(sys.argv[1])
    # It warns that it was told not to keep the time itself.
    logging.disable()
    from math_verify import LatexExtractionConfig, parse, verify

    whole = [LatexExtractionConfig(boxed_match_priority=0)]
    # Whoever started this may ignore signals, which would be inherited, and Ctrl-C is no verdict.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        gold, output = (
            parse(
                f"\\boxed{{{text}}}",
                extraction_config=whole,
                fallback_mode="no_fallback",
                parsing_timeout=None,
            )
            for text in json.loads(line)
        )
        equal = bool(gold and output and verify(gold, output, timeout_seconds=None))
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(f"{int(equal)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
