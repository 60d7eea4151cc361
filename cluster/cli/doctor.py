"""The commands that prepare a search: `doctor` and `model`.

`doctor` checks a machine or a cluster, with a remedy for each problem; the checks of one machine
(libraries, memory, disk, limits, GPUs) run on any node. `model` makes a model's folder.
"""

import os
import platform
import resource
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from kilobit.cluster.console import Terminal, waiting
from kilobit.cluster.fleet.remote_driver import no_cluster
from kilobit.cluster.fleet.session import on_every_node, ray_session
from kilobit.cluster.messages import differences, last_line, library_versions
from kilobit.cluster.requests import DoctorRequest, ModelRequest, wrong_input
from kilobit.cluster.runs.access import check_writable
from kilobit.cluster.shards import process_group
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.evaluators.cpus_and_memory import cpus, free_memory
from kilobit.evaluators.ledger.storage import Place
from kilobit.evaluators.ledger.stored_path import StoredPath
from kilobit.search.settings import InputError

_PACKAGES = (
    "ray", "torch", "transformers", "peft", "deepspeed", "pyarrow", "zstandard", "brotli",
    "pydantic", "sacrebleu",
)  # fmt: skip
_OPEN_FILES, _SHARED_GB, _MEMORY_GB, _DISK_GB = 4096, 1.0, 4.0, 2.0
_GB = 1e9
_CLOCK_S = 5.0
# Below this speed, ranks on two nodes wait for one another longer than they compute.
_SLOW_MB_S = 100.0
_WAIT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """Result of one check; `remedy` is empty if there is nothing to do."""

    what: str
    found: str
    ok: bool
    remedy: str = ""


def finding(what: str, found: str, ok: bool, remedy: str) -> Finding:
    """Return a finding, with the remedy only if the check failed."""
    return Finding(what, found, ok, "" if ok else remedy)


def model(request: ModelRequest) -> int:
    """Make a model's folder from a GGUF file and show how the model continues three texts."""
    from kilobit.evaluators.gguf import make_folder

    console = Terminal()
    with wrong_input(), waiting(console, f"unpacking {request.file}"):
        check_writable("DIR", request.folder)
        said = make_folder(request.file, request.folder, request.dtype)
    for prompt, text in said:
        console.print(Text(f"{prompt!r} -> {text!r}"))
    console.print(f"{request.folder} holds the model: name it as `path` of a base model")
    return 0


def doctor(request: DoctorRequest) -> int:
    """Print the findings for this machine, or for a cluster."""
    console = Terminal()
    with console.status("checking"):
        try:
            if request.address is None:
                findings = examine(request.out)
            else:
                findings = examine_cluster(request.address, request.out or Path("runs"))
        except ConnectionError as error:
            raise no_cluster(request.address, error) from error
    table = Table("", "check", "found", "what to do")
    for one in findings:
        mark = Text("ok", "green") if one.ok else Text("!!", "red")
        table.add_row(mark, one.what, one.found, one.remedy)
    console.print(table)
    return 0 if all(one.ok for one in findings) else 1


def examine_machine() -> list[Finding]:
    """Return the findings for the machine that this runs on."""
    findings = [_python(), *map(_package, _PACKAGES), _memory(), _shared_memory(), _open_files()]
    return [*findings, _disk(), _gpus()]


def _python() -> Finding:
    ok = tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11)
    return finding("Python", platform.python_version(), ok, "install Python 3.11 or newer")


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name), ok=True)
    except PackageNotFoundError:
        return Finding(name, "missing", ok=False, remedy="pip install -c constraints.txt -e .")


def _memory() -> Finding:
    gb = free_memory() / _GB
    remedy = "lower workers.per_model; each worker holds a model and about 0.5 GB of libraries"
    return finding("free memory", f"{gb:.1f} GB", gb >= _MEMORY_GB, remedy)


def _shared_memory() -> Finding:
    place = Path("/dev/shm")  # noqa: S108 - checked, not written to
    if not place.is_dir():
        return Finding("shared memory", "no /dev/shm", ok=True)
    gb = shutil.disk_usage(place).free / _GB
    remedy = "Ray falls back to slow files: enlarge /dev/shm (docker: --shm-size=2g)"
    return finding("shared memory", f"{gb:.1f} GB free", gb >= _SHARED_GB, remedy)


def _open_files() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return finding("open files", str(soft), soft >= _OPEN_FILES, f"ulimit -n {_OPEN_FILES}")


def _disk() -> Finding:
    gb = shutil.disk_usage(Path.cwd()).free / _GB
    writable = os.access(Path.cwd(), os.W_OK)
    found = f"{gb:.1f} GB free in {Path.cwd()}" + ("" if writable else ", read-only")
    return finding(
        "disk", found, writable and gb >= _DISK_GB, "run in another folder, or pass --out"
    )


