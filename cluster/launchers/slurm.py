"""The command `slurm`: one batch script for one sweep file or several, and its submission.

The head of the script, written here, has all that differs between jobs; `slurm_job.sh` follows, the
same for all. The script holds no secret, and of the machine where it was made only what the user
wrote: paths are relative to the folder of the submission.
"""

import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kilobit.cluster.launchers.profile import sweeps_and_overrides, with_profile
from kilobit.cluster.launchers.slurm_cluster import check_capacity, sbatch, submit
from kilobit.cluster.requests import SlurmRequest
from kilobit.cluster.sweep.capacity import TRIAL_CPUS, cpus_of, ranks_of
from kilobit.cluster.sweep.launch_targets import SlurmConfig
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.search.settings import InputError


@dataclass(frozen=True)
class Job:
    """A batch job that runs one sweep, or an array of jobs that run one each.

    Attributes:
        name: name of the job.
        config: settings from the sweep file and the profile.
        nodes: as Slurm writes them, `2` or `2-4`.
        gpus: of each node.
        cpus: of each node.
        sweeps: sweep files, relative to the folder of the submission.
        outs: their run folders, empty where the sweep file or its name decides.
        runs: paths of the run folders, for messages.
        overrides: `key=value` for all of them.
        chain: number of jobs, each of which resumes the run of the one before.
    """

    name: str
    config: SlurmConfig
    nodes: str
    gpus: int
    cpus: int
    sweeps: tuple[str, ...]
    outs: tuple[str, ...]
    runs: tuple[str, ...]
    overrides: tuple[str, ...]
    chain: int


def slurm(request: SlurmRequest) -> int:
    """Print the batch script of a job, or write and submit it."""
    paths, overrides = sweeps_and_overrides(request.words)
    job = plan_job(paths, overrides, request.profile, request.out, request.chain)
    if request.only_print:
        sys.stdout.write(script_of(job))
        return 0
    program = sbatch()
    check_capacity(job.config, job.nodes, job.gpus, job.cpus)
    file = _file_of(job, request.out)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, script_of(job).encode())
    numbers = submit(program, file, job.config, job.chain)
    print(f"job {', then '.join(numbers)}: {file}")
    print(f"output: {job.config.output}; place in the queue: squeue --job={','.join(numbers)}")
    for run in job.runs:
        print(f"progress: kilobit status {run}")
    return 0


def plan_job(
    paths: Sequence[Path],
    overrides: Sequence[str],
    profile: Path | None,
    out: Place | None,
    chain: int = 1,
) -> Job:
    """Return the job of these sweep files.

    Args:
        paths: the files.
        overrides: `key=value` for all of them.
        profile: a file with settings of the cluster.
        out: the run folder, or the folder of the run folders of several; None: as in the sweeps.
        chain: number of jobs, each of which resumes the run of the one before.

    Raises:
        InputError: if a file can't be used, the files don't fit into one job, or the job has no
            room for their workers.
    """
    if chain > 1 and len(paths) > 1:
        raise InputError("--chain takes one sweep file; for several set slurm.requeue")
    for text in (*map(str, paths), *overrides, str(out)):
        if not text.isprintable():
            raise InputError(
                f"{text!r}: a batch script takes no line breaks and control characters"
            )
    sweeps = [load_sweep(path, overrides) for path in paths]
    configs = [with_profile(sweep.slurm, profile, SlurmConfig) for sweep in sweeps]
    names = [sweep.name for sweep in sweeps]
    for path, config, name in zip(paths, configs, names, strict=True):
        if config != configs[0]:
            raise InputError(f"{path}: slurm differs from that of {paths[0]}: a job has only one")
        if names.count(name) > 1:
            raise InputError(f"{path}: another sweep file is called {name!r} too: change its name")
    amounts = [_amounts(sweep, configs[0]) for sweep in sweeps]
    nodes, gpus, cpus = (max(amount[i] for amount in amounts) for i in range(3))
    several = len(paths) > 1
    places = [out / name if out and several else out for name in names]
    return Job(
        name=names[0] + (f"-and-{len(paths) - 1}-more" if several else ""),
        config=configs[0],
        nodes=str(configs[0].nodes or nodes),
        gpus=gpus,
        cpus=cpus,
        sweeps=tuple(map(os.path.relpath, paths)),
        outs=tuple(map(_as_job_sees, places)),
        runs=tuple(
            str(place or sweep.out or Path("runs") / sweep.name)
            for place, sweep in zip(places, sweeps, strict=True)
        ),
        overrides=tuple(w for w in overrides if not w.startswith(("slurm.", "kubernetes."))),
        chain=chain,
    )


def _as_job_sees(out: Place | None) -> str:
    """Return a run folder as a word of the script: relative to where it is submitted, or a URL."""
    if out is None:
        return ""
    return os.path.relpath(out) if isinstance(out, Path) else str(out)


def _file_of(job: Job, out: Place | None) -> Path:
    # Not in the run folder, which accepts no foreign files.
    folder = out.parent if isinstance(out, Path) else Path("runs")
    return folder / f"{job.name}.sbatch"


