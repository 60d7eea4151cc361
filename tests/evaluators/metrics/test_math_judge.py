import os
import signal
import threading

from kilobit.evaluators.metrics.math_equality import EqualityProcess


def test_an_answer_that_takes_all_time_or_dies_is_not_equal() -> None:
    one = EqualityProcess(cpu_s=0.3)
    assert one.equal("5", "5.0")
    process = one._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert one.equal("5", "5.0")
    # Killed at a question, by somebody else: it is asked again.
    process = one._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    killer = threading.Timer(0.2, lambda: os.kill(process.pid, signal.SIGKILL))
    killer.start()
    assert one.equal("5", "5.0")
    killer.join()
    assert not one.equal("1", "9^{9^{9^{9}}}")
    assert one.equal("5", "5.0")
    one.stop()
    one.stop()
