"""The command `kubernetes`: manifests of sweeps, printed or applied with kubectl."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from kilobit.cluster.launchers.launcher import (
    Launched,
    Plan,
    Sweeps,
    ask,
    find_program,
    launch,
    with_profile,
)
from kilobit.cluster.launchers.manifest import Launch, Pods, head_memory_gib, manifests, pods_of
from kilobit.cluster.requests import KubernetesRequest
from kilobit.cluster.sweep.launch_targets import LABEL, MOST_LABEL, KubernetesConfig
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.storage import Place
from kilobit.search.settings import InputError

_NO_SWEEP_FOLDER = KubernetesConfig().sweep_folder
# Ray passes the command through three shells with different quoting rules.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_.,:=+/@\[\]-]+")
# Kubernetes allows a megabyte for the whole object.
_MOST_BYTES = 1_000_000
_ANSWER_S = 30


@dataclass(frozen=True)
class Launches(Plan):
    """Sweeps to launch in Kubernetes, each with objects of its own."""

    runs: tuple[Launch, ...]


def kubernetes(request: KubernetesRequest) -> int:
    """Write the manifests of sweeps, and print them or apply them with kubectl."""
    return launch(Kubernetes(), request)


class Kubernetes:
    """The Kubernetes cluster that kubectl has chosen, with KubeRay in it."""

    def plan(self, sweeps: Sweeps, profile: Path | None = None) -> Launches:
        """Return the launches of these sweep files."""
        _check_plain(sweeps.overrides)
        loaded = sweeps.load()
        return Launches(tuple(_launch_of(*one, sweeps.overrides, profile) for one in loaded))

    def render(self, plan: Launches) -> str:
        """Return the manifests as YAML documents."""
        return "---\n".join(
            yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
            for run in plan.runs
            for one in manifests(run)
        )

    def submit(self, plan: Launches) -> Launched:
        """Apply the manifests with kubectl; if the cluster refuses an object, it makes none."""
        remedy = "install it, or write the manifests with --print and apply them where it is"
        find_program("kubectl", remedy)
        found = _kubectl(
            ["api-resources", "--api-group=ray.io", "-o", "name"],
            "kubectl reaches no cluster: choose one with `kubectl config use-context`, or write "
            "the manifests with --print",
        )
        kinds = {"job": "rayjobs.ray.io", "cluster": "rayclusters.ray.io"}
        missing = {kinds[run.config.kind] for run in plan.runs} - set(found.split())
        if missing:
            raise InputError(
                f"the cluster does not know {min(missing)}: install the KubeRay operator there, "
                "version 1.6.2 or newer (helm install kuberay-operator kuberay/kuberay-operator)"
            )
        text, problem = self.render(plan), "kubectl could not apply the manifests"
        # The cluster checks all objects before one is made.
        _kubectl(["apply", "--dry-run=server", "-f", "-"], problem, text)
        lines = list(filter(None, _kubectl(["apply", "-f", "-"], problem, text).split("\n")))
        return Launched(
            tuple(line.split()[0] for line in lines),
            "".join(f"{line}\n" for line in [*lines, *map(_follow, plan.runs)]),
        )


def _check_plain(words: Sequence[str]) -> None:
    odd = next((word for word in words if not _PLAIN_WORD.fullmatch(word)), None)
    if odd is not None:
        raise InputError(
            f"{odd!r:.100}: a value that goes to Kubernetes is one word of letters, digits and "
            "_ . , : = + / @ [ ] -; write another one into the sweep file"
        )


def _follow(run: Launch) -> str:
    space = f" -n {run.config.namespace}" if run.config.namespace else ""
    kinds = "rayjob" if run.config.kind == "job" else "raycluster,job"
    return (
        f"{run.name}: run folder {run.out}\n"
        f"  kubectl get {kinds}{space} -l app.kubernetes.io/instance={run.name}"
    )


def _launch_of(
    file: Path, sweep: Sweep, out: Place | None, overrides: tuple[str, ...], profile: Path | None
) -> Launch:
    config = with_profile(sweep.kubernetes, profile, KubernetesConfig)
    if config.image is None:
        raise InputError(
            "kubernetes.image is missing: an image with kilobit, ray[default] and what the sweep "
            "reads from it, in the sweep file or in --profile"
        )
    _check_paths(sweep, file, config)
    pods = pods_of(sweep, config)
    _check_size(config, pods)
    where = _out_of(sweep, config, out)
    _check_plain((where,))
    if config.head_memory_gib is None:
        config = config.model_copy(update={"head_memory_gib": head_memory_gib(sweep)})
    return Launch(
        name=_name_of(sweep, config),
        sweep=f"{config.sweep_folder}/{sweep.name}.yaml",
        overrides=overrides,
        out=where,
        text=_read(file),
        config=config,
        pods=pods,
        ray_version=_ray_version(config),
    )


class _Dumper(yaml.SafeDumper):
    """YAML dumper without references; a text of several lines becomes a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _read(file: Path) -> str:
    text = file.read_text("utf-8-sig")
    if len(text.encode()) > _MOST_BYTES:
        raise InputError(f"{file}: a ConfigMap holds at most {_MOST_BYTES} bytes")
    return text


