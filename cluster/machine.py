"""Checks of one machine: libraries, memory, disk, limits, GPUs. Runs on any node."""

import os
import platform
import resource
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PACKAGES = (
    "ray", "torch", "transformers", "peft", "deepspeed", "pyarrow", "zstandard", "brotli",
    "pydantic", "sacrebleu",
)  # fmt: skip
_OPEN_FILES, _SHARED_GB, _MEMORY_GB, _DISK_GB = 4096, 1.0, 4.0, 2.0
_GB = 1e9


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
    gb = psutil.virtual_memory().available / _GB
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
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not names:
        visible = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
        remedy = "torch sees no GPU although the driver does: install a CUDA build of torch"
        found = f"none; CPU with {os.cpu_count()} cores"
        return finding("GPUs", found, not visible, remedy)
    driver = Path("/proc/driver/nvidia/version")
    about = driver.read_text().split("Module")[-1].split()[0] if driver.is_file() else "unknown"
    return Finding(
        "GPUs", f"{', '.join(names)}; driver {about}, CUDA {torch.version.cuda}", ok=True
    )
