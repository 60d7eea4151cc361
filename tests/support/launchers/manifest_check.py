"""Manifests checked without a cluster: by KubeRay's schemas, strictly, and by what no schema says.

A field that the schema does not name is a problem, as with `kubectl --validate=strict`. Rules in
CEL are not evaluated; a manifest with a field that has one is a problem too, so none is missed.
"""

import json
import lzma
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft4Validator

Object = dict[str, Any]
VERSIONS = ("v1.6.2", "v1.7.0")
_FOLDER = Path(__file__).parent / "kuberay"
_PLURALS = {"RayJob": "rayjobs", "RayCluster": "rayclusters"}
_METADATA: Object = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}},
    },
}
_SECRET = re.compile(r"key|token|password|secret|credential", re.IGNORECASE)


def problems(documents: Sequence[Object], version: str) -> list[str]:
    """Return what is wrong with the manifests of one launch."""
    found = [p for document in documents for p in _schema_problems(document, version)]
    return found + [p for document in documents for p in _other_problems(document, documents)]


def _schema_problems(document: Object, version: str) -> Iterator[str]:
    schema = schema_of(document, version)
    for error in Draft4Validator(closed(schema)).iter_errors(document):
        place = "/".join(map(str, error.absolute_path))
        yield f"{document['kind']}/{place}: {error.message[:200]}"
    for place in _with_rules(schema, document, document["kind"]):
        yield f"{place}: there is a rule in CEL that is not evaluated here"


def schema_of(document: Object, version: str) -> Object:
    """Return the schema of a document, with one for `metadata`, which definitions leave open."""
    kind = document["kind"]
    if kind in _PLURALS:
        schema: Object = json.loads(
            lzma.decompress((_FOLDER / version / f"{_PLURALS[kind]}.json.xz").read_bytes())
        )
        schema["properties"]["metadata"] = _METADATA
        return schema
    known = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": _METADATA}
    if kind == "ConfigMap":
        texts = {"type": "object", "additionalProperties": {"type": "string"}}
        return {"type": "object", "properties": {**known, "data": texts}}
    assert kind == "Job"
    return {"type": "object", "properties": {**known, "spec": _job_spec(version)}}


def _job_spec(version: str) -> Object:
    """Return a schema of what we use of a Job; its pods are those of a RayCluster's head."""
    cluster = schema_of({"kind": "RayCluster"}, version)["properties"]["spec"]
    number = {"type": "integer", "minimum": 0}
    codes = {
        "type": "object",
        "required": ["operator", "values"],
        "properties": {
            "containerName": {"type": "string"},
            "operator": {"enum": ["In", "NotIn"]},
            "values": {"type": "array", "items": {"type": "integer"}},
        },
    }
    condition = {"type": "object", "properties": {"type": {"type": "string"}}}
    rule = {
        "type": "object",
        "required": ["action"],
        "properties": {
            "action": {"enum": ["FailJob", "Ignore", "Count"]},
            "onExitCodes": codes,
            "onPodConditions": {"type": "array", "items": condition},
        },
    }
    policy = {"type": "object", "properties": {"rules": {"type": "array", "items": rule}}}
    return {
        "type": "object",
        "required": ["template"],
        "properties": {
            "backoffLimit": number,
            "ttlSecondsAfterFinished": number,
            "activeDeadlineSeconds": number,
            "podFailurePolicy": policy,
            "template": cluster["properties"]["headGroupSpec"]["properties"]["template"],
        },
    }


