"""What `slurm` and `kubernetes` say, with and without the programs that they ask."""

from typing import Any

import yaml

from tests.messages.scene import Case, Scene

SINFO = """echo 'gpu*|2|8|64000|gpu:h100:2|1:00:00|idle|(null)|up'"""
HUB = [{"regime": "pretrained", "hub": "org/model"}]
POD = {"image": "kilobit:1", "claim": "runs"}


def slurm(message: str, words: str = "slurm {sweep}", **settings: Any) -> Case:
    """Return a case of a job on a cluster of two nodes with eight cores and two GPUs each."""
    return Case(words, message, sweep={"slurm": settings}, given=a_cluster())


def a_cluster(sbatch: str = "echo 7", sinfo: str = SINFO, scancel: str = ":") -> Any:
    """Return what lets Slurm's programs be these scripts."""
    return lambda scene: scene.only_programs(sbatch=sbatch, sinfo=sinfo, scancel=scancel)


def two_sweeps(**second: Any) -> Any:
    """Return what writes two sweep files, `sweep.yaml` and `second.yaml`."""

    def given(scene: Scene) -> None:
        path = scene.write_sweep(**second)
        path.rename(scene.here / "second.yaml")
        scene.write_sweep()

    return given


def pods(message: str, words: str = "kubernetes {sweep} --print", **changes: Any) -> Case:
    """Return a case of a sweep for Kubernetes with changes of its section."""
    section = {key: value for key, value in {**POD, **changes}.items() if value is not None}
    return Case(words, message, sweep={"base_models": HUB, "kubernetes": section})


def applied(message: str, kubectl: str | None) -> Case:
    """Return a case of manifests that are given to a kubectl."""

    def given(scene: Scene) -> None:
        scene.only_programs(**({} if kubectl is None else {"kubectl": kubectl}))

    sweep = {"base_models": HUB, "kubernetes": POD}
    return Case("kubernetes {sweep}", message, sweep=sweep, given=given)


def a_large_file(scene: Scene) -> None:
    """Make the sweep file longer than an object of Kubernetes may be."""
    path = scene.here / "sweep.yaml"
    path.write_text(path.read_text() + "#" * 1_000_001)


def profile(**values: Any) -> Any:
    """Return what writes a profile."""
    return lambda scene: scene.file("profile.yaml", yaml.safe_dump(values))


