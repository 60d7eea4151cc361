"""`kilobit kubernetes`: what it prints, what kubectl makes of it, and what is wrong input."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilobit import launch
from tests.support.cli.failing import fails
from tests.support.launchers.api_server import KINDS, Server, api_server
from tests.support.launchers.golden import GOLDEN

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not on this machine"
)
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a sweep file for Kubernetes and returns its path."""

    def write(kubernetes: dict[str, Any] | None = None, **changes: Any) -> str:
        sweep = {
            "name": "small",
            "task": {"kind": "miniature", "name": "numbers"},
            "base_models": [{"regime": "pretrained", "hub": "org/model"}],
            "families": {"prompt": {"candidates": 3}},
            "kubernetes": {"image": "kilobit:1", "claim": "runs", **(kubernetes or {})},
            **changes,
        }
        path = tmp_path / f"{sweep['name']}.yaml"
        path.write_text(yaml.safe_dump(sweep, sort_keys=False), "utf-8")
        return str(path)

    return write


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the configuration that kubectl sees."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


SECTIONS: list[tuple[dict[str, Any], str]] = [
    ({"image": None}, "kubernetes.image is missing"),
    ({"claim": None}, "kubernetes.out is missing: pods keep nothing when they end"),
    ({"claim": None, "out": "/data/x"}, "kubernetes.out: '/data/x' would be deleted with its pod"),
    ({"out": "/elsewhere"}, "a path below /data or the URL"),
    ({"out": "/data/../etc"}, "a path below /data or the URL"),
    ({"out": "runs/x"}, "kubernetes.out: String should match pattern"),
    ({"name": "Small_1"}, "kubernetes.name: String should match pattern"),
    ({"name": "s" * 48}, "kubernetes.name: String should have at most 47 characters"),
    (
        {"ray_version": "2.9.0"},
        "kubernetes.ray_version: 2.9.0 is not the Ray version of this kilobit",
    ),
    ({"autoscale": True, "min_replicas": 3, "max_replicas": 2}, "max_replicas 2 is less than min"),
    ({"max_replicas": 2}, "need `autoscale: true`"),
    ({"autoscale": True, "queue": "a"}, "`queue` and `autoscale` exclude each other"),
    ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "env.AWS_SECRET_ACCESS_KEY looks like a secret"),
    ({"tolerations": [{"value": "x"}]}, "a toleration without `key` needs operator `Exists`"),
    ({"user": 0}, "kubernetes.user: Input should be greater than or equal to 1"),
    ({"namespace": "Team"}, "kubernetes.namespace: String should match pattern"),
    ({"namespace": "n" * 64}, "kubernetes.namespace: String should have at most 63"),
    ({"queue": "q" * 64}, "kubernetes.queue: String should have at most 63 characters"),
    ({"claim": "a..b"}, "kubernetes.claim: String should match pattern"),
    ({"image": "my image"}, "kubernetes.image: String should match pattern"),
    ({"node_selector": {"gpu": "v" * 64}}, "kubernetes.node_selector.gpu: String should match"),
    ({"node_selector": {"gpu": "two words"}}, "kubernetes.node_selector.gpu: String should match"),
    ({"node_selector": {"a/b/c": "x"}}, "kubernetes.node_selector.a/b/c"),
    ({"node_selector": {"/b": "x"}}, "kubernetes.node_selector./b"),
    ({"node_selector": {"k" * 64: "x"}}, "String should match pattern"),
    ({"tolerations": [{"key": "a b"}]}, "kubernetes.tolerations.0.key: String should match"),
    ({"imgae": "x"}, "unknown key 'kubernetes.imgae'. Did you mean 'image'?"),
]


@pytest.mark.parametrize(("section", "message"), SECTIONS)
def test_a_wrong_section_ends_with_one_message(
    write: Write, capsys: pytest.CaptureFixture[str], section: dict[str, Any], message: str
) -> None:
    assert message in fails(capsys, "kubernetes", write(section), "--print")


