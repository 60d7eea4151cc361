import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kilobit.evaluators.tasks.published import ifeval
from kilobit.evaluators.tasks.published.ifeval import (
    PUNKT_TYPES,
    Ifeval,
    IfevalTask,
    Prompt,
    ifeval_prompt,
    load_ifeval,
)
from kilobit.evaluators.tasks.sources import DatasetMissingError
from kilobit.evaluators.text_files import json_lines
from kilobit.search.task import Task, make_example
from tests.conftest import REPOSITORY
from tests.support.tasks.ifeval_cases import KINDS, four_scores, instruction_types, records
from tests.support.tasks.records import write_jsonl

# The harness alone, in a process of its own: what it draws itself is seeded, as docs/tasks.md says.
REFERENCE = """
import json, random, sys
import langdetect, nltk
nltk.download = lambda *_: False
from lm_eval.tasks.ifeval import utils
langdetect.DetectorFactory.seed = 0
def seeded(check, doc):
    given = utils.InputExample(doc["key"], doc["instruction_id_list"], doc["prompt"], doc["kwargs"])
    random.seed(doc["key"])
    return check(given, doc["response"]).follow_instruction_list
found = []
for line in open(sys.argv[1], encoding="utf-8"):
    doc = json.loads(line)
    strict = seeded(utils.test_instruction_following_strict, doc)
    found.append([strict, seeded(utils.test_instruction_following_loose, doc)])
flat = {
    f"{level}_level_{name}_acc": fn([docs[at] for docs in found])
    for at, name in enumerate(("strict", "loose"))
    for level, fn in (
        ("inst", utils.agg_inst_level_acc),
        ("prompt", lambda each: sum(map(all, each)) / len(each)),
    )
}
open(sys.argv[2], "w").write(json.dumps([found, flat]))
"""


def task_from(folder: Path, sealed: list[Any], **changes: Any) -> Task:
    """Return a task on `sealed`, with a train and a search file of its own."""
    write_jsonl(folder / "sealed.jsonl", sealed)
    for name, first in (("train", 0), ("search", 50)):
        others = records(random.Random(name), 50)
        for number, record in enumerate(others):
            record["prompt"] = f"{name} {first + number}"
            record["response"] = record["response"].strip() or "Yes."
        write_jsonl(folder / f"{name}.jsonl", others)
    files = {name: {"path": f"{name}.jsonl"} for name in ("train", "search", "sealed")}
    config = IfevalTask.model_validate({"kind": "ifeval", **files, **changes})
    return load_ifeval(config, folder)


def by_the_harness(folder: Path) -> tuple[list[tuple[list[bool], list[bool]]], dict[str, float]]:
    found = folder / "found.json"
    command = [sys.executable, "-c", REFERENCE, str(folder / "sealed.jsonl"), str(found)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    assert found.exists(), done.stderr
    followed, scores = json.loads(found.read_text())
    return followed, scores


@pytest.mark.parametrize("count", [300, pytest.param(2500, marks=pytest.mark.slow)])
def test_every_prompt_is_scored_as_the_harness_scores_it(
    tmp_path: Path, with_punkt: Path, count: int
) -> None:
    cases = records(random.Random(count), count)
    task = task_from(tmp_path, cases)
    expected, scores = by_the_harness(tmp_path)
    responses = {case["prompt"]: case["response"] for case in cases}
    place = {case["prompt"]: number for number, case in enumerate(cases)}
    examples = list(task.splits.sealed)
    assert len(examples) == count
    outputs = [responses[example.input] for example in examples]
    random.seed(1)
    before = random.getstate()
    for output, example in zip(outputs, examples, strict=True):
        strict, loose = expected[place[example.input]]
        assert task.metric.per_example(output, example) == float(all(strict)), example.input
        assert task.metric.columns(output, example) == {
            "instructions": len(strict),
            "strict": sum(strict),
            "loose": sum(loose),
        }, example.input
    assert random.getstate() == before
    assert four_scores(outputs, examples) == pytest.approx(scores, abs=1e-12)
    # The cases say nothing unless each type is followed, missed, and followed only loosely.
    seen: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in KINDS}
    for case, (strict, loose) in zip(cases, expected, strict=True):
        for kind, one, other in zip(case["instruction_id_list"], strict, loose, strict=True):
            seen[kind].append((one, other))
    assert set(seen) == set(instruction_types())
    for kind, results in seen.items():
        assert {True, False} == {strict for strict, _ in results}, kind
    assert sum((False, True) in results for results in seen.values()) >= 12


