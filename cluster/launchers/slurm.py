"""The command `slurm`: one batch script for one sweep file or several, and its submission.

The head of the script, written here, has all that differs between jobs; `slurm_job.sh` follows, the
same for all. The script holds no secret, and of the machine where it was made only what the user
wrote: paths are relative to the folder of the submission.
"""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from kilobit.cluster.launchers.launcher import (
    Launched,
    LaunchRequest,
    Plan,
    PlannedRun,
    Sweeps,
    find_program,
    launch,
    with_profile,
)
from kilobit.cluster.launchers.slurm_cluster import check_capacity, submit
from kilobit.cluster.runs.folder import path_of
from kilobit.cluster.sweep.capacity import TRIAL_CPUS, cpus_of, ranks_of, workers_of
from kilobit.cluster.sweep.launch_targets import SlurmConfig
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.storage import Place, write_whole
from kilobit.search.settings import InputError


@dataclass(frozen=True)
class SlurmRequest(LaunchRequest):
    """The command `slurm`.

    Attributes:
        chain: number of jobs, each of which resumes the run of the one before.
    """

    chain: int = 1


@dataclass(frozen=True)
class Job(Plan):
    """A batch job that runs one sweep, or an array of jobs that run one each.

    Attributes:
        name: name of the job.
        config: settings from the sweep file and the profile.
        nodes: as Slurm writes them, `2` or `2-4`.
        gpus: of each node.
        cpus: of each node.
        names_out: the script names run folders; otherwise the sweep files or their names decide.
        file: the script.
        chain: number of jobs, each of which resumes the run of the one before.
    """

    name: str
    config: SlurmConfig
    nodes: str
    gpus: int
    cpus: int
    names_out: bool
    file: Path
    chain: int


def slurm(request: SlurmRequest) -> int:
    """Print the batch script of a job, or write and submit it."""
    return launch(Slurm(request.chain), request)


@dataclass(frozen=True)
class Slurm:
    """The Slurm cluster of this login node; `chain` is the number of jobs that resume a run."""

    chain: int = 1

    def plan(self, sweeps: Sweeps, profile: Path | None = None) -> Job:
        """Return the job of these sweep files.

        Raises:
            InputError: if a file can't be used, the files don't fit into one job, or the job has
                no room for their workers.
        """
        if self.chain > 1 and len(sweeps.files) > 1:
            raise InputError("--chain takes one sweep file; for several set slurm.requeue")
        loaded = list(sweeps.load())
        configs = [with_profile(sweep.slurm, profile, SlurmConfig) for _, sweep, _ in loaded]
        config = configs[0]
        for file, other in zip(sweeps.files, configs, strict=True):
            if other != config:
                raise InputError(
                    f"{file}: slurm differs from that of {sweeps.files[0]}: a job has only one"
                )
        amounts = [_amounts(sweep, config) for _, sweep, _ in loaded]
        nodes, gpus, cpus = (max(amount[i] for amount in amounts) for i in range(3))
        foreign = ("slurm.", "kubernetes.")
        runs = tuple(
            PlannedRun(
                name=sweep.name,
                sweep=os.path.relpath(file),
                overrides=tuple(w for w in sweeps.overrides if not w.startswith(foreign)),
                out=_relative(path_of(sweep, out)),
                num_workers=len(workers_of(sweep)),
                nodes=str(config.nodes or nodes),
            )
            for file, sweep, out in loaded
        )
        name = runs[0].name + (f"-and-{len(runs) - 1}-more" if len(runs) > 1 else "")
        # Not in the run folder, which accepts no foreign files.
        folder = sweeps.out.parent if isinstance(sweeps.out, Path) else Path("runs")
        return Job(
            runs=runs,
            name=name,
            config=config,
            nodes=runs[0].nodes,
            gpus=gpus,
            cpus=cpus,
            names_out=sweeps.out is not None,
            file=folder / f"{name}.sbatch",
            chain=self.chain,
        )

    def render(self, plan: Job) -> str:
        """Return the batch script."""
        body = files("kilobit.cluster.launchers").joinpath("slurm_job.sh").read_text("utf-8")
        return "\n".join([*_head(plan), "", *_settings(plan), "", body])

    def submit(self, plan: Job) -> Launched:
        """Write the script and submit it.

        Raises:
            InputError: if there is no Slurm, it has less than the job needs, or it refuses; the
                file of the script is then as it was.
        """
        program = find_program(
            "sbatch",
            "run this on a login node of a Slurm cluster, or write the script to a file with "
            "--print and submit it there",
        )
        check_capacity(plan.config, plan.nodes, plan.gpus, plan.cpus)
        before = plan.file.read_bytes() if plan.file.exists() else None
        write_whole(plan.file, self.render(plan).encode())
        try:
            numbers = submit(program, plan.file, plan.config, plan.chain)
        except InputError:
            if before is None:
                plan.file.unlink()
            else:
                write_whole(plan.file, before)
            raise
        lines = [
            f"job {', then '.join(numbers)}: {plan.file}",
            f"output: {plan.config.output}; place in the queue: squeue --job={','.join(numbers)}",
            *(f"progress: kilobit status {run.out}" for run in plan.runs),
        ]
        return Launched(tuple(numbers), "".join(f"{line}\n" for line in lines))


def _relative(path: Place) -> str:
    """Return a run folder relative to the folder of the submission, or its URL."""
    return os.path.relpath(path) if isinstance(path, Path) else str(path)


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
        f"--array=0-{len(job.runs) - 1}" if len(job.runs) > 1 else None,
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
        f"sweeps=({shlex.join(run.sweep for run in job.runs)})",
        f"outs=({shlex.join(run.out * job.names_out for run in job.runs)})",
        f"overrides=({shlex.join(job.runs[0].overrides)})",
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
