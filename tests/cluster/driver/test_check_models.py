"""Chat templates when a sweep is checked: which models have one, turns, thinking, and warnings."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kilobit.cluster.driver.attempt import _rebuild
from kilobit.cluster.driver.check import check_sweep
from kilobit.cluster.runs.folder import create_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.search.settings import InputError

PLAIN = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
THINKING = PLAIN + "{{ '<think>\\n' }}"


@pytest.mark.parametrize(
    ("template", "chat", "settings", "warned"),
    [
        (THINKING, True, {}, True),
        (THINKING, True, {"enable_thinking": False}, False),
        (PLAIN, True, {}, False),
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
        "r thinks in its chat template, and t"
    ] * warned


@pytest.mark.parametrize(
    ("template", "chat", "warned"),
    [
        (THINKING, [False], True),
        (THINKING, [False, True], False),
        (THINKING, None, False),
        (None, [False], False),
    ],
)
def test_a_chat_template_that_no_family_uses(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    template: str | None,
    chat: list[bool] | None,
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
    assert all(one.startswith("r has a chat template, and all families have") for one in found)


@pytest.mark.parametrize("dry", [True, False])
def test_each_model_is_asked_as_it_is_meant_to_be(
    write_sweep: Callable[..., Path], model_folders: dict[str, Path], tmp_path: Path, dry: bool
) -> None:
    shutil.copytree(model_folders["llama"], tmp_path / "instruct")
    (tmp_path / "instruct" / "chat_template.jinja").write_text(PLAIN, "utf-8")
    models = [
        {"regime": "base", "path": str(model_folders["llama"])},
        {"regime": "instruct", "path": str(tmp_path / "instruct")},
    ]
    path = write_sweep(base_models=models)
    plan = check_sweep(load_sweep(path), path.parent, dry=dry)
    assert plan.templates == {"instruct"}
    chats = {(one.model, one.chat, one.turns) for one in plan.candidates}
    assert chats == {("base", False, False), ("instruct", True, True)}
    with create_run(load_sweep(path), path, tmp_path / "run") as run:
        recorder, _ = _rebuild(run, plan)
        assert [recorder.propose(one.model) for one in plan.candidates] == [*plan.candidates]
    # Where all families say what they mean, the template need not be known.
    said = {"prompt": {"candidates": 4, "chat": [False, True], "demonstrations": [0]}}
    path = write_sweep(base_models=models[1:], families=said)
    plan = check_sweep(load_sweep(path), path.parent, dry=dry)
    assert {one.chat for one in plan.candidates} == {False, True}


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ messages[0].content }}", "it does not show each turn once"),
        ("{{ messages[-1].content }}", "it does not show each turn once"),
        (PLAIN + "{{ raise_exception('users only') if messages | length > 1 }}", "users only"),
    ],
)
def test_a_template_that_takes_no_turns(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    template: str,
    why: str,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model_folders["llama"], folder)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    models = [{"regime": "r", "path": str(folder)}]
    path = write_sweep(base_models=models)
    with pytest.raises(InputError, match=f"families.prompt.turns: the chat template of .*{why}"):
        check_sweep(load_sweep(path), path.parent)
    for changes in ({"turns": False}, {"demonstrations": [0]}, {"chat": [False]}):
        settings = {"prompt": {"candidates": 2, "demonstrations": [0, 1], **changes}}
        path = write_sweep(base_models=models, families=settings)
        check_sweep(load_sweep(path), path.parent, dry=True)


def test_a_model_that_is_not_here_may_have_a_template(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    models = [{"regime": "r", "path": str(tmp_path / "on_nodes")}]
    path = write_sweep(base_models=models)
    # To begin without it would be another search than to go on with it.
    with pytest.raises(InputError, match=r"whether .*on_nodes has a chat template is not known"):
        check_sweep(load_sweep(path), tmp_path, local=False)
    plan = check_sweep(load_sweep(path), tmp_path, local=False, dry=True)
    assert plan.unchecked[-1].startswith("base_models.0: whether ")
    assert not any(one.chat for one in plan.candidates)
