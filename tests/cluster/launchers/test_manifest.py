"""Manifests are those of the golden files, and fit KubeRay 1.6.2 and 1.7.0.

The golden files are made again, to be read before they are committed, by

    python -m tests.cluster.launchers.test_manifest
"""

import copy
import getpass
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from kilobit.cluster.launchers import kubernetes
from kilobit.cluster.launchers.kubernetes import Kubernetes, Launches
from kilobit.cluster.launchers.launcher import Sweeps
from tests.conftest import REPOSITORY
from tests.support.launchers.golden import GOLDEN
from tests.support.launchers.manifest_check import VERSIONS, pods, problems

NAMES = sorted(path.name.removesuffix(".sweep.yaml") for path in GOLDEN.glob("*.sweep.yaml"))
OVERRIDES = {"gpu_queue_s3": ["budget.seconds=3600", "seed=7"]}


def plan(file: Path, overrides: list[str], profile: Path | None = None) -> Launches:
    return Kubernetes().plan(Sweeps((file,), tuple(overrides)), profile)


def rendered(name: str) -> str:
    with patch.object(kubernetes, "version", lambda _: "2.60.0"):
        file = GOLDEN / f"{name}.sweep.yaml"
        return Kubernetes().render(plan(file, OVERRIDES.get(name, [])))


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text("utf-8")))


@pytest.mark.parametrize("name", NAMES)
def test_manifests_are_those_of_the_golden_file(name: str) -> None:
    text = rendered(name)
    assert text == (GOLDEN / f"{name}.yaml").read_text("utf-8")
    assert text == rendered(name)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_manifests_fit_the_schemas_and_what_the_operator_asks(name: str, version: str) -> None:
    assert problems(documents(name), version) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_example_profile_fits_too(version: str) -> None:
    found = plan(
        GOLDEN / "gpu_queue_s3.sweep.yaml",
        [],
        REPOSITORY / "examples" / "profiles" / "kubernetes.yaml",
    )
    assert found.runs[0].config.claim == "kilobit-runs"
    assert found.runs[0].config.memory_gib == 64
    assert problems(list(yaml.safe_load_all(Kubernetes().render(found))), version) == []


def test_the_examples_of_the_page_can_be_launched() -> None:
    examples = REPOSITORY / "examples"
    (run,) = plan(
        examples / "gsm8k_smollm3.yaml", [], examples / "profiles" / "kubernetes.yaml"
    ).runs
    (pods,) = run.pods
    assert (pods.count, pods.gpus) == (3, 1)
    words = ["kubernetes.sweep_folder=/opt/kilobit/examples", "kubernetes.image=kilobit:1"]
    (run,) = plan(examples / "quickstart.yaml", [*words, "kubernetes.claim=runs"]).runs
    assert run.sweep == "/opt/kilobit/examples/quickstart.yaml"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", NAMES)
def test_pods_with_a_read_only_root_write_to_volumes_only(name: str, version: str) -> None:
    words = [*OVERRIDES.get(name, []), "kubernetes.read_only_root=true"]
    with patch.object(kubernetes, "version", lambda _: "2.60.0"):
        text = Kubernetes().render(plan(GOLDEN / f"{name}.sweep.yaml", words))
    found = list(yaml.safe_load_all(text))
    assert problems(found, version) == []
    specs = [pod for document in found for pod in pods(document)]
    assert len(specs) >= 3
    for spec in specs:
        assert {"name": "scratch", "emptyDir": {}} in spec["volumes"]
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"name": "scratch", "mountPath": "/tmp"} in container["volumeMounts"]
            assert {"name": "HOME", "value": "/tmp"} in container["env"]
            assert {"name": "USER", "value": "kilobit"} in container["env"]


def test_the_memory_of_the_head_follows_from_the_candidates() -> None:
    def of_the_head(*words: str) -> int | None:
        file = GOLDEN / "cpu_claim.sweep.yaml"
        return plan(file, list(words)).runs[0].config.head_memory_gib

    assert of_the_head() == 5
    endless = ("proposer.kind=evolution", "budget.seconds=60")
    assert of_the_head(*endless) == 5
    assert of_the_head(*endless, "budget.candidates=1000000") == 12
    assert of_the_head("kubernetes.head_memory_gib=3") == 3


def cluster_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["rayClusterSpec"]
    return found


