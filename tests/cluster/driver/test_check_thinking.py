"""The dry run's warnings about chat templates: thinking up to a line end, and one not used."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.driver.check import check_sweep
from kilobit.cluster.sweep.sweep import load_sweep

THINKING = "{{ messages[0].content }}{{ '<think>\\n' }}"


@pytest.mark.parametrize(
    ("template", "chat", "settings", "warned"),
    [
        (THINKING, True, {}, True),
        (THINKING, True, {"enable_thinking": False}, False),
        ("{{ messages[0].content }}", True, {}, False),
    ],
)
def test_thinking_and_a_line_end_as_stop(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    template: str,
    chat: bool,
    settings: dict[str, Any],
    warned: bool,
) -> None:
    folder = tmp_path / "thinker"
    shutil.copytree(model_folders["llama"], folder)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    models = [{"regime": "r", "path": str(folder), **settings}]
    families = {"prompt": {"candidates": 2, "chat": [chat]}}
    path = write_sweep(base_models=models, families=families)
    warnings = check_sweep(load_sweep(path), path.parent, local=False).warnings
    assert [warning[:36] for warning in warnings] == [
        "r thinks in its chat template, and th"[:36]
    ] * warned


@pytest.mark.parametrize(
    ("template", "chat", "warned"),
    [(THINKING, [False], True), (THINKING, [False, True], False), (None, [False], False)],
)
def test_a_chat_template_that_no_family_uses(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    template: str | None,
    chat: list[bool],
    warned: bool,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folders["llama"], folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    models = [{"regime": "r", "path": str(folder)}]
    path = write_sweep(base_models=models, families={"prompt": {"candidates": 2, "chat": chat}})
    warnings = check_sweep(load_sweep(path), path.parent, local=False).warnings
    found = [one for one in warnings if "has a chat template" in one]
    assert len(found) == warned
    assert all(one.startswith("r has a chat template, and no family has") for one in found)
