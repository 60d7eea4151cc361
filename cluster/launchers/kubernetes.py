"""The command `kubernetes`: manifests of sweeps, printed or applied with kubectl."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from kilobit.cluster.launchers.manifest import Launch, Pods, manifests, pods_of
from kilobit.cluster.launchers.profile import sweeps_and_overrides, with_profile
from kilobit.cluster.requests import KubernetesRequest
from kilobit.cluster.sweep.launch_targets import LABEL, MOST_LABEL, KubernetesConfig
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.search.settings import InputError

_NO_SWEEP_FOLDER = KubernetesConfig().sweep_folder
# Ray passes the command through three shells with different quoting rules.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_.,:=+/@\[\]-]+")
# Kubernetes allows a megabyte for the whole object.
_MOST_BYTES = 1_000_000
_ANSWER_S = "30s"


def kubernetes(request: KubernetesRequest) -> int:
    """Write the manifests of sweeps, and print them or apply them with kubectl."""
    files, overrides = sweeps_and_overrides(request.words)
    launches = [launch_of(file, overrides, request.profile) for file in files]
    names = [launch.name for launch in launches]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"two of these sweeps are called {twice!r} in Kubernetes: give each a `name`, or "
            "kubernetes.name"
        )
    text = "---\n".join(render(launch) for launch in launches)
    if request.only_print:
        sys.stdout.write(text)
        return 0
    _apply(launches, text)
    return 0


def launch_of(file: Path, overrides: Sequence[str], profile: Path | None) -> Launch:
    """Return the launch of the sweep in `file`.

    Raises:
        InputError: naming the field, if the sweep can't be launched with these settings.
    """
    odd = next((word for word in overrides if not _PLAIN_WORD.fullmatch(word)), None)
    if odd is not None:
        raise InputError(
            f"{odd!r:.100}: a value that goes to Kubernetes is one word of letters, digits and "
            "_ . , : = + / @ [ ] -; write another one into the sweep file"
        )
    sweep = load_sweep(file, overrides)
    config = with_profile(sweep.kubernetes, profile, KubernetesConfig)
    if config.image is None:
        raise InputError(
            "kubernetes.image is missing: an image with kilobit, ray[default] and what the sweep "
            "reads from it, in the sweep file or in --profile"
        )
    _check_paths(sweep, file, config)
    pods = pods_of(sweep, config)
    _check_size(config, pods)
    return Launch(
        name=_name_of(sweep, config),
        file=f"{sweep.name}.yaml",
        text=_read(file),
        overrides=overrides,
        out=_out_of(sweep, config),
        config=config,
        pods=pods,
        ray_version=_ray_version(config),
    )


def render(launch: Launch) -> str:
    """Return the manifests of a launch as YAML documents."""
    texts = (
        yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
        for one in manifests(launch)
    )
    return "---\n".join(texts)


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


def _out_of(sweep: Sweep, config: KubernetesConfig) -> str:
    out, field = config.out, "kubernetes.out"
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


def _check_size(config: KubernetesConfig, pods: Pods) -> None:
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
    if config.max_replicas is not None and config.max_replicas < pods.least:
        raise InputError(
            f"kubernetes.max_replicas: {config.max_replicas} is less than the {pods.least} pods "
            "without which the search does not begin (workers.min_per_model)"
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


def _apply(launches: Sequence[Launch], text: str) -> None:
    """Apply manifests with kubectl and print how to follow the runs.

    Raises:
        InputError: if there is no kubectl, no cluster, or no KubeRay in it, or it refuses.
    """
    if shutil.which("kubectl") is None:
        raise InputError(
            "kubectl is not on this machine: install it, or write the manifests with --print and "
            "apply them where it is"
        )
    found = _kubectl(
        ["api-resources", "--api-group=ray.io", "-o", "name"],
        "kubectl reaches no cluster: choose one with `kubectl config use-context`, or write the "
        "manifests with --print",
    )
    kinds = {"job": "rayjobs.ray.io", "cluster": "rayclusters.ray.io"}
    missing = {kinds[launch.config.kind] for launch in launches} - set(found.split())
    if missing:
        raise InputError(
            f"the cluster does not know {min(missing)}: install the KubeRay operator there, "
            "version 1.6.2 or newer (helm install kuberay-operator kuberay/kuberay-operator)"
        )
    print(_kubectl(["apply", "-f", "-"], "kubectl could not apply the manifests", text), end="")
    for launch in launches:
        space = f" -n {launch.config.namespace}" if launch.config.namespace else ""
        label = f"app.kubernetes.io/instance={launch.name}"
        kinds_of = "rayjob" if launch.config.kind == "job" else "raycluster,job"
        print(f"{launch.name}: run folder {launch.out}")
        print(f"  kubectl get {kinds_of}{space} -l {label}")


def _kubectl(words: Sequence[str], problem: str, text: str = "") -> str:
    command = ["kubectl", f"--request-timeout={_ANSWER_S}", *words]
    done = subprocess.run(  # noqa: S603 - no shell, and the words are ours
        command, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line] or ["no reason given"]
        raise InputError(f"{problem}: {lines[-1]}")
    return done.stdout
