"""One Ray session at a time, and its end."""

import os
import signal
import stat
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import ray
from ray._private import parameter
from ray._private.parameter import RayParams
from ray.exceptions import AuthenticationError

from kilobit.cluster.fleet import session
from kilobit.cluster.fleet.session import Beforehand, _shut_down, ray_session
from kilobit.cluster.messages import PoolError


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


def test_a_session_at_the_address_of_an_open_one_is_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connected: list[str | None] = []
    monkeypatch.setattr(session, "_knock", lambda _: None)
    monkeypatch.setattr(session, "_connect", connected.append)
    monkeypatch.setattr(session, "lack_our_code", list)
    monkeypatch.setattr(session, "_shut_down", connected.clear)
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(connected))
    # By a name that Ray does not know.
    with ray_session("head-svc:6379"):
        with ray_session("head-svc:6379"):
            assert connected == ["head-svc:6379"]
        assert connected == ["head-svc:6379"]
    assert connected == []


@pytest.mark.parametrize(("address", "given"), [(None, 1), ("auto", None)])
def test_a_local_session_has_the_cores_that_this_process_may_use(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str | None, given: int | None
) -> None:
    asked: list[int | None] = []
    tmp_path.chmod(0o777)
    monkeypatch.setattr(ray, "init", lambda **how: asked.append(how["num_cpus"]))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    node = SimpleNamespace(get_session_dir_path=lambda: str(tmp_path))
    monkeypatch.setattr("ray._private.worker._global_node", node)
    session._connect(address)
    assert asked == [given]
    # Of a session that begins here.
    assert stat.S_IMODE(tmp_path.stat().st_mode) == (0o777 if address else 0o700)


@pytest.mark.parametrize(
    ("address", "error", "kind", "said"),
    [
        (
            None,
            Exception("The current node timed out during startup. This could happen\nbecause"),
            PoolError,
            "Ray did not start on this machine, which may be too busy: The current node timed out "
            "during startup. This could happen; give the command again",
        ),
        (
            None,
            OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes"),
            PoolError,
            "^TMPDIR: .* is too long for the sockets that Ray makes there .*at most 40 letters$",
        ),
        (None, TimeoutError(), PoolError, "Ray did not start .* busy: TimeoutError; give"),
        ("h:1", RuntimeError("Failed to connect to GCS. \nLast"), ConnectionError, "^Failed to c"),
        ("h:1", ValueError("no port"), ConnectionError, "^not an address: no port$"),
        ("h:1", RuntimeError("Version mismatch:\n3.11"), ConnectionError, "mismatch:\n3.11$"),
        ("h:1", AuthenticationError("x"), ConnectionError, "requires a token"),
    ],
)
def test_a_start_that_fails_is_one_message(
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    error: Exception,
    kind: type[Exception],
    said: str,
) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(kind, match=said):
        session._connect(address)


def test_lines_of_rays_processes_go_to_the_log(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ray, "init", lambda **_: None)
    session._connect(None)
    with caplog.at_level("DEBUG", "kilobit"):
        # As its thread that waits for errors does.
        ray._private.worker.print_to_stdstream(
            {"lines": ["Task ready failed."], "pid": "raylet", "is_err": False}, ignore_prefix=False
        )
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["Ray: Task ready failed."]


class _Actor:
    def answer(self) -> int:
        return 42


@pytest.mark.ray
def test_a_session_takes_what_was_started_before_it() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    with Beforehand(lambda: ray.remote(num_cpus=1)(_Actor).remote()) as early:
        with ray_session():
            node = ray.get_runtime_context().get_node_id()
            actor = early.take()
            assert actor is not None
            assert ray.get(actor.answer.remote()) == 42
            # Ray's handler would end this process.
            os.kill(os.getpid(), signal.SIGTERM)
            assert told == [signal.SIGTERM]
            with ray_session():
                assert ray.get_runtime_context().get_node_id() == node
        # Its end is that of the session.
        assert not ray.is_initialized()
    assert not ray.is_initialized()
    signal.signal(signal.SIGTERM, before)


def test_what_was_started_ends_without_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda **_: there.append(True))
    monkeypatch.setattr(ray, "shutdown", there.clear)
    with Beforehand(lambda: 1) as early:
        assert early.take() == 1
        assert there == [True]
    assert there == []


def test_an_interrupt_before_the_session_leaves_its_end_to_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if interrupts.pop():
                raise KeyboardInterrupt
            return super().wait(timeout)

    interrupts, ended = [False, True], list[bool]()
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with suppress(KeyboardInterrupt), Beforehand(lambda: 1) as early:
        # Else its thread may start a real Ray once this test is over.
        assert early._started.wait(60)
        early._started = Interrupted()
        early._started.set()
        session._STARTED[:] = [early._started]
        with ray_session():
            pytest.fail("the session began")
    assert ended == [True]


def test_nothing_is_started_beside_an_open_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("a second session"))
    monkeypatch.setattr(ray, "shutdown", lambda: pytest.fail("the end of another's session"))
    with Beforehand(lambda: 1) as early:
        assert early.take() is None


def test_a_start_beforehand_that_fails_is_repeated_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[bool] = []

    def init(**_: object) -> None:
        tries.append(True)
        raise TimeoutError

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(PoolError, match="Ray did not start on this machine"),
        Beforehand(lambda: None),
        ray_session(),
    ):
        pass
    assert tries == [True, True]
    assert session._STARTED == []


@pytest.mark.ray
def test_a_session_of_this_machine_has_no_processes_that_serve_nobody() -> None:
    usual = RayParams
    with ray_session():
        words = [" ".join(one.cmdline()) for one in psutil.Process().children(recursive=True)]
    assert any("gcs_server" in line for line in words)
    assert not [line for line in words if "monitor.py" in line]
    assert parameter.RayParams is usual
