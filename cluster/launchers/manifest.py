"""KubeRay manifests of a sweep, and the pods that its workers need.

Manifests are plain data, the same for the same sweep on every machine.

    RayJob       a Ray cluster for one run, and the run; or
    RayCluster   a Ray cluster that stays, and a Job whose pod joins it and drives the run
    ConfigMap    the sweep file, mounted read-only

A pod runs as a non-root user without privileges; only the head of an autoscaling cluster gets a
token of a service account. Secrets are named, never read. Sources: the resource definitions of
KubeRay v1.6.2 and v1.7.0, and the further checks of its operator (names are DNS labels of at most
47 letters, CPUs are given once, token authentication from Ray 2.52).
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kilobit.cluster.launchers.launcher import PlannedRun
from kilobit.cluster.sweep.launch_targets import KubernetesConfig
from kilobit.cluster.sweep.placement import Need, Node, largest, needs_of, plan
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.cluster.sweep.workers import Workers
from kilobit.search.settings import InputError

# Sums of fractions such as 0.1 are not exact.
_ROUNDING = 1e-9
_GIB = 1 << 30
_GCS_PORT = 6379
# Memory of the driver for each candidate, and candidates where the sweep names no limit.
_BYTES_A_CANDIDATE, _MOST_CANDIDATES = 8_000, 100_000
# In a pod whose root file system is read-only, Ray's files, temporary ones and caches are there.
_SCRATCH = {"name": "scratch", "mountPath": "/tmp"}  # noqa: S108
# The part of the grace period that is left for Ray's processes to end after the run has stopped.
_ENDING_S = 10


@dataclass(frozen=True)
class Pods:
    """A group of equal pods.

    Attributes:
        name: of the group.
        count: number of pods.
        least: number of pods that a search needs to begin.
        ranks: the most ranks in one pod, of one worker or of several.
        cpus: whole CPUs of each, for Kubernetes and for Ray.
        gpus: whole GPUs of each.
        resources: custom resources of each, by Ray's names.
        labels: of the nodes that they are placed on, and of Ray's nodes in them.
    """

    name: str
    count: int
    least: int
    ranks: int
    cpus: int
    gpus: int
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def bounds(self, config: KubernetesConfig) -> tuple[int, int]:
        """Return the fewest pods of a running cluster, and the most."""
        if not config.autoscale:
            return self.count, self.count
        low, high = config.min_replicas or 0, config.max_replicas
        return low, max(low, self.count if high is None else high)


def pods_of(sweep: Sweep, config: KubernetesConfig) -> tuple[Pods, ...]:
    """Return the groups of pods of a sweep's workers.

    Base models whose workers need the same custom resources and labels share a group. All pods of a
    group have one shape, with room for any of its workers.

    Raises:
        InputError: if a rank needs more than a machine has.
    """
    groups: dict[Any, dict[str, Workers]] = {}
    for model, own in sweep.workers_by_model.items():
        kind = own.accelerator_type, sorted(own.resources), sorted(own.node_labels.items())
        groups.setdefault(str(kind), {})[model] = own
    return tuple(
        _group(f"workers-{number}" if len(groups) > 1 else "workers", settings, config)
        for number, settings in enumerate(groups.values(), 1)
    )


def _group(name: str, settings: Mapping[str, Workers], config: KubernetesConfig) -> Pods:
    """Return the pods of base models that share a group.

    The ranks of a worker share one pod if a machine has room for them, and are spread evenly over
    several otherwise. Workers that each use a fraction of a GPU share a pod with one GPU. Where
    models have workers of their own, smaller ones share the pods of larger ones.
    """
    workers = list(settings.values())
    shapes = [_pods(name, own, len(settings), config) for own in workers]
    ranks, cpus, gpus = (max(getattr(s, n) for s in shapes) for n in ("ranks", "cpus", "gpus"))
    amounts = {n: ranks * max(own.resources[n] for own in workers) for n in workers[0].resources}
    labels = workers[0].node_labels
    if all(one == shapes[0] for one in shapes):
        return replace(shapes[0], resources=amounts, labels=labels)
    needs = needs_of(settings, {model: own.wanted_cpus for model, own in settings.items()})
    enough = dict.fromkeys(largest(needs).each, math.inf)
    there = {**enough, "CPU": cpus, "GPU": gpus, **amounts}

    def number(some: Sequence[Need]) -> int:
        pods = range(1, sum(one.count for one in shapes))
        nodes = [Node(str(at), there, labels) for at in pods]
        fits = (n for n in pods if not plan(nodes[:n], some).waits)
        return next(fits, sum(one.count for one in shapes))

    least = number([one for one in needs if one.least])
    return Pods(name, number(needs), least, ranks, cpus, gpus, amounts, labels)


def _pods(name: str, workers: Workers, num_models: int, config: KubernetesConfig) -> Pods:
    """Return the pods of base models that all have the same workers."""
    each = workers.ranks(workers.wanted_cpus)
    cpus, gpus = each.cpus_per_rank or 0.0, each.gpus_per_rank or 0.0
    most = _most(gpus, config.gpus_per_node, "workers.gpus", "gpus_per_node")
    if config.cpus_per_node is not None:
        most = min(most, _most(cpus, config.cpus_per_node, "workers.cpus", "cpus_per_node"))
    parts = math.ceil(each.world_size / most)
    ranks = math.ceil(each.world_size / parts)
    together = 1
    if each.world_size == 1 and 0 < gpus < 1:
        together = min(_floor(1 / gpus), workers.per_model * num_models)
        if config.cpus_per_node is not None:
            together = max(1, min(together, _floor(config.cpus_per_node / cpus)))

    def number(per_model: int) -> int:
        return parts * math.ceil(per_model * num_models / together)

    return Pods(
        name,
        count=number(workers.per_model),
        least=number(workers.least),
        ranks=ranks * together,
        cpus=max(1, _ceil(together * ranks * cpus)),
        gpus=_ceil(together * ranks * gpus),
    )


def head_memory_gib(sweep: Sweep) -> int:
    """Return the memory of the pod with the driver, which holds no model, in GiB.

    4 GiB are for Ray's own processes, and for the driver with its libraries and the task; what it
    keeps of each candidate was measured (docs/measurements.md). Trials and programs run elsewhere.
    """
    candidates = sweep.most_candidates or _MOST_CANDIDATES
    return math.ceil(4 + candidates * _BYTES_A_CANDIDATE / _GIB)


def _most(each: float, room: float, field: str, limit: str) -> int:
    """Return how many times `each` fits into `room`."""
    if not each:
        return 1 << 30
    found = _floor(room / each)
    if found < 1:
        raise InputError(
            f"{field}: a rank needs {each:g}, and a machine has no more than {room:g} for it "
            f"(kubernetes.{limit})"
        )
    return found


def _floor(number: float) -> int:
    return math.floor(number + _ROUNDING)


def _ceil(number: float) -> int:
    return math.ceil(number - _ROUNDING)


Object = dict[str, Any]


@dataclass(frozen=True)
class Launch(PlannedRun):
    """A run to launch in pods; its name is that of all objects.

    Attributes:
        text: content of the sweep file.
        config: settings of the cluster.
        pods: groups of pods of the workers.
        ray_version: version of Ray in the image.
    """

    text: str
    config: KubernetesConfig
    pods: tuple[Pods, ...]
    ray_version: str

    @property
    def file(self) -> str:
        """Return the name of the sweep file in the pods."""
        return self.sweep.rpartition("/")[2]


def manifests(launch: Launch) -> list[Object]:
    """Return the objects of a launch, in the order in which they have to be created."""
    if launch.config.kind == "job":
        return [_sweep_file(launch), _ray_job(launch)]
    return [_sweep_file(launch), _ray_cluster(launch), _driver(launch)]


def entrypoint(launch: Launch) -> str:
    """Return the command that begins the run, or resumes it after another attempt.

    An attempt that still runs somewhere is fenced by the newer one
    (`kilobit.evaluators.ledger.fencing`).
    """
    return shlex.join([*launch.command, "--continue", "--take-over", "--address", "auto"])


def _sweep_file(launch: Launch) -> Object:
    found = _object(launch, "v1", "ConfigMap", f"{launch.name}-sweep")
    return found | {"data": {launch.file: launch.text}}


def _ray_job(launch: Launch) -> Object:
    config = launch.config
    spec: Object = {
        "entrypoint": entrypoint(launch),
        "submissionMode": "K8sJobMode",
        "backoffLimit": config.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": config.keep_s,
    }
    if config.deadline_s is not None:
        spec["activeDeadlineSeconds"] = config.deadline_s
    if config.queue is not None:
        # Kueue unsuspends it once quota is available.
        spec["suspend"] = True
    spec["submitterPodTemplate"] = {"spec": _pod_spec(launch, [_submitter(launch)])}
    spec["rayClusterSpec"] = _cluster_spec(launch)
    return _object(launch, "ray.io/v1", "RayJob", launch.name) | {"spec": spec}


def _ray_cluster(launch: Launch) -> Object:
    spec = _cluster_spec(launch)
    if launch.config.queue is not None:
        spec = {"suspend": True, **spec}
    return _object(launch, "ray.io/v1", "RayCluster", launch.name) | {"spec": spec}


def _driver(launch: Launch) -> Object:
    """Return the Job of a cluster that stays: its pod joins the cluster and is the driver."""
    config = launch.config
    head = f"{launch.name}-head-svc:{_GCS_PORT}"
    script = [
        # Waits for the head, also while the cluster is queued; `deadline_s` limits the wait.
        f"until ray health-check --address {head}; do sleep 5; done",
        f"ray start --address={head} --num-cpus=0 --num-gpus=0 "
        f"--object-store-memory={_object_store(config)}",
        # `exec` replaces the shell, so that the run gets the stop signal of Kubernetes.
        f"exec {entrypoint(launch)}",
    ]
    # The operator creates this secret, but sets it by itself only in the cluster's own pods.
    token = {"secretKeyRef": {"name": launch.name, "key": "auth_token"}}
    container = _container(launch, "driver", config.head_cpus, config.head_memory_gib or 0)
    container["command"] = ["/bin/sh", "-ec", "\n".join(script)]
    container["env"] = [
        *container["env"],
        {"name": "RAY_AUTH_MODE", "value": "token"},
        {"name": "RAY_AUTH_TOKEN", "valueFrom": token},
    ]
    spec: Object = {
        "backoffLimit": config.retries,
        "ttlSecondsAfterFinished": config.keep_s,
        "podFailurePolicy": {
            "rules": [
                # Exit status 2 is wrong input: a retry would fail too.
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": "driver", "operator": "In", "values": [2]},
                },
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            ]
        },
    }
    if config.deadline_s is not None:
        spec["activeDeadlineSeconds"] = config.deadline_s
    spec["template"] = {"spec": _pod_spec(launch, [container], _volumes(launch))}
    return _object(launch, "batch/v1", "Job", f"{launch.name}-driver") | {"spec": spec}


def _cluster_spec(launch: Launch) -> Object:
    config = launch.config
    spec: Object = {"rayVersion": launch.ray_version, "authOptions": {"mode": "token"}}
    if config.autoscale:
        spec["enableInTreeAutoscaling"] = True
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": config.idle_s,
            "resources": _amounts({"cpu": "500m", "memory": "1Gi"}),
            "securityContext": _confined(config),
        }
        if config.read_only_root:
            spec["autoscalerOptions"]["volumeMounts"] = [_SCRATCH]
    head = _container(launch, "ray-head", config.head_cpus, config.head_memory_gib or 0)
    if config.kind == "job":
        # The run is a process of this pod, and only this hook tells it that the pod is to stop.
        stop = ["python", "-m", "kilobit.cluster.launchers.stop", launch.sweep]
        within = str(max(1, config.grace_s - _ENDING_S))
        head["lifecycle"] = {"preStop": {"exec": {"command": [*stop, "--within", within]}}}
    spec["headGroupSpec"] = {
        # The head offers no CPUs and GPUs, so that workers run in the pods with their memory.
        "rayStartParams": _start_parameters(config, 0, 0),
        # The autoscaler runs in the head and needs the token to request pods.
        "template": {"spec": _pod_spec(launch, [head], _volumes(launch), token=config.autoscale)},
    }
    spec["workerGroupSpecs"] = [_worker_group(launch, pods) for pods in launch.pods]
    return spec


def _worker_group(launch: Launch, pods: Pods) -> Object:
    config = launch.config
    memory_gib = pods.ranks * config.memory_gib
    worker = _container(launch, "ray-worker", pods.cpus, memory_gib, gpus=pods.gpus)
    pod = _pod_spec(launch, [worker], _volumes(launch))
    if selector := {**config.node_selector, **pods.labels}:
        pod["nodeSelector"] = dict(sorted(selector.items()))
    if config.tolerations:
        pod["tolerations"] = [t.model_dump(exclude_none=True) for t in config.tolerations]
    low, high = pods.bounds(config)
    found: Object = {"groupName": pods.name}
    parameters = _start_parameters(config, pods.cpus, pods.gpus)
    if pods.labels:
        found["labels"] = dict(sorted(pods.labels.items()))
    if pods.resources:
        # The operator makes parameters of all resources, and refuses a part given as parameters.
        amounts = {"CPU": parameters.pop("num-cpus"), "GPU": parameters.pop("num-gpus")}
        own = {name: f"{amount:g}" for name, amount in sorted(pods.resources.items())}
        found["resources"] = amounts | own
    return found | {
        "replicas": low,
        "minReplicas": low,
        "maxReplicas": high,
        "rayStartParams": parameters,
        "template": {"spec": pod},
    }


def _start_parameters(config: KubernetesConfig, cpus: int, gpus: int) -> dict[str, str]:
    return {
        "num-cpus": str(cpus),
        "num-gpus": str(gpus),
        "object-store-memory": str(_object_store(config)),
    }


def _object_store(config: KubernetesConfig) -> int:
    """Return bytes for Ray's objects; processes of a shard group share the rest of /dev/shm."""
    return config.shared_memory_gib * _GIB // 2


