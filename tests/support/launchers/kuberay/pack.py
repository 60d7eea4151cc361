"""Pack the resource definitions of a KubeRay version into the small files beside this one.

python tests/support/launchers/kuberay/pack.py VERSION ray.io_rayjobs.yaml ray.io_rayclusters.yaml

The files are in `helm-chart/kuberay-operator/crds` of https://github.com/ray-project/kuberay at the
tag of the version. Kept is the schema of `v1`, without its descriptions.
"""

import json
import lzma
import sys
from pathlib import Path
from typing import Any

import yaml


def without_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: without_descriptions(value)
            for key, value in node.items()
            if not (key == "description" and isinstance(value, str))
        }
    return [without_descriptions(one) for one in node] if isinstance(node, list) else node


def pack(version: str, file: Path) -> None:
    definition = yaml.safe_load(file.read_text("utf-8"))
    names, versions = definition["spec"]["names"], definition["spec"]["versions"]
    schema = next(v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    text = json.dumps(without_descriptions(schema), separators=(",", ":"), sort_keys=True)
    target = Path(__file__).parent / version / f"{names['plural']}.json.xz"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    for name in sys.argv[2:]:
        pack(sys.argv[1], Path(name))
