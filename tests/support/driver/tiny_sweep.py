"""A sweep of seconds on an embedded model: three prompts, a constant and the copy."""

from tests.conftest import REPOSITORY

SWEEP = {
    "name": "tiny",
    "task": {"kind": "miniature", "name": "numbers"},
    "base_models": [
        {"regime": "pretrained", "path": str(REPOSITORY / "examples" / "tiny" / "pretrained")}
    ],
    "families": {"prompt": {"candidates": 3, "demonstrations": [0, 1]}},
    "model_free": {"constants": 1, "copy_input": True},
    "rungs": {"examples": 4, "eta": 2, "count": 2},
}