def test_the_query_of_the_docs_gives_the_four_published_numbers(
    tmp_path: Path, with_punkt: Path
) -> None:
    duckdb = pytest.importorskip("duckdb")
    cases = records(random.Random(4), 50)
    task = task_from(tmp_path, cases)
    responses = {case["prompt"]: case["response"] for case in cases}
    examples = task.splits.sealed
    outputs = [responses[example.input] for example in examples]
    columns = [task.columns(*pair) for pair in zip(outputs, examples, strict=True)]
    predictions = pa.table({"candidate": ["a"] * 50, "rung": [0] * 50, "columns": columns})
    docs = (REPOSITORY / "docs" / "tasks.md").read_text("utf-8")
    query = docs.split("```sql\n", 1)[1].split("```", 1)[0]
    connection = duckdb.connect()
    connection.register("predictions", predictions)
    found = connection.sql(query)
    scores = dict(zip(found.columns, found.fetchall()[0], strict=True))
    assert scores == pytest.approx(four_scores(outputs, examples), abs=1e-12)
    assert len(set(scores.values())) == 4


def test_the_prompts_of_the_examples_are_of_all_types_and_can_be_checked() -> None:
    path = REPOSITORY / "examples" / "data" / "ifeval_search.jsonl"
    found = [ifeval_prompt(record, where) for where, record in json_lines(path)]
    assert len({prompt.text for prompt in found}) == 270
    assert {name for prompt in found for name in prompt.instructions} == set(instruction_types())


def test_the_official_set_is_the_sealed_split(published: Path, tmp_path: Path, punkt: Path) -> None:
    lines = (published / "ifeval" / "input_data.jsonl").read_text("utf-8").splitlines()
    official = [json.loads(line) for line in lines]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(punkt)])
        patch.setenv("NLTK_DATA", str(punkt))
        task = task_from(tmp_path, official)
        examples = list(task.splits.sealed)
        assert len(examples) == 541
        assert task.ask(examples[0].input) == examples[0].input + "\n\n"
        rng = random.Random(3)
        for record in official:
            record["response"] = rng.choice(records(rng, 25))["response"]
        write_jsonl(tmp_path / "sealed.jsonl", official)
        expected, scores = by_the_harness(tmp_path)
        place = {record["prompt"]: number for number, record in enumerate(official)}
        outputs = [official[place[example.input]]["response"] for example in examples]
        for output, example in zip(outputs, examples, strict=True):
            strict, _ = expected[place[example.input]]
            assert task.metric.per_example(output, example) == float(all(strict))
        assert four_scores(outputs, examples) == pytest.approx(scores, abs=1e-12)


def test_all_types_are_covered_by_the_cases_and_known_to_be_25() -> None:
    assert set(KINDS) == set(instruction_types())
    assert len(KINDS) == 25


def test_without_punkt_there_is_one_message_and_only_where_it_is_needed(
    tmp_path: Path, without_punkt: None
) -> None:
    with pytest.raises(DatasetMissingError, match=r"\d+ of 75 prompts have .* punkt_tab"):
        task_from(tmp_path, records(random.Random(1), 25))
    plain = [
        r
        for r in records(random.Random(1), 200)
        if not set(PUNKT_TYPES) & set(r["instruction_id_list"])
    ]
    write_jsonl(tmp_path / "plain.jsonl", plain[20:])
    task = task_from(tmp_path, plain[:20], search={"path": "plain.jsonl"})
    assert len(task.splits.sealed) == 20


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ifeval, "find_spec", lambda name: None if name == "nltk" else 1)
    ifeval._harness.cache_clear()
    with pytest.raises(ValueError, match=r"\(nltk missing\): pip install 'kilobit\[bench\]'"):
        instruction_types()
    ifeval._harness.cache_clear()


