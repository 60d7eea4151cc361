"""The end of a Ray session."""

import os
import signal

import pytest
import ray

from kilobit.cluster.fleet.session import _shut_down


def test_a_further_ctrl_c_does_not_end_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []

    def shutdown() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        left.append(True)

    monkeypatch.setattr(ray, "shutdown", shutdown)
    before = signal.getsignal(signal.SIGINT)
    _shut_down()
    assert left == [True]
    assert signal.getsignal(signal.SIGINT) is before