def closed(schema: Any) -> Any:
    """Return a Kubernetes schema as JSON schema in which no object may have unknown fields."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found: Object = {}
    for key, value in schema.items():
        if key == "properties":
            found[key] = {name: closed(below) for name, below in value.items()}
        elif key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "not"):
            found[key] = closed(value)
        elif key not in ("default", "format", "nullable") and not key.startswith("x-kubernetes"):
            found[key] = value
    open_to_all = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if schema.get("type") == "object" and "additionalProperties" not in found and not open_to_all:
        found["additionalProperties"] = False
    if schema.get("nullable") and "type" in found:
        found["type"] = [found["type"], "null"]
    return found


def _with_rules(schema: Object, value: Any, place: str) -> Iterator[str]:
    if "x-kubernetes-validations" in schema:
        yield place
    if isinstance(value, dict):
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, below in value.items():
            under = known.get(key, others)
            if isinstance(under, dict):
                yield from _with_rules(under, below, f"{place}/{key}")
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from _with_rules(schema.get("items", {}), below, f"{place}/{position}")


def _other_problems(document: Object, documents: Sequence[Object]) -> Iterator[str]:
    """Yield what the operator or Kubernetes refuses although it fits the schema, and what we do."""
    spec, name = document.get("spec", {}), document["metadata"]["name"]
    if document["kind"] == "RayJob":
        if len(name) > 47:
            yield f"{name}: a RayJob's name has at most 47 characters"
        if not spec["shutdownAfterJobFinishes"] and (
            spec.get("suspend") or spec.get("ttlSecondsAfterFinished")
        ):
            yield "suspend and ttlSecondsAfterFinished need shutdownAfterJobFinishes"
        yield from _cluster_problems(spec["rayClusterSpec"], document["metadata"]["labels"])
    elif document["kind"] == "RayCluster":
        if len(name) > 53:
            yield f"{name}: a RayCluster's name has at most 53 characters"
        yield from _cluster_problems(spec, document["metadata"]["labels"])
    for pod in pods(document):
        yield from _pod_problems(pod, documents)


def _cluster_problems(spec: Object, labels: Mapping[str, str]) -> Iterator[str]:
    version = tuple(map(int, spec["rayVersion"].split(".")))
    if spec.get("authOptions", {}).get("mode") != "token" or version < (2, 52, 0):
        yield "authOptions.mode has to be token, which needs rayVersion 2.52.0"
    scales = spec.get("enableInTreeAutoscaling", False)
    if scales and "kueue.x-k8s.io/queue-name" in labels:
        yield "Kueue takes no cluster that scales itself"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        if "resources" in group and {"num-cpus", "num-gpus"} & set(group["rayStartParams"]):
            yield "CPUs and GPUs are given twice, in rayStartParams and in resources"
        if scales and group["template"]["spec"].get("restartPolicy") != "Never":
            yield "pods of a cluster that scales itself have restartPolicy Never"
    for group in spec["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield "minReplicas <= replicas <= maxReplicas does not hold"
        if not scales and group["minReplicas"] != group["maxReplicas"]:
            yield "a cluster of a fixed size has as many pods at least as at most"
        amounts = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        gpus = sum(int(a) for key, a in amounts.items() if key not in ("cpu", "memory"))
        told = group.get("resources", {}).get("GPU") or group["rayStartParams"]["num-gpus"]
        if told != str(gpus):
            yield "Ray is told of other GPUs than the pod has"


def pods(document: Object) -> list[Object]:
    """Return all pod specifications in a document."""
    found: list[Object] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if "containers" in value:
                found.append(value)
            for below in value.values():
                look(below)
        elif isinstance(value, list):
            for below in value:
                look(below)

    look(document)
    return found


def _pod_problems(pod: Object, documents: Sequence[Object]) -> Iterator[str]:
    inside = pod["securityContext"]
    if not inside["runAsNonRoot"] or inside["runAsUser"] < 1 or inside["fsGroup"] < 1:
        yield "a pod may run as root"
    if inside["seccompProfile"] != {"type": "RuntimeDefault"}:
        yield "a pod has no seccomp profile"
    for container in pod["containers"]:
        confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        if container["securityContext"] | {"readOnlyRootFilesystem": True} != confined | {
            "readOnlyRootFilesystem": True
        }:
            yield "a container may get privileges"
        if container["resources"]["requests"] != container["resources"]["limits"]:
            yield "a container may use more than it asked for"
        for variable in container.get("env", []):
            if _SECRET.search(variable["name"]) and "value" in variable:
                yield f"{variable['name']} is given with its value"
        yield from _mount_problems(container, pod, documents)


def _mount_problems(container: Object, pod: Object, documents: Sequence[Object]) -> Iterator[str]:
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    files = {d["metadata"]["name"]: d["data"] for d in documents if d["kind"] == "ConfigMap"}
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"])
        if volume is None:
            yield f"there is no volume {mount['name']}"
        elif "configMap" in volume and mount["subPath"] not in files[volume["configMap"]["name"]]:
            yield f"the ConfigMap has no {mount['subPath']}"
