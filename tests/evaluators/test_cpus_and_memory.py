"""What a process may use: its affinity, and the limits of its control groups and those above."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from kilobit.evaluators import cpus_and_memory
from tests.conftest import REPOSITORY

GIB = 1 << 30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 64 CPUs and 512 GiB whose control groups a test writes."""
    monkeypatch.setattr(cpus_and_memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpus_and_memory, "_OWN", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    available = SimpleNamespace(available=512 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    (tmp_path / "own").write_text("")
    return tmp_path


def put(groups: Path, own: str, files: dict[str, str]) -> None:
    (groups / "own").write_text(own)
    for name, text in files.items():
        path = groups / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_without_control_groups_it_is_what_the_machine_has(groups: Path) -> None:
    assert (cpus_and_memory.cpus(), cpus_and_memory.free_memory()) == (64, 512 * GIB)
    (groups / "own").unlink()
    assert (cpus_and_memory.cpus(), cpus_and_memory.free_memory()) == (64, 512 * GIB)


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/job\n", {"job/cpu.max": "400000 100000\n"}, 4),
        ("0::/job\n", {"job/cpu.max": "max 100000\n"}, 64),
        ("0::/job\n", {"job/cpu.max": "150000 100000\n"}, 1),
        ("0::/job\n", {"job/cpu.max": "50000 100000\n"}, 1),
        ("0::/job\n", {"job/cpu.max": "broken\n"}, 64),
        # A group has no more than those above it.
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000", "job/cpu.max": "300000 100000"}, 3),
        # A container sees the path outside, and the files of its own group at the top.
        ("0::/docker/1f\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"unified/cpu.max": "200000 100000\n"}, 2),
        (
            "4:cpu,cpuacct:/slurm/job\n3:memory:/other\n",
            {
                "cpu,cpuacct/slurm/job/cpu.cfs_quota_us": "500000\n",
                "cpu,cpuacct/slurm/job/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            64,
        ),
    ],
)
def test_the_quota_of_a_control_group_counts(
    groups: Path, own: str, files: dict[str, str], cpus: int
) -> None:
    put(groups, own, files)
    assert cpus_and_memory.cpus() == cpus


@pytest.mark.parametrize(
    ("own", "files", "free"),
    [
        ("0::/job\n", {"job/memory.max": "max\n", "job/memory.current": "5\n"}, 512 * GIB),
        (
            "0::/job/step\n",
            {
                "job/memory.max": f"{16 * GIB}\n",
                "job/memory.current": f"{12 * GIB}\n",
                # Files that were read are given back when memory is needed.
                "job/memory.stat": f"anon 1\ninactive_file {3 * GIB}\nactive_file 7\n",
            },
            7 * GIB,
        ),
        (
            "4:memory:/job\n",
            {
                "memory/job/memory.limit_in_bytes": f"{8 * GIB}\n",
                "memory/job/memory.usage_in_bytes": f"{9 * GIB}\n",
                "memory/job/memory.stat": "cache 4\n",
            },
            0,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 512 * GIB),
    ],
)
def test_the_limit_of_memory_counts_less_what_is_used(
    groups: Path, own: str, files: dict[str, str], free: int
) -> None:
    put(groups, own, files)
    assert cpus_and_memory.free_memory() == free


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_a_process_that_is_bound_to_one_core_has_one() -> None:
    bound = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]);"
        "from kilobit.evaluators.cpus_and_memory import cpus; print(cpus())"
    )
    done = subprocess.run(
        [sys.executable, "-c", bound], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "1\n"


def test_no_other_place_counts_cpus_or_memory() -> None:
    asked = ("cpu_count", "sched_getaffinity", "virtual_memory", "cpu_affinity", "sysconf")
    found = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("search", "evaluators", "cluster")
        for path in (REPOSITORY / folder).rglob("*.py")
        if any(word in path.read_text("utf-8") for word in asked)
    }
    assert found == {"evaluators/cpus_and_memory.py"}


@pytest.mark.parametrize(
    ("text", "dtype", "missing"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16\n", "bfloat16", ()),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", "bfloat16", ()),
        ("flags\t\t: fpu avx2 avx512f\n", "bfloat16", ("avx512_bf16", "amx_bf16", "bf16")),
        ("flags\t\t: fpu avx2 avx512f\n", "float32", ()),
        ("flags\t\t: fpu avx512_bf16\n", "float16", ("avx512_fp16", "amx_fp16", "asimdhp")),
        ("processor\t: 0\nFeatures\t: fp asimd asimdhp bf16\n", "bfloat16", ()),
        ("processor\t: 0\nFeatures\t: fp asimd asimdhp bf16\n", "float16", ()),
        ("processor\t: 0\n", "bfloat16", ()),
        (None, "bfloat16", ()),
    ],
)
def test_instructions_that_a_processor_lacks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    dtype: str,
    missing: tuple[str, ...],
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(cpus_and_memory, "_PROCESSOR", path)
    assert cpus_and_memory.missing_instructions(dtype) == missing
