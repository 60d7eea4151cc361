"""Several hosts on one machine: network namespaces on a bridge, each with its own processes.

A host has an address, a process tree, shared memory and a folder for Ray's sockets of its own; the
file system is shared, as by NFS. Killing a host's first process is the machine's sudden death,
taking its link down is a cable that was pulled. Needs root, `ip` and `unshare`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.conftest import REPOSITORY

# Seconds after which Ray takes a silent node for dead; minutes by default.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
_INSIDE = """
hostname "$1"; shift
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/ray; mount -t tmpfs tmpfs /tmp/ray
"$@" & child=$!
trap 'kill -TERM $child' TERM
wait $child; status=$?
while kill -0 $child 2>/dev/null; do wait $child; status=$?; done
exit $status
"""


def are_possible() -> bool:
    """Return whether this user may make hosts here."""
    return os.geteuid() == 0 and all(map(shutil.which, ("ip", "nsenter", "unshare")))


class Hosts:
    """Hosts 0, 1, ... with the addresses 10.78.0.10, 10.78.0.11, ..."""

    def __init__(self, number: int, logs: Path, token: str) -> None:
        self._number, self._logs, self._token = number, logs, token
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self._tag = f"kb{os.getpid()}"

    def __enter__(self) -> "Hosts":
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for host in range(self._number):
            name = self._name(host)
            _ip("netns", "add", name)
            _ip(
                *("link", "add", "eth0", "netns", name, "type", "veth"),
                *("peer", "name", f"port{host}", "netns", self._switch),
            )
            _ip("-n", self._switch, "link", "set", f"port{host}", "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"{address(host)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "lo", "up")
            self.heal(host)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for host in list(self._nodes):
            self.kill(host)
        for name in [*map(self._name, range(self._number)), self._switch]:
            subprocess.run(["ip", "netns", "del", name], check=False)

    @property
    def _switch(self) -> str:
        return f"{self._tag}-switch"

    def _name(self, host: int) -> str:
        return f"{self._tag}-{host}"

    def run(
        self, host: int, command: Sequence[str], log: str, environ: Mapping[str, str] = QUICK
    ) -> "subprocess.Popen[bytes]":
        """Start a command on a host; the host's processes end with it."""
        enter = ["nsenter", f"--net=/run/netns/{self._name(host)}"]
        alone = ["unshare", "--uts", "--pid", "--mount", "--ipc", "--fork", "--kill-child"]
        inside = ["--mount-proc", "bash", "-c", _INSIDE, "bash", f"host{host}", *command]
        with (self._logs / f"{log}.log").open("ab") as file:
            return subprocess.Popen(
                [*enter, *alone, *inside],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=REPOSITORY,
                env=os.environ
                | {
                    "PYTHONPATH": str(REPOSITORY),
                    "RAY_AUTH_MODE": "token",
                    "RAY_AUTH_TOKEN": self._token,
                    "RAY_USAGE_STATS_ENABLED": "0",
                    "PYTHONUNBUFFERED": "1",
                    **environ,
                },
                start_new_session=True,
            )

    def start_node(self, host: int, cpus: int, then: Sequence[str] = ()) -> None:
        """Start Ray on a host: the head on host 0, others join it.

        Args:
            host: which.
            cpus: that it offers.
            then: a command that runs on the same host once its Ray is there; the host ends with it.
        """
        where = ["--head", "--port=6380", "--include-dashboard=false"]
        words = where if host == 0 else [f"--address={address(0)}:6380"]
        ray = f"ray start {' '.join(words)} --node-ip-address={address(host)} --num-cpus={cpus}"
        shell = (
            f'{ray} --disable-usage-stats && shift 0 && exec "$@"'
            if then
            else f"exec {ray} --block"
        )
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["env", f"PATH={path}", "bash", "-c", shell, "bash", *then]
        self._nodes[host] = self.run(host, command, f"node{host}")

    def node(self, host: int) -> "subprocess.Popen[bytes]":
        """Return the process that a host lives with."""
        return self._nodes[host]

    def kill(self, host: int) -> None:
        """End a host at once, as when its power fails."""
        process = self._nodes.pop(host)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def cut(self, host: int) -> None:
        """Pull a host's cable."""
        _ip("-n", self._name(host), "link", "set", "eth0", "down")

    def heal(self, host: int) -> None:
        """Plug a host's cable in."""
        _ip("-n", self._name(host), "link", "set", "eth0", "up")
        # Ray finds its own address by asking for a route.
        _ip(
            "-n", self._name(host), "route", "replace", "default", "via", "10.78.0.1", "dev", "eth0"
        )


def address(host: int) -> str:
    """Return the address of a host."""
    return f"10.78.0.{10 + host}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=30)