# What each breaks, and what the check has to say of it.
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown field": (lambda job: job["spec"].update(entryPoint="x"), "'entryPoint' was unexpect"),
    "deep unknown field": (
        lambda job: pods(job)[1]["containers"][0].update(volumeMount=[]),
        "'volumeMount' was unexpected",
    ),
    "wrong type": (lambda job: job["spec"].update(backoffLimit="3"), "'3' is not of type"),
    "unknown metadata": (lambda job: job["metadata"].update(label={}), "'label' was unexpected"),
    "name": (lambda job: job["metadata"].update(name="Job_1"), "does not match"),
    "long name": (lambda job: job["metadata"].update(name="j" * 48), "at most 47 characters"),
    "a rule": (lambda job: job["spec"].update(managedBy="me"), "a rule in CEL"),
    "old ray": (lambda job: cluster_of(job).update(rayVersion="2.51.0"), "needs rayVersion 2.52"),
    "no token": (lambda job: cluster_of(job).pop("authOptions"), "has to be token"),
    "kept": (lambda job: job["spec"].update(shutdownAfterJobFinishes=False), "need shutdownAfter"),
    "replicas": (
        lambda job: cluster_of(job)["workerGroupSpecs"][0].update(minReplicas=9),
        "minReplicas <= replicas",
    ),
    "scales in a queue": (
        lambda job: cluster_of(job).update(enableInTreeAutoscaling=True),
        "Kueue takes no cluster",
    ),
    "twice": (
        lambda job: cluster_of(job)["workerGroupSpecs"][0].update(resources={"CPU": "1"}),
        "given twice",
    ),
    "gpus": (
        lambda job: cluster_of(job)["workerGroupSpecs"][0]["rayStartParams"].update(
            {"num-gpus": "2"}
        ),
        "other GPUs",
    ),
    "root": (lambda job: pods(job)[1]["securityContext"].update(runAsUser=0), "run as root"),
    "volume": (lambda job: pods(job)[1]["volumes"].pop(0), "there is no volume shm"),
    "secret": (
        lambda job: pods(job)[1]["containers"][0]["env"].append({"name": "KEY", "value": "x"}),
        "KEY is given with its value",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_the_check_sees_what_is_broken(what: str) -> None:
    sweep_file, job = copy.deepcopy(documents("gpu_queue_s3"))
    change, expected = BROKEN[what]
    change(job)
    assert any(expected in problem for problem in problems([sweep_file, job], VERSIONS[-1]))


def test_pods_get_what_the_workers_need() -> None:
    def workers(name: str) -> tuple[int, int, int, dict[str, str]]:
        ray = next(d for d in documents(name) if d["kind"].startswith("Ray"))
        (group,) = ray["spec"].get("rayClusterSpec", ray["spec"])["workerGroupSpecs"]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        return group["minReplicas"], group["replicas"], group["maxReplicas"], limits

    assert workers("cpu_claim") == (2, 2, 2, {"cpu": "1", "memory": "18Gi"})
    four = {"cpu": "6", "memory": "72Gi", "nvidia.com/gpu": "1"}
    assert workers("gpu_queue_s3") == (4, 4, 4, four)
    eight = {"cpu": "64", "memory": "832Gi", "nvidia.com/gpu": "8"}
    assert workers("shards_autoscale") == (0, 0, 3, eight)
    # Twelve ranks do not fit on a machine of eight GPUs: six in each of two pods.
    six = {"cpu": "12", "memory": "98Gi", "amd.com/gpu": "6"}
    assert workers("cluster_driver") == (2, 2, 2, six)


def test_no_head_and_no_driver_has_a_gpu_or_runs_a_model() -> None:
    for name in NAMES:
        for document in documents(name):
            if document["kind"].startswith("Ray"):
                head = document["spec"].get("rayClusterSpec", document["spec"])["headGroupSpec"]
                offered = head["rayStartParams"]
                assert (offered["num-cpus"], offered["num-gpus"]) == ("0", "0")
            without = [c for pod in pods(document) for c in pod["containers"]]
            for container in without:
                limits = container["resources"]["limits"]
                assert limits.keys() == {"cpu", "memory"} or container["name"] == "ray-worker"


def test_only_the_head_that_scales_its_cluster_has_a_token_of_kubernetes() -> None:
    for name in NAMES:
        tokens = [pod["automountServiceAccountToken"] for d in documents(name) for pod in pods(d)]
        assert sum(tokens) == (name == "shards_autoscale")


def test_secrets_are_named_and_nothing_is_of_the_machine_that_launches() -> None:
    text = (GOLDEN / "gpu_queue_s3.yaml").read_text("utf-8")
    assert text.count("secretRef:\n                name: object-storage\n") == 2
    for name in NAMES:
        text = rendered(name)
        for own in (str(REPOSITORY), str(Path.home()), platform.node(), getpass.getuser()):
            # A user called `ray` or a host called `a` would be in any text.
            assert len(own) < 4 or not re.search(rf"\b{re.escape(own)}\b", text), own


def test_the_second_attempt_has_the_command_of_the_first() -> None:
    entry = documents("gpu_queue_s3")[1]["spec"]["entrypoint"]
    assert entry == (
        "kilobit run /sweep/gpu-queue-s3.yaml budget.seconds=3600 seed=7 "
        "--out s3://bucket/runs/gpu-queue-s3 --continue --take-over --address auto"
    )
    driver = documents("cluster_driver")[-1]["spec"]
    script = driver["template"]["spec"]["containers"][0]["command"][-1]
    assert script.splitlines()[-1].startswith("exec kilobit run /sweep/cluster-driver.yaml --out ")


if __name__ == "__main__":
    for one in NAMES:
        (GOLDEN / f"{one}.yaml").write_text(rendered(one), "utf-8")


def test_models_with_workers_of_their_own_share_pods_of_one_shape(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    judge = {"regime": "judge", "hub": "a/b", "revision": "c", "workers": {"per_model": 3}}
    ranks = {"world_size": 8, "layout": "tensor"}
    large = {"regime": "large", "hub": "a/c", "revision": "c", "workers": {"shards": ranks}}
    path = write_sweep(
        workers={"gpus": 1},
        base_models=[judge, large],
        kubernetes={"image": "k", "gpus_per_node": 8, "claim": "c"},
    )
    (run,) = plan(path, []).runs
    (pods,) = run.pods
    assert (pods.count, pods.least, pods.gpus, pods.ranks) == (2, 2, 8, 8)


@pytest.mark.parametrize("version", VERSIONS)
def test_models_on_nodes_of_their_own_have_groups_of_pods(
    write_sweep: Callable[..., Path], version: str
) -> None:
    own = {"node_labels": {"rack": "a"}, "resources": {"nvme": 0.5}, "gpus": 2, "cpus": 3}
    ranks = {"shards": {"world_size": 4, "layout": "zero3"}}
    models: list[dict[str, object]] = [
        {"regime": "judge", "hub": "a/b", "revision": "c"},
        {"regime": "small", "hub": "a/c", "revision": "c", "workers": own},
        {"regime": "large", "hub": "a/d", "revision": "c", "workers": {**own, **ranks}},
        {"regime": "other", "hub": "a/e", "revision": "c", "workers": {"node_labels": {"x": "y"}}},
    ]
    config = {"image": "k", "claim": "c", "node_selector": {"pool": "ray"}, "gpus_per_node": 8}
    path = write_sweep(workers={"gpus": 1}, base_models=models, kubernetes=config)
    found = plan(path, [])
    objects = list(yaml.safe_load_all(Kubernetes().render(found)))
    assert problems(objects, version) == []
    (job,) = (one for one in objects if one["kind"] == "RayJob")
    judges, labelled, others = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert [one["groupName"] for one in (judges, labelled, others)] == [
        f"workers-{number}" for number in (1, 2, 3)
    ]
    assert {"labels", "resources"}.isdisjoint(judges)
    assert judges["rayStartParams"]["num-gpus"] == "1"
    # Both models of the rack share pods of the larger one: four ranks, half a resource each.
    assert labelled["labels"] == {"rack": "a"}
    assert labelled["resources"] == {"CPU": "12", "GPU": "8", "nvme": "2"}
    assert labelled["replicas"] == 2
    selectors = [one["template"]["spec"]["nodeSelector"] for one in (judges, labelled, others)]
    pool = {"pool": "ray"}
    assert selectors == [pool, {**pool, "rack": "a"}, {**pool, "x": "y"}]