SLURM = [
    Case("slurm seed=3", "no sweep file is given"),
    Case("slurm {here}/none.yaml", "{here}/none.yaml: No such file or directory"),
    Case(
        "slurm {sweep} {here}/second.yaml --chain 3 --print",
        "--chain takes one sweep file; for several set slurm.requeue",
        given=two_sweeps(name="other"),
    ),
    Case("slurm 'a\nb.yaml' --print", "no line breaks and control characters are allowed here"),
    Case(
        "slurm {sweep} {here}/second.yaml --print",
        "{here}/second.yaml: slurm differs from that of {sweep}: a job has only one",
        given=two_sweeps(name="other", slurm={"nodes": 2}),
    ),
    Case(
        "slurm {sweep} {here}/second.yaml --print",
        "two of these sweeps are called 'small': give each its own name",
        given=two_sweeps(),
    ),
    slurm("slurm.nodes: ", nodes="4-2"),
    slurm(
        "slurm: workers ask for `node_labels`, which the nodes of a job do not have: all of them",
        "slurm {sweep} workers.node_labels.rack=a --print",
    ),
    slurm(
        "slurm: a rank of a worker needs 0 GPUs and 4 CPUs, more than gpus_per_node and cpus_",
        "slurm {sweep} workers.cpus=4 --print",
        cpus_per_node=2,
    ),
    slurm(
        "slurm: 1 nodes with 4 CPUs each have no room for 3 ranks of workers with 4 CPUs each: "
        "change slurm.nodes, slurm.cpus_per_node or workers",
        "slurm {sweep} workers.cpus=4 workers.per_model=3 --print",
        nodes=1,
        cpus_per_node=4,
    ),
    Case(
        "slurm {sweep} --profile {here}/profile.yaml --print",
        "{here}/profile.yaml, line 1: unknown key 'node'. Did you mean 'nodes'?",
        sweep={},
        given=profile(node=1),
    ),
    Case(
        "slurm {sweep}",
        "sbatch is not on this machine: run this on a login node of a Slurm cluster, or write",
        sweep={},
        given=lambda scene: scene.only_programs(),
    ),
    slurm("slurm.partition: no partition is called 'tpu'; there are: gpu", partition="tpu"),
    slurm("slurm: 3 nodes with 0 GPUs, 1 CPUs each are asked for; partition 'gpu' has 2", nodes=3),
    slurm("slurm.time: 2:00:00 is more than the limit of partition 'gpu', 1:00:00", time="2:00:00"),
    Case(
        "slurm {sweep}",
        "sinfo says: no controller",
        sweep={},
        given=a_cluster(sinfo="echo 'no controller' >&2; exit 1"),
    ),
    Case(
        "slurm {sweep} slurm.account=physics",
        "slurm.account: physics: sbatch says: Invalid account",
        sweep={},
        given=a_cluster(sbatch="echo 'sbatch: error: Invalid account' >&2; exit 1"),
    ),
    Case(
        "slurm {sweep}",
        "sinfo does not answer: ",
        sweep={},
        given=lambda scene: scene.only_programs(sbatch="echo 7"),
    ),
]
KUBERNETES = [
    Case("kubernetes {here}/none.yaml --print", "{here}/none.yaml: No such file or directory"),
    pods("kubernetes.image is missing: an image with kilobit, ray[default] and wha", image=None),
    pods(
        "two of these sweeps are called 'small': give each its own name",
        "kubernetes {sweep} {sweep} --print",
    ),
    pods(
        "'name=a b': a value that goes to Kubernetes is one word",
        "kubernetes {sweep} 'name=a b' --print",
    ),
    pods(
        "name: 'small-', from 'small_', can't name objects in Kubernetes",
        "kubernetes {sweep} name=small_ --print",
    ),
    pods("kubernetes.out is missing: pods keep nothing when they end, so name an", claim=None),
    pods(
        "kubernetes.out: '/elsewhere' would be deleted with its pod: a path below /data or",
        out="/elsewhere",
    ),
    pods("kubernetes: `min_replicas` and `max_replicas` need `autoscale: true`", max_replicas=2),
    pods("kubernetes: `queue` and `autoscale` exclude each other", autoscale=True, queue="a"),
    pods(
        "kubernetes.max_replicas: 1 is less than the 3 pods without which the search does not",
        "kubernetes {sweep} workers.per_model=3 --print",
        autoscale=True,
        max_replicas=1,
    ),
    pods(
        "kubernetes.ray_version: 2.9.0 is not the Ray version of this kilobit", ray_version="2.9.0"
    ),
    pods(
        "workers.cpus: a rank needs 64, and a machine has no more than 4 for it (kubernetes.cp",
        "kubernetes {sweep} workers.cpus=64 --print",
        cpus_per_node=4,
    ),
    pods("env.AWS_SECRET_ACCESS_KEY looks like a secret", env={"AWS_SECRET_ACCESS_KEY": "sesame"}),
    Case(
        "kubernetes {sweep} --print",
        "base_models.0.path: 'model' is relative to the sweep file, but the pods see no other",
        sweep={"base_models": [{"regime": "r", "path": "model"}], "kubernetes": POD},
    ),
    Case(
        "kubernetes {sweep} --print",
        "{sweep}: a ConfigMap holds at most 1000000 bytes",
        sweep={"base_models": HUB, "kubernetes": POD},
        given=a_large_file,
    ),
    Case(
        "kubernetes {sweep} --profile {here}/profile.yaml --print",
        "{here}/profile.yaml and the sweep file together: max_replicas 2 is less than min_repl",
        sweep={"base_models": HUB, "kubernetes": {**POD, "autoscale": True, "max_replicas": 2}},
        given=profile(min_replicas=3),
    ),
    applied("kubectl is not on this machine: install it, or write the manifests with", None),
    applied("kubectl reaches no cluster: choose one with `kubectl config use-co", "exit 1"),
    applied("the cluster does not know rayjobs.ray.io: install the KubeRay operator", "echo pods"),
]
CASES = [*SLURM, *KUBERNETES]