def _submitter(launch: Launch) -> Object:
    found: Object = {
        "name": "ray-job-submitter",
        "image": launch.config.image,
        "resources": _amounts({"cpu": "500m", "memory": "1Gi"}),
        "securityContext": _confined(launch.config),
    }
    if launch.config.read_only_root:
        found["env"] = [{"name": n, "value": v} for n, v in sorted(_home(launch.config).items())]
        found["volumeMounts"] = [_SCRATCH]
    return found


def _container(launch: Launch, name: str, cpus: int, memory_gib: int, *, gpus: int = 0) -> Object:
    config = launch.config
    amounts: dict[str, str] = {
        "cpu": str(cpus),
        "memory": f"{memory_gib + config.shared_memory_gib}Gi",
    }
    if gpus:
        amounts[config.gpu_resource] = str(gpus)
    mounts: list[Object] = [
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - of the pod
        {
            "name": "sweep",
            "mountPath": launch.sweep,
            "subPath": launch.file,
            "readOnly": True,
        },
    ]
    if config.claim is not None:
        mounts.append({"name": "data", "mountPath": config.mount_path})
    if config.read_only_root:
        mounts.append(_SCRATCH)
    environment = {"RAY_USAGE_STATS_ENABLED": "0", **_home(config), **config.env}
    found: Object = {
        "name": name,
        "image": config.image,
        "env": [{"name": key, "value": environment[key]} for key in sorted(environment)],
    }
    if config.secrets:
        found["envFrom"] = [{"secretRef": {"name": secret}} for secret in config.secrets]
    return found | {
        "resources": _amounts(amounts),
        "securityContext": _confined(config),
        "volumeMounts": mounts,
    }