def _name_of(sweep: Sweep, config: KubernetesConfig) -> str:
    if config.name is not None:
        return config.name
    name = re.sub(r"[._]", "-", sweep.name.lower())
    if len(name) > MOST_LABEL or not re.fullmatch(LABEL, name):
        raise InputError(
            f"name: {name!r}, from {sweep.name!r}, can't name objects in Kubernetes: at most "
            f"{MOST_LABEL} lower case letters, digits and dashes, beginning with a letter and "
            "not ending with a dash, are allowed; set kubernetes.name"
        )
    return name


def _out_of(sweep: Sweep, config: KubernetesConfig, named: Place | None) -> str:
    out, field = (config.out, "kubernetes.out") if named is None else (str(named), "--out")
    if out is None and sweep.out is not None:
        out, field = str(sweep.out), "out"
    if out is None and config.claim is not None:
        return f"{config.mount_path}/runs/{sweep.name}"
    if out is None:
        raise InputError(
            "kubernetes.out is missing: pods keep nothing when they end, so name an existing "
            "volume claim (kubernetes.claim) or the URL of a folder in object storage "
            "(kubernetes.out=s3://BUCKET/FOLDER)"
        )
    if "://" in out:
        return out
    inside = config.claim is not None and Path(out).is_relative_to(config.mount_path)
    if not inside or ".." in Path(out).parts:
        volume = config.mount_path if config.claim is not None else "a volume (kubernetes.claim)"
        raise InputError(
            f"{field}: {out!r} would be deleted with its pod: a path below {volume} or the URL of "
            "a folder in object storage is allowed"
        )
    return out


def _check_size(config: KubernetesConfig, pods: Sequence[Pods]) -> None:
    if not config.autoscale and (config.min_replicas, config.max_replicas) != (None, None):
        raise InputError(
            "kubernetes: `min_replicas` and `max_replicas` need `autoscale: true`; without it "
            "there are as many pods as the workers need"
        )
    if config.autoscale and config.queue is not None:
        raise InputError(
            "kubernetes: `queue` and `autoscale` exclude each other: Kueue admits clusters of a "
            "fixed size"
        )
    for group in pods:
        if config.max_replicas is not None and config.max_replicas < group.least:
            raise InputError(
                f"kubernetes.max_replicas: {config.max_replicas} is less than the {group.least} "
                "pods without which the search does not begin (workers.min_per_model)"
            )


def _check_paths(sweep: Sweep, file: Path, config: KubernetesConfig) -> None:
    """Refuse relative paths unless `sweep_folder` says where they start in the pods."""
    if config.sweep_folder != _NO_SWEEP_FOLDER:
        return
    named = sweep.model_dump(exclude={"out", "cache", "slurm", "kubernetes"})
    for field, path in _paths({**named, "cache": sweep.cache}, ""):
        # The cache's path was made absolute when the file was read.
        here = field == "cache" and path.is_relative_to(file.absolute().parent)
        if here or not path.is_absolute():
            shown = path.relative_to(file.absolute().parent) if here else path
            raise InputError(
                f"{field}: {str(shown)!r} is relative to the sweep file, but the pods see no other "
                "file beside it: give a path in the image or the volume, or set "
                "kubernetes.sweep_folder to the folder there in which relative paths start"
            )


def _paths(value: Any, field: str) -> Iterator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield field, value
    elif isinstance(value, dict):
        for key, below in value.items():
            yield from _paths(below, f"{field}.{key}" if field else str(key))
    elif isinstance(value, list | tuple):
        for position, below in enumerate(value):
            yield from _paths(below, f"{field}.{position}")


def _ray_version(config: KubernetesConfig) -> str:
    installed = version("ray")
    if config.ray_version is not None and config.ray_version != installed:
        raise InputError(
            f"kubernetes.ray_version: {config.ray_version} is not the Ray version of this "
            f"kilobit, {installed}: build the image with that version, from constraints.txt, and "
            "leave the field out"
        )
    return installed


def _kubectl(words: Sequence[str], problem: str, text: str = "") -> str:
    try:
        # The limit of one request; there are at least two for each object.
        return ask(["kubectl", f"--request-timeout={_ANSWER_S}s", *words], text, 20 * _ANSWER_S)
    except InputError as error:
        raise InputError(f"{problem}: {error}") from error