def _gpus() -> Finding:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not names:
        visible = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
        remedy = "torch sees no GPU although the driver does: install a CUDA build of torch"
        found = f"none; CPU with {cpus()} cores"
        return finding("GPUs", found, not visible, remedy)
    driver = Path("/proc/driver/nvidia/version")
    about = (
        driver.read_text("utf-8").split("Module")[-1].split()[0] if driver.is_file() else "unknown"
    )
    return Finding(
        "GPUs", f"{', '.join(names)}; driver {about}, CUDA {torch.version.cuda}", ok=True
    )


_BLOCK_BYTES, _BLOCKS = 1 << 24, 4


def examine(folder: Place | None = None) -> list[Finding]:
    """Return all findings of this machine; starts Ray once, which takes some seconds.

    Args:
        folder: a folder for runs that has to be writable, None if none is named.
    """
    runs = [] if folder is None else [_folder(folder)]
    return [*examine_machine(), *runs, _ports(), _ray()]


def _folder(folder: Place) -> Finding:
    """Check that this machine can write to the folder of the runs, which need not exist."""
    try:
        check_writable(str(folder), folder)
    except InputError as error:
        return Finding("folder", str(error), ok=False, remedy="choose another folder with --out")
    return Finding("folder", f"{folder} can be written", ok=True)


def examine_cluster(address: str, folder: Place) -> list[Finding]:
    """Return all findings of a cluster.

    Args:
        address: address of the cluster.
        folder: the folder of the runs; it has to be the same folder on all nodes.

    Raises:
        ConnectionError: if no cluster that accepts our token answers.
    """
    with ray_session(address):
        began = time.time()
        machines = on_every_node(_examine_there)
        findings = [
            Finding(f"{node}: {one.what}", one.found, one.ok, one.remedy)
            for node, found in machines.items()
            for one in (
                found[0]
                if isinstance(found, tuple)
                else [Finding("answer", last_line(found), ok=False, remedy="restart Ray there")]
            )
            # Show problems and key facts only: an `ok` line per node would hide the problems.
            if not one.ok or one.what in ("GPUs", "free memory", "shared memory")
        ]
        there = {node: found for node, found in machines.items() if isinstance(found, tuple)}
        return [
            _token(),
            _nodes(machines),
            *findings,
            _versions({node: found[1] for node, found in there.items()}),
            _clocks({node: found[2] for node, found in there.items()}, began, time.time()),
            _storage(folder),
            _network(sorted(machines)),
        ]


def _examine_there() -> tuple[list[Finding], dict[str, str], float]:
    return examine_machine(), library_versions(), time.time()


def _token() -> Finding:
    on = os.environ.get("RAY_AUTH_MODE") == "token"
    remedy = "anybody who can reach its ports can run code there: set RAY_AUTH_MODE=token"
    return finding("token", "in force" if on else "none", on, remedy)


def _nodes(machines: Mapping[str, Any]) -> Finding:
    import ray

    there = ray.cluster_resources()
    found = f"{len(machines)}, {there.get('CPU', 0):g} CPUs, {there.get('GPU', 0):g} GPUs"
    return Finding("nodes", found, ok=True)


def _versions(versions: Mapping[str, Mapping[str, str]]) -> Finding:
    own = library_versions()
    differing = [
        f"{node}: {text}" for node, there in versions.items() for text in differences(there, own)
    ]
    remedy = "install the same versions on all nodes: pip install -c constraints.txt -e ."
    return finding("versions", "; ".join(differing) or "the same everywhere", not differing, remedy)


def _clocks(times: Mapping[str, float], before: float, after: float) -> Finding:
    """Compare the nodes' clocks: each was read between the two given times of this machine."""
    skew = {node: max(0.0, before - at, at - after) for node, at in times.items()}
    worst = max(skew, key=lambda node: skew[node], default="")
    found = f"{skew[worst]:.1f} s at most{f' ({worst})' if skew[worst] else ''}" if worst else "?"
    remedy = "results stay right, times in tables are wrong: run an NTP client there"
    return finding("clock skew", found, bool(worst) and skew[worst] <= _CLOCK_S, remedy)