def _amounts(amounts: Mapping[str, str]) -> Object:
    # Requests equal limits: Kubernetes evicts such a pod last, and requires it for GPUs.
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _confined(config: KubernetesConfig) -> Object:
    found: Object = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return found | ({"readOnlyRootFilesystem": True} if config.read_only_root else {})


def _home(config: KubernetesConfig) -> dict[str, str]:
    """Return variables that name a home, and a user that the image may lack."""
    return {"HOME": "/tmp", "USER": "kilobit"} if config.read_only_root else {}  # noqa: S108


def _volumes(launch: Launch) -> list[Object]:
    config = launch.config
    size = f"{config.shared_memory_gib}Gi"
    volumes: list[Object] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
        {"name": "sweep", "configMap": {"name": f"{launch.name}-sweep"}},
    ]
    if config.claim is not None:
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": config.claim}})
    return volumes


def _pod_spec(
    launch: Launch,
    containers: Sequence[Object],
    volumes: Sequence[Object] = (),
    *,
    token: bool = False,
) -> Object:
    config = launch.config
    spec: Object = {
        # Ray's state does not outlive its process; the operator creates another pod instead.
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": config.grace_s,
        "automountServiceAccountToken": token,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": config.user,
            "runAsGroup": config.group,
            "fsGroup": config.group,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if config.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    spec["containers"] = list(containers)
    all_volumes = [*volumes, *([{"name": "scratch", "emptyDir": {}}] * config.read_only_root)]
    if all_volumes:
        spec["volumes"] = all_volumes
    return spec


def _object(launch: Launch, version: str, kind: str, name: str) -> Object:
    config = launch.config
    labels = {"app.kubernetes.io/name": "kilobit", "app.kubernetes.io/instance": launch.name}
    if kind.startswith("Ray") and config.queue is not None:
        labels["kueue.x-k8s.io/queue-name"] = config.queue
    space = {} if config.namespace is None else {"namespace": config.namespace}
    about = {"name": name, **space, "labels": labels}
    return {"apiVersion": version, "kind": kind, "metadata": about}
