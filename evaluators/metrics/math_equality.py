r"""Equality of mathematical answers: an output and the gold answer in, a boolean out.

The whole output, stripped of white space, must be one answer: the text of the gold answer, or a
single LaTeX expression that math-verify parses and finds equal to it. So `0.5`, `$\frac12$` and
`\boxed{1/2}` equal `\frac{1}{2}`, and a sentence that contains 1/2 does not. math-verify decides
equality; it accepts an unfinished product such as `3*4` for 12, and `x=5` for 5. What it would
accept beyond that is compared before it (`kilobit.evaluators.metrics.math_forms`): bases of
numbers, every side of an equation, the order and the number of the parts of a list. Decimals are
exact: 0.333333 is not 1/3. A text is not an answer if it has a line break, more than 500
characters, unbalanced braces, or two numbers side by side, which math-verify would add, unless they
are one number with its digits in groups: `1\,450`.

math-verify runs in a separate process with 5 s of CPU time and 4 GiB of memory per answer. An
answer that needs more counts as not equal; only in this case may a score depend on the machine.
"""

import atexit
import contextlib
import json
import signal
import subprocess
import sys
import threading
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from kilobit.evaluators.metrics.math_forms import (
    as_list,
    decimal,
    has_two_numbers,
    is_unfinished,
    plain_form,
    same_base,
    same_form,
    sides,
)

MAX_CHARS = 500
CPU_S = 5.0
# Exits caused by the answer: the CPU timer, or an error in math-verify.
_OWN_ENDS = (-signal.SIGPROF, 1)
_TRIES = 3


class EqualityProcess:
    """A process that compares answers, started at the first question and restarted if it dies.

    Args:
        cpu_s: CPU time per answer in seconds.
    """

    def __init__(self, cpu_s: float = CPU_S) -> None:
        self._cpu_s = cpu_s
        self._process: subprocess.Popen[str] | None = None
        # The pipe takes one question at a time, also from several threads.
        self._lock = threading.Lock()

    def equal(self, gold: str, output: str) -> bool:
        """Return whether math-verify finds `output` equal to `gold`.

        Raises:
            ValueError: if math-verify can't be run here.
        """
        line = json.dumps([gold, output]) + "\n"
        with self._lock:
            # If the process was killed from outside, e.g. for lack of memory, ask again.
            for _ in range(_TRIES):
                found, status = self._ask(self._running(), line)
                if found or status in _OWN_ENDS:
                    break
            return found == "1\n"

    def _ask(self, process: "subprocess.Popen[str]", line: str) -> tuple[str, int | None]:
        """Return the reply, or an empty text and the exit status of the process."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            found = process.stdout.readline()
        except BrokenPipeError:
            found = ""
        if found:
            return found, None
        status = process.wait()
        self.stop()
        return "", status

    def _running(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self.stop()
            self._process = subprocess.Popen(  # noqa: S603 - our own script
                [sys.executable, str(Path(__file__).with_name("math_judge.py")), str(self._cpu_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() != "ready\n":
                raise ValueError("math-verify can't be imported: pip install 'kilobit[bench]'")
        return self._process

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            # Closing flushes text that the dead process can no longer read.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@cache
def judge() -> EqualityProcess:
    """Return the judge of this process."""
    found = EqualityProcess()
    atexit.register(found.stop)
    return found


def check_installed() -> None:
    """Check that math-verify is installed.

    Raises:
        ValueError: if it is not installed.
    """
    if find_spec("math_verify") is None:
        raise ValueError("the task math needs math-verify: pip install 'kilobit[bench]'")


def is_one_answer(text: str) -> bool:
    """Return whether `text` has the form of one answer; see the module's docstring."""
    return (
        0 < len(text) <= MAX_CHARS
        and "\n" not in text.rstrip("\n")
        and not has_two_numbers(plain_form(text))
        and _closes(text)
    )


def _closes(text: str) -> bool:
    depth = 0
    for char in text.replace("\\{", "").replace("\\}", ""):
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0


@lru_cache(maxsize=65536)
def same_answer(gold: str, output: str) -> bool:
    """Return whether the whole of `output` is the same answer as `gold`.

    Raises:
        ValueError: if math-verify can't be run here.
    """
    gold, output = gold.strip(), output.strip()
    if output == gold:
        return bool(gold)
    if not is_one_answer(output):
        return False
    gold, output = plain_form(gold), plain_form(output)
    if is_unfinished(output) and not is_unfinished(gold):
        return False
    based = same_base(gold, output)
    if based is not None:
        return based
    parts = [output] if "=" in gold else sides(output)
    return bool(parts) and all(_same_value(gold, part.strip()) for part in parts)


def _same_value(gold: str, output: str) -> bool:
    values = decimal(gold), decimal(output)
    if None not in values:
        return values[0] == values[1]
    return same_form(gold, output) and judge().equal(gold, as_list(gold, output))