def _storage(folder: Place) -> Finding:
    """Check that all nodes see one another's files in the folder of the runs."""
    if isinstance(folder, StoredPath):
        return _store(folder)
    probe = folder / f".doctor.{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("driver", "utf-8")
        seen = on_every_node(_touch, str(probe))
        there = probe.read_text("utf-8")
    except OSError as error:
        return Finding(
            "shared storage",
            f"{folder}: {error}",
            ok=False,
            remedy="choose another folder with --out",
        )
    finally:
        # The folder itself may be impossible, such as one below a file.
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    blind = [node for node, answer in seen.items() if answer is not True]
    written = len(there) - len("driver")
    if not blind and written < len(seen):
        # These nodes have another folder under the same path.
        blind = [f"{len(seen) - written} of {len(seen)} nodes"]
    found = "shared by all nodes"
    if blind:
        found = f"{folder} is missing, not shared or not writable on {', '.join(blind)}"
    remedy = "put runs on storage that all nodes share (NFS, or an s3:// URL), and name it by --out"
    return finding("shared storage", found, not blind, remedy)


def _store(folder: StoredPath) -> Finding:
    """Check that every node reads what this driver writes to an object store."""
    probe = folder / f".doctor.{secrets.token_hex(8)}.tmp"
    try:
        probe.write_bytes(b"driver")
        answers = on_every_node(_read_object, str(probe))
        probe.unlink(missing_ok=True)
    except OSError as error:
        remedy = "check the bucket's name and the credentials in the environment (docs/storage.md)"
        return Finding("shared storage", str(error), ok=False, remedy=remedy)
    blind = [f"{node}: {answer}" for node, answer in answers.items() if answer != b"driver"]
    found = f"can't be read on {'; '.join(blind)}" if blind else "shared by all nodes"
    remedy = "install kilobit[store] on these nodes and give them the same credentials"
    return finding("shared storage", found, not blind, remedy)


def _read_object(path: str) -> bytes | str:
    """Return the content of an object as this node reads it, or the reason why it can't."""
    from kilobit.evaluators.ledger.storage import place

    try:
        return place(path).read_bytes()
    except (ImportError, OSError) as error:
        return str(error)


def _touch(path: str) -> bool:
    """Append to a file of the driver; return whether the file is visible on this node."""
    place = Path(path)
    if not place.is_file() or not place.read_text("utf-8").startswith("driver"):
        return False
    with place.open("a", encoding="utf-8") as file:
        file.write(".")
    return True


def _network(nodes: Sequence[str]) -> Finding:
    """Measure an all-reduce over all nodes; it fails if they can't connect to one another."""
    if len(nodes) < 2:
        return Finding("collectives", "one node: nothing to measure", ok=True)
    port = on_every_node(_free_port)[nodes[0]]
    speeds = on_every_node(_all_reduce, list(nodes), port)
    failed = {node: text for node, text in speeds.items() if not isinstance(text, float)}
    if failed:
        node, error = next(iter(failed.items()))
        remedy = "nodes must be able to connect on any port: check the firewall between them"
        return Finding("collectives", f"{node}: {last_line(error)}", ok=False, remedy=remedy)
    slowest = min(speeds.values())
    remedy = "keep shard groups within a node (workers.shards.world_size up to its GPUs)"
    return finding(
        "collectives", f"gloo, {slowest:.0f} MB/s all-reduced", slowest >= _SLOW_MB_S, remedy
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _all_reduce(nodes: Sequence[str], port: int) -> float:
    """Return the speed of an all-reduce over the nodes, in MB per second."""
    import ray
    import torch.distributed as dist

    rank = list(nodes).index(ray.util.get_node_ip_address())
    address = RankAddress(rank, len(nodes), host=nodes[0], port=port)
    process_group.join(address, "cpu", _WAIT_S, None)
    try:
        block = torch.ones(_BLOCK_BYTES // 4)
        dist.all_reduce(block)
        began = time.monotonic()
        for _ in range(_BLOCKS):
            dist.all_reduce(block)
        return _BLOCKS * _BLOCK_BYTES / 1e6 / (time.monotonic() - began)
    finally:
        process_group.leave()


def _ports() -> Finding:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            probe.listen()
            socket.create_connection(probe.getsockname(), timeout=5).close()
    except OSError as error:
        remedy = "Ray's processes communicate by ports of this machine: allow them on loopback"
        return Finding("free ports", str(error), ok=False, remedy=remedy)
    return Finding("free ports", "available", ok=True)


def _ray() -> Finding:
    try:
        with ray_session():
            import ray

            cpus = ray.cluster_resources().get("CPU", 0)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises is the finding
        text = str(error).strip() or type(error).__name__
        temporary = tempfile.gettempdir()
        remedy = (
            f"check free disk in {temporary}; remove a stale {temporary}/ray/ray_current_cluster"
        )
        return Finding("Ray", text.splitlines()[0], ok=False, remedy=remedy)
    return Finding("Ray", f"starts, {cpus:g} CPUs", ok=True)
