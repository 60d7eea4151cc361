import json
from pathlib import Path

import yaml

from kilobit.evaluators.judges.judges import load_judge
from kilobit.evaluators.tasks.jsonl import JsonlTask
from tests.conftest import REPOSITORY


def test_the_examples_of_the_page_are_valid(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "preference.md").read_text("utf-8")
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    kinds = []
    for block in blocks:
        if block.startswith("task:"):
            task = yaml.safe_load(block)["task"]
            JsonlTask.model_validate_json(json.dumps(task), strict=True)
            continue
        (tmp_path / "judge.yaml").write_text(block, "utf-8")
        kinds.append(load_judge(tmp_path / "judge.yaml").kind)
    assert kinds == ["endpoint", "model", "file"]
    assert len(blocks) == 4