def test_a_sweep_that_pods_can_not_run_is_refused(
    write: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(*words: str, kubernetes: dict[str, Any] | None = None, **changes: Any) -> str:
        return fails(capsys, "kubernetes", write(kubernetes, **changes), "--print", *words)

    assert "can't name objects in Kubernetes" in refused(name="3.models")
    assert "base_models.0.path: 'tiny' is relative" in refused(
        base_models=[{"regime": "a", "path": "tiny"}]
    )
    assert "cache: 'outputs' is relative" in refused(cache="outputs")
    assert "out: 'runs/a' would be deleted with its pod" in refused(out="runs/a")
    workers: dict[str, Any] = {"gpus": 9}
    assert "a machine has no more than 8" in refused(workers=workers)
    workers = {"threads": 8}
    assert "workers.cpus: a rank needs" in refused(workers=workers, kubernetes={"cpus_per_node": 4})
    workers = {"gpus": 1, "shards": {"world_size": 16}}
    assert "max_replicas: 1 is less than the 2 pods" in refused(
        workers=workers, kubernetes={"autoscale": True, "max_replicas": 1}
    )
    assert "one word of letters" in refused("name=$(id)")
    # Ray passes the run folder through a shell too.
    assert "one word of letters" in refused("--out", "/data/my run")
    assert "one word of letters" in refused(out="s3://bucket/$(id)")
    assert "absent.yaml: No such file" in refused(str(tmp_path / "absent.yaml"))
    assert "two of these sweeps are called 'small'" in refused(write())


def test_names_that_kubernetes_takes_are_taken(
    write: Write, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    section: dict[str, Any] = {
        "namespace": "4-teams",
        "queue": "q" * 63,
        "claim": "runs.2026",
        "sweep_folder": "/opt/lr=3",
        "out": "s3://bucket/lr=3/a",
        "node_selector": {"kubernetes.io/arch": "amd64", "gpu": "", "Zone_1": "a.B-c" * 12},
        "tolerations": [{"key": "nvidia.com/gpu", "value": ""}],
    }
    folder = tmp_path / "lr=4"
    folder.mkdir()
    path = Path(write(section)).rename(folder / "my=sweep.yaml")
    assert launch.main(["kubernetes", str(path), "seed=2", "--print"]) == 0
    job = list(yaml.safe_load_all(capsys.readouterr().out))[1]
    assert job["metadata"]["namespace"] == "4-teams"
    assert job["spec"]["entrypoint"].startswith(
        "kilobit run /opt/lr=3/small.yaml seed=2 --out s3://bucket/lr=3/a "
    )


def test_relative_paths_start_in_a_folder_of_the_image_where_it_is_named(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write({"sweep_folder": "/opt/sweeps"}, base_models=[{"regime": "a", "path": "tiny"}])
    assert launch.main(["kubernetes", path, "--print", "seed=2"]) == 0
    job = list(yaml.safe_load_all(capsys.readouterr().out))[1]
    assert job["spec"]["entrypoint"].startswith("kilobit run /opt/sweeps/small.yaml seed=2 --out ")


def test_workers_that_take_a_part_of_a_gpu_share_it(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(workers={"gpus": 0.25, "per_model": 6, "threads": 2})
    assert launch.main(["kubernetes", path, "--print"]) == 0
    job = list(yaml.safe_load_all(capsys.readouterr().out))[1]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert group["replicas"] == 2
    assert limits == {"cpu": "8", "memory": "66Gi", "nvidia.com/gpu": "1"}


def test_without_kubectl_one_is_told_to_print(
    write: Write,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "kubectl is not on this machine: install it, or write the manifests with --print" in (
        fails(capsys, "kubernetes", write())
    )


@needs_kubectl
def test_without_a_cluster_or_kuberay_in_it_nothing_is_made(
    write: Write, capsys: pytest.CaptureFixture[str], kubectl: Path
) -> None:
    assert "kubectl reaches no cluster: choose one with" in fails(capsys, "kubernetes", write())
    with api_server(kubectl, [version for version in KINDS if version != "ray.io/v1"]) as server:
        message = fails(capsys, "kubernetes", write())
    assert "does not know rayjobs.ray.io: install the KubeRay operator" in message
    assert server.made == []


@needs_kubectl
def test_what_is_applied_is_what_is_printed(
    write: Write, capsys: pytest.CaptureFixture[str], kubectl: Path
) -> None:
    words = ["kubernetes", write({"namespace": "team"}), write({"kind": "cluster"}, name="other")]
    assert launch.main([*words, "--print"]) == 0
    printed = list(yaml.safe_load_all(capsys.readouterr().out))
    with api_server(kubectl) as server:
        assert launch.main(words) == 0
    shown = capsys.readouterr().out
    assert "rayjob.ray.io/small created" in shown
    assert "small: run folder /data/runs/small\n  kubectl get rayjob -n team -l app." in shown
    assert [spoken_of(one) for one in server.made] == [spoken_of(one) for one in printed]
    assert [one["kind"] for one in printed] == [
        "ConfigMap", "RayJob", "ConfigMap", "RayCluster", "Job",
    ]  # fmt: skip


def spoken_of(made: dict[str, Any]) -> Any:
    """Return an object without what kubectl adds to it."""
    about = {key: made["metadata"].get(key) for key in ("name", "labels")}
    return {**made, "metadata": about}


@needs_kubectl
def test_kubectl_takes_the_golden_files(kubectl: Path) -> None:
    with api_server(kubectl) as server:
        for file in sorted(GOLDEN.glob("*.yaml")):
            if not file.name.endswith(".sweep.yaml"):
                assert_applies(server, file)


def assert_applies(server: Server, file: Path) -> None:
    done = subprocess.run(
        ["kubectl", "apply", "--dry-run=client", "-n", namespace_of(file), "-f", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("created (dry run)") == len(list(yaml.safe_load_all(file.read_text())))
    assert server.made == []


def namespace_of(file: Path) -> str:
    found: str = next(yaml.safe_load_all(file.read_text()))["metadata"].get("namespace", "default")
    return found
