import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.evaluators.tasks.registry import TASK_KINDS, MiniatureTask, TaskConfig, load_task
from tests.support.tasks.records import write_jsonl

ADAPTER = TypeAdapter(TaskConfig)
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gsm8k": ({}, {"question": "{}?", "answer": "#### 4"}),
    "math": ({}, {"problem": "{}?", "solution": "\\boxed{4}", "level": 1, "type": "Algebra"}),
    "esnli": ({}, {"premise": "{}.", "hypothesis": "It is so.", "label": 0}),
    "instructions": ({"metric": "contains"}, {"conversations": ["{}?", "Yes."]}),
    "wmt14": ({"direction": "en-de"}, {"translation": {"en": "{}", "de": "{} auf Deutsch"}}),
    "ifeval": (
        {},
        {
            "prompt": "{}",
            "key": 1,
            "response": "Yes.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        },
    ),
    "flores": (
        {"source": "eng_Latn", "target": "deu_Latn", "dataset": "./data"},
        {"sentence_eng_Latn": "{}", "sentence_deu_Latn": "{} auf Deutsch"},
    ),
}


@pytest.mark.parametrize("name", MINIATURE_TASKS)
def test_a_built_in_task_is_the_one_of_its_name_and_seed(name: str) -> None:
    config = ADAPTER.validate_python({"kind": "miniature", "name": name, "seed": 3})
    assert isinstance(config, MiniatureTask)
    assert load_task(config, Path("nowhere")).splits == load_miniature(name, 3).splits


def test_every_kind_is_there_once_and_an_unknown_one_is_refused() -> None:
    assert len(TASK_KINDS) == len(set(TASK_KINDS)) == 12
    assert {"miniature", "jsonl", "gsm8k", "ifeval", "wmt14"} <= set(TASK_KINDS)
    with pytest.raises(ValidationError, match=r"does not match any of the expected tags.*gsm8k"):
        ADAPTER.validate_python({"kind": "gsm9k"})


def filled(value: Any, text: str) -> Any:
    if isinstance(value, dict):
        return {key: filled(one, text) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, text) for one in value]
    return value.replace("{}", text) if isinstance(value, str) else value


@pytest.fixture
def in_clusters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes records in clusters, and returns the settings of their task."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def write(kind: str) -> dict[str, Any]:
        settings, record = PUBLISHED[kind]
        data = tmp_path / "data"
        # The sealed clusters 55 to 59 have one more record each among those for training.
        for name, numbers in (("dev", range(280)), ("devtest", range(275, 330))):
            records = [
                {**filled(record, f"text {n}"), "page": 55 + n % 5 if n >= 275 else n // 5}
                for n in numbers
                if name == "dev" or n >= 280
            ]
            (data / name).mkdir(parents=True)
            write_jsonl(data / name / "all.jsonl", records)
        files = "".join(f"  - split: {s}\n    path: {s}/*.jsonl\n" for s in ("dev", "devtest"))
        card = f"---\nconfigs:\n- config_name: eng_Latn-deu_Latn\n  data_files:\n{files}---\n"
        (data / "README.md").write_text(card)
        if "dataset" not in settings:
            paths = {"train": "data/dev/all.jsonl", "sealed": "data/devtest/all.jsonl"}
            settings = settings | {name: {"path": path} for name, path in paths.items()}
        return {"kind": kind, **settings}

    return write


@pytest.mark.parametrize("kind", PUBLISHED)
def test_clusters_of_published_records_stay_in_one_split(
    in_clusters: Any, tmp_path: Path, kind: str
) -> None:
    settings = in_clusters(kind)
    config = ADAPTER.validate_python(settings | {"cluster_field": "page"})
    splits = load_task(config, tmp_path).splits
    train, search, sealed = (
        {example.cluster for example in split}
        for split in (splits.train, splits.search, splits.sealed)
    )
    # The sealed split is whole; what shares a cluster with it is left out of the others.
    assert (sealed, len(splits.sealed)) == ({"55", "56", "57", "58", "59"}, 50)
    assert len(train) > 5 < len(search)
    assert (len(train) + len(search), train & search) == (55, set())
    assert len(splits.train) + len(splits.search) == 275
    plain = load_task(ADAPTER.validate_python(settings), tmp_path).splits
    assert {example.cluster for example in plain.sealed} == {None}
    assert len(plain.train) + len(plain.search) == 280
    other = ADAPTER.validate_python(settings | {"cluster_field": "user"})
    with pytest.raises(ValueError, match="field 'user' must be a text or a number, found nothing"):
        load_task(other, tmp_path)


@pytest.mark.parametrize("kind", ["gsm8k", "ifeval"])
def test_more_records_for_training_may_lack_the_cluster(
    in_clusters: Any, tmp_path: Path, kind: str
) -> None:
    pages: list[dict[str, Any]] = [{"page": 57}, {}, {"page": "x"}]
    made = {"type": "GSM_x", "response": "The answer is: 4"}
    records = [
        {**made, "query": f"more {n}", "conversations": [f"more {n}", "4"], **page}
        for n, page in enumerate(pages)
    ]
    write_jsonl(tmp_path / "more.jsonl", records)
    source = {"path": "more.jsonl"}
    more = {"metamath": [source]} if kind == "gsm8k" else {"conversations": source}
    config = ADAPTER.validate_python(in_clusters(kind) | {"cluster_field": "page"} | more)
    splits = load_task(config, tmp_path).splits
    learned = {e.input: e.cluster for e in splits.train if e.input.startswith("more")}
    assert learned == {"more 1": None, "more 2": "x"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "miniature", "name": "numbers"}, "cluster_field\n.*Extra inputs"),
        (
            {"kind": "flores", "source": "eng_Latn", "target": "deu_Latn", "folder": "."},
            "the text files of `folder` have none",
        ),
        (
            {
                "kind": "wmt14",
                "direction": "en-de",
                "train": {"path": "a.jsonl"},
                "sealed": {"texts": {"en": "a", "de": "b"}},
            },
            "`cluster_field: page` names a field of records, and the text files of `texts`",
        ),
    ],
)
def test_a_cluster_of_records_without_fields_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    ADAPTER.validate_python(settings)
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(settings | {"cluster_field": "page"})


def test_a_split_of_few_targets_is_balanced_unless_the_settings_say_otherwise(
    tmp_path: Path,
) -> None:
    records = [{"input": f"{i}", "target": "no" if i % 9 else "yes"} for i in range(400)]
    write_jsonl(tmp_path / "d.jsonl", records)
    task = {"kind": "jsonl", "name": "t", "data": "d.jsonl", "metric": "exact_match"}
    balanced, drawn = (
        load_task(ADAPTER.validate_json(json.dumps(task | more)), tmp_path).splits
        for more in ({}, {"balance": False})
    )
    assert balanced == drawn.balanced() != drawn