def test_the_form_of_the_hub_is_the_same_task(tmp_path: Path, with_punkt: Path) -> None:
    cases = records(random.Random(2), 60)
    local = task_from(tmp_path, cases)
    names = {name for case in cases for given in case["kwargs"] for name in given}
    for case in cases:
        case["kwargs"] = [{name: given.get(name) for name in names} for given in case["kwargs"]]
    assert task_from(tmp_path, cases).splits.sealed == local.splits.sealed


def test_conversations_can_be_learned_from(tmp_path: Path, with_punkt: Path) -> None:
    talks = [{"conversations": [f"Question {i}", f"Answer {i}", "Thanks"]} for i in range(9)]
    write_jsonl(tmp_path / "lima.jsonl", talks)
    cases = records(random.Random(1), 25)
    task = task_from(tmp_path, cases, conversations={"path": "lima.jsonl"})
    assert len(task.splits.train) == 59
    assert task.splits.train[0].target
    alone = task_from(tmp_path, cases, train=None, conversations={"path": "lima.jsonl"})
    assert {e.target for e in alone.splits.train} == {f"Answer {i}" for i in range(9)}


def test_an_output_never_raises(with_punkt: Path) -> None:
    prompt = Prompt(1, "x", ("detectable_format:json_format",), ({},))
    task, example = Ifeval(), make_example("x", "", prompt.as_extra())
    for output in ("[" * 100_000, "9" * 10_000, "\ud800", "\0", "**" * 5000):
        assert task.per_example(output, example) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "field 'prompt' is empty"),
        ({"key": "7"}, "field 'key' must be a whole number, found '7'"),
        ({"instruction_id_list": []}, "'instruction_id_list' must be a list of texts, not empty"),
        ({"instruction_id_list": ["no:such"]}, "there is no instruction type 'no:such'"),
        ({"kwargs": []}, "'kwargs' must hold an object for each instruction"),
        ({"kwargs": [{"nonsense": 1}]}, r"kwargs {'nonsense': 1} don't fit startend:quotation"),
    ],
)
def test_a_malformed_record_is_named(
    tmp_path: Path, with_punkt: Path, change: dict[str, Any], message: str
) -> None:
    good = {
        "key": 1,
        "prompt": "p",
        "instruction_id_list": ["startend:quotation"],
        "kwargs": [{}],
    }
    cases = [good | {"prompt": f"p{i}"} for i in range(5)]
    cases[3] |= change
    with pytest.raises(ValueError, match=rf"sealed\.jsonl, line 4: .*{message}"):
        task_from(tmp_path, cases)


def test_a_training_record_needs_a_response(tmp_path: Path, with_punkt: Path) -> None:
    with pytest.raises(ValueError, match=r"sealed\.jsonl, line 1: field 'response' must be a text"):
        task_from(
            tmp_path,
            [
                {k: v for k, v in r.items() if k != "response"}
                for r in records(random.Random(1), 25)
            ],
            train={"path": "sealed.jsonl"},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "give `train` or `conversations`"),
        ({"conversations": {"path": "c"}}, "give `search`"),
        ({"train": {"path": "c", "dataset": "d"}}, "give either `path`"),
        ({"train": {"dataset": "d"}}, "needs a `split`"),
        ({"train": {"path": "d", "split": "train"}}, "`split` belongs to `dataset`"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IfevalTask.model_validate({"kind": "ifeval", "sealed": {"path": "s"}, **changes})
