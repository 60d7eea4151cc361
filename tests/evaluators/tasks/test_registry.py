from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.evaluators.tasks.registry import TASK_KINDS, MiniatureTask, TaskConfig, load_task

ADAPTER = TypeAdapter(TaskConfig)


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_a_built_in_task_is_the_one_of_its_name_and_seed(name: str) -> None:
    config = ADAPTER.validate_python({"kind": "miniature", "name": name, "seed": 3})
    assert isinstance(config, MiniatureTask)
    assert load_task(config, Path("nowhere")).splits == load_miniature(name, 3).splits


def test_every_kind_is_there_once_and_an_unknown_one_is_refused() -> None:
    assert len(TASK_KINDS) == len(set(TASK_KINDS)) == 10
    assert {"miniature", "jsonl", "gsm8k", "ifeval", "wmt14"} <= set(TASK_KINDS)
    with pytest.raises(ValidationError, match=r"does not match any of the expected tags.*gsm8k"):
        ADAPTER.validate_python({"kind": "gsm9k"})