def _amounts(sweep: Sweep, config: SlurmConfig) -> tuple[int, int, int]:
    """Return the nodes that the sweep's workers need, and the GPUs and CPUs of each node."""
    workers = sweep.workers
    ranks = ranks_of(sweep, cpus_of(sweep))
    number = workers.per_model * len(sweep.base_models) * workers.shards.world_size
    gpus = ranks.gpus_per_rank or 0.0
    # The trials of a worker reserve a small share of a CPU each.
    cpus = (ranks.cpus_per_rank or 0.0) + workers.slots * TRIAL_CPUS / workers.shards.world_size
    nodes = config.fewest_nodes
    if nodes is None:
        each = [
            math.floor(have / need)
            for have, need in ((config.gpus_per_node, gpus), (config.cpus_per_node, cpus))
            if have is not None and need
        ]
        if 0 in each:
            raise InputError(
                f"slurm: a rank of a worker needs {gpus:g} GPUs and {cpus:g} CPUs, more than "
                "gpus_per_node and cpus_per_node"
            )
        nodes = max([math.ceil(number / there) for there in each], default=1)
    per_node = math.ceil(number / nodes)
    own = (config.gpus_per_node, config.cpus_per_node)
    found = [
        # Round before `ceil`, because a sum like 0.99 + 0.01 may be a little above its exact value.
        math.ceil(round(per_node * need, 6)) if have is None else have
        for have, need in zip(own, (gpus, cpus), strict=True)
    ]
    _check_least(sweep, config, nodes, found, (gpus, cpus))
    return nodes, found[0], max(found[1], 1)


def _check_least(
    sweep: Sweep,
    config: SlurmConfig,
    nodes: int,
    there: Sequence[int],
    needs: Sequence[float],
) -> None:
    """Refuse a job without room for the workers that its run waits for."""
    most = int(config.nodes.split("-")[1]) if isinstance(config.nodes, str) else nodes
    least = sweep.workers.least * len(sweep.base_models) * sweep.workers.shards.world_size
    for what, have, need in zip(("GPUs", "CPUs"), there, needs, strict=True):
        if need and most * math.floor(round(have / need, 6)) < least:
            raise InputError(
                f"slurm: {most} nodes with {have} {what} each have no room for {least} ranks of "
                f"workers with {need:g} {what} each: change slurm.nodes, "
                f"slurm.{what.lower()}_per_node or workers"
            )


def script_of(job: Job) -> str:
    """Return the batch script."""
    body = files("kilobit.cluster.launchers").joinpath("slurm_job.sh").read_text("utf-8")
    return "\n".join([*_head(job), "", *_settings(job), "", body])


def _head(job: Job) -> list[str]:
    config = job.config
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.cpus}",
        f"--gpus-per-node={job.gpus}" if job.gpus else None,
        _memory(config.memory_gib),
        f"--partition={config.partition}" if config.partition else None,
        f"--account={config.account}" if config.account else None,
        f"--qos={config.qos}" if config.qos else None,
        f"--time={config.time}" if config.time else None,
        f"--array=0-{len(job.sweeps) - 1}" if len(job.sweeps) > 1 else None,
        f"--output={config.output}",
        "--open-mode=append",
        f"--signal=B:USR1@{config.warning_s}",
        "--requeue" if _afterwards(job) == "requeue" else "--no-requeue",
        "--no-kill" if config.keep_rest else None,
        *config.directives,
    ]
    return ["#!/usr/bin/env bash", *(f"#SBATCH {option}" for option in options if option)]


def _memory(gib: float | None) -> str | None:
    # Slurm takes whole numbers only.
    return None if gib is None else f"--mem={math.ceil(gib * 1024)}M"


def _afterwards(job: Job) -> str:
    """Return the action after a job whose time ended before its run: chain, requeue or stop."""
    return "chain" if job.chain > 1 else "requeue" if job.config.requeue else "stop"


def _settings(job: Job) -> list[str]:
    config = job.config
    lines = [
        "# Made by `kilobit slurm`. Paths begin in the folder where this file is submitted.",
        *_submission(job),
        f"sweeps=({_words(job.sweeps)})",
        f"outs=({_words(job.outs)})",
        f"overrides=({_words(job.overrides)})",
        f"afterwards={_afterwards(job)}",
        f"scratch={shlex.quote(config.scratch)}",
        f"interface={shlex.quote(config.interface or '')}",
        f"container=({config.container or ''})",
    ]
    return [*lines, "setup() {", *(f"  {line}" for line in config.setup or [":"]), "}"]


def _submission(job: Job) -> list[str]:
    if job.chain == 1:
        return ["#   sbatch FILE"]
    return [
        "#   job=$(sbatch --parsable FILE)",
        f"# and {job.chain - 1} times, for the jobs that resume it:",
        "#   job=$(sbatch --parsable --dependency=afternotok:$job --kill-on-invalid-dep=yes FILE "
        "--take-over)",
    ]


def _words(words: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, words))
