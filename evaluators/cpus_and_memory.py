"""CPUs and memory that this process may use, which can be fewer than the machine has.

Counted are the CPUs of its affinity (`taskset`, Slurm) and the quotas and limits of its control
groups of both versions, and of the groups above them (containers, Slurm). Files that are missing
limit nothing; no error is raised.

Also whether the processor has instructions for short types of numbers; without them it computes in
them, but several times more slowly than in float32.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROCESSOR = Path("/proc/cpuinfo")
# Names of the instructions in that file, on x86 and on ARM.
_INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}
_OWN, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cpus() -> int:
    """Return the number of CPUs, at least 1; a part of a CPU counts as none."""
    affinity = getattr(os, "sched_getaffinity", None)
    found = [float(len(affinity(0)) if affinity else os.cpu_count() or 1)]
    for group in _groups():
        quota, period = (_number(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        quota = _number(group / "cpu.max") if quota is None else quota
        period = _number(group / "cpu.max", 1) if period is None else period
        if quota is not None and quota > 0 and period:
            found.append(quota / period)
    return max(1, int(min(found)))


def free_memory() -> int:
    """Return the bytes of memory that are free for this process; files in memory count as free."""
    import psutil

    found = [int(psutil.virtual_memory().available)]
    for group in _groups():
        for most, now, file in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _number(group / most), _number(group / now)
            if limit is not None and used is not None:
                found.append(limit - used + _statistic(group / "memory.stat", file))
    return max(0, min(found))


def missing_instructions(dtype: str) -> tuple[str, ...]:
    """Return the instructions for a type of numbers if this processor has none of them.

    Empty if it has one, if the type needs none, or if the system does not say.
    """
    wanted = _INSTRUCTIONS.get(dtype, ())
    lines = (line.partition(":") for line in _text(_PROCESSOR).split("\n"))
    known = next((has for name, _, has in lines if name.strip() in ("flags", "Features")), None)
    return () if known is None or set(wanted) & set(known.split()) else wanted


def _groups() -> Iterator[Path]:
    """Yield the folders of this process's control groups and of all above, as far as they exist."""
    for line in _text(_OWN).split("\n"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        # In a container the path may be the one outside; then only the top of the tree exists.
        own = Path("/", path.strip("/")).relative_to("/")
        names = (controllers, *controllers.split(",")) if controllers else ("", "unified")
        for top in {_GROUPS / name for name in names} if path else ():
            yield from (group for part in (own, *own.parents) if (group := top / part).is_dir())


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text("utf-8")
    return ""


def _number(file: Path, word: int = 0) -> int | None:
    with suppress(IndexError, ValueError):
        return int(_text(file).split()[word])
    return None


def _statistic(file: Path, name: str) -> int:
    words = (line.split() for line in _text(file).split("\n"))
    return next((int(found[1]) for found in words if found[:1] == [name]), 0)
