"""The command `slurm`: one batch script for one sweep file or several, and its submission.

The head of the script, written here, has all that differs between jobs; `slurm_job.sh` follows, the
same for all. The script holds no secret, and of the machine where it was made only what the user
wrote: paths are relative to the folder of the submission.
"""

import math
import os
import shlex
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from kilobit.cluster.launchers.launcher import (
    Launched,
    Plan,
    Sweeps,
    find_program,
    launch,
    run_here,
    with_profile,
)
from kilobit.cluster.launchers.slurm_cluster import check_capacity, submit
from kilobit.cluster.requests import SlurmRequest
from kilobit.cluster.sweep.launch_targets import SlurmConfig
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.storage import write_whole
from kilobit.search.settings import InputError, to_copy


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
        """Return the job of these sweep files, if they fit into one."""
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
        overrides = tuple(word for word in sweeps.overrides if not word.startswith(foreign))
        here = [run_here(*each, overrides) for each in loaded]
        runs = tuple(
            replace(
                run,
                sweep=os.path.relpath(run.sweep),
                out=run.out if "://" in run.out else os.path.relpath(run.out),
            )
            for run in here
        )
        name = runs[0].name + (f"-and-{len(runs) - 1}-more" if len(runs) > 1 else "")
        # Not in the run folder, which accepts no foreign files.
        folder = sweeps.out.parent if isinstance(sweeps.out, Path) else Path("runs")
        return Job(
            runs=runs,
            name=name,
            config=config,
            nodes=str(config.nodes or nodes),
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
        """Write the script and submit it; if Slurm refuses, the file is as it was."""
        program = find_program(
            "sbatch",
            "run this on a login node of a Slurm cluster, or write the script to a file with "
            "--print and submit it there",
        )
        waits = check_capacity(plan.config, plan.nodes, plan.gpus, plan.cpus)
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
            *waits,
            f"output: {plan.config.output}; place in the queue: squeue --job={','.join(numbers)}",
            *(f"progress: {to_copy('status', run.out)}" for run in plan.runs),
        ]
        return Launched(tuple(numbers), "".join(f"{line}\n" for line in lines))


def _amounts(sweep: Sweep, config: SlurmConfig) -> tuple[int, int, int]:
    """Return the nodes that the sweep's workers need, and the GPUs and CPUs of each node.

    Raises:
        InputError: if they have no room for the workers that the run waits for.
    """
    models = sweep.workers_by_model.values()
    for name in ("resources", "node_labels"):
        if any(getattr(own, name) for own in models):
            raise InputError(
                f"slurm: workers ask for `{name}`, which the nodes of a job do not have: all of "
                "them are alike; choose nodes by slurm.partition or slurm.directives, or start Ray "
                "yourself and search by `kilobit run --address`"
            )
    most = sum(own.per_model * own.shards.world_size for own in models)
    # Models that do not fit at once take turns.
    least = max(own.least * own.shards.world_size for own in models)
    ranks = [own.ranks(own.wanted_cpus) for own in models]
    # Nodes have room for any rank.
    cpus = max(each.cpus_per_rank or 0.0 for each in ranks)
    needs = (max(each.gpus_per_rank or 0.0 for each in ranks), cpus)
    own = (config.gpus_per_node, config.cpus_per_node)
    nodes = config.fewest_nodes
    if nodes is None:
        pairs = zip(own, needs, strict=True)
        each = [math.floor(have / need) for have, need in pairs if have is not None and need]
        if 0 in each:
            raise InputError(
                f"slurm: a rank of a worker needs {needs[0]:g} GPUs and {cpus:g} CPUs, more than "
                "gpus_per_node and cpus_per_node"
            )
        nodes = max([math.ceil(most / there) for there in each], default=1)
    found = [
        # Round before `ceil`, because a sum like 0.99 + 0.01 may be a little above its exact value.
        math.ceil(round(math.ceil(most / nodes) * need, 6)) if have is None else have
        for have, need in zip(own, needs, strict=True)
    ]
    top = int(config.nodes.split("-")[1]) if isinstance(config.nodes, str) else nodes
    for what, have, need in zip(("GPUs", "CPUs"), found, needs, strict=True):
        if need and top * math.floor(round(have / need, 6)) < least:
            raise InputError(
                f"slurm: {top} nodes with {have} {what} each have no room for {least} ranks of "
                f"workers with {need:g} {what} each: change slurm.nodes, "
                f"slurm.{what.lower()}_per_node or workers"
            )
    return nodes, found[0], max(found[1], 1)


def _head(job: Job) -> list[str]:
    config = job.config
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={job.cpus}",
        f"--gpus-per-node={job.gpus}" if job.gpus else None,
        # Slurm takes whole numbers only.
        f"--mem={math.ceil(config.memory_gib * 1024)}M" if config.memory_gib else None,
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
        f"array={shlex.quote('1' * (len(job.runs) > 1))}",
        f"gpus={shlex.quote(str(job.gpus or ''))}",
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
