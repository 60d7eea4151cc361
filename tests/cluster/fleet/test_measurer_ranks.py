"""A base model that is spread over two ranks is measured as it is in one process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilobit.cluster.fleet.measurer import Measured, Measurer, measurer_of
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.fronts import RunFront
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.battery.config import Battery
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate, Prompt
from tests.support.cli.finished import finished_run
from tests.support.shards.forks import Forks

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.timeout(300)
RUNGS = {"examples": 2, "train_steps": 2, "eta": 2, "count": 1}


def adapter(method: str, **settings: Any) -> AdapterSpec:
    # So far that each changes outputs: an adapter that changes none is left out.
    more = {"learning_rate": 30.0, "steps": 2, "batch_size": 2, "seed": 0}
    return AdapterSpec(method=method, **(more | settings))


CANDIDATES = {
    "lora": Candidate(
        task="numbers",
        model="llama",
        prompt=Prompt(instruction="Zahl:"),
        adapter=adapter("lora", rank=1, target_modules=("q_proj", "down_proj")),
    ),
    "soft_prompt": Candidate(task="numbers", model="llama", adapter=adapter("soft_prompt", size=2)),
    "fourierft": Candidate(
        task="numbers",
        model="llama",
        adapter=adapter("fourierft", size=8, target_modules=("q_proj",)),
    ),
}


@pytest.fixture(scope="module")
def battery(tmp_path_factory: pytest.TempPathFactory) -> tuple[Battery, Path]:
    """Return a battery that asks for answers and probabilities, also by the harness."""
    folder = tmp_path_factory.mktemp("battery")
    (folder / "held_out.txt").write_text("Two apples.\n\nThree pears and a plum.\n", "utf-8")
    rows = [{"question": f"{i} and 1?", "choices": [f" {i + 1}", " none"]} for i in range(3)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(folder / "rows.jsonl")},
            "cache_dir": str(folder / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "Q: {{question}}\nA:",
    }
    choice = {
        "task": "our_choice",
        "output_type": "multiple_choice",
        "doc_to_target": 0,
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }
    words = {
        "task": "our_words",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    for task in (choice, words):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(common | task), "utf-8")
    told = {
        "tasks": [{"task": {"kind": "miniature", "name": "translation"}, "examples": 2}],
        "perplexity": {"file": "held_out.txt"},
        "game": None,
        "safety": None,
        "harness": [
            {"task": "our_choice", "include": ".", "metric": "acc"},
            {"task": "our_words", "include": ".", "metric": "exact_match"},
        ],
    }
    return Battery.model_validate(told), folder


def measured(run: RunFolder, rows: Callable[..., Any]) -> dict[str, list[Measured]]:
    """Return what is measured bare and with each program."""
    by_id = {candidate.id: name for name, candidate in CANDIDATES.items()}
    found = {"bare": rows("llama", None)[0]}
    # Others are of steps on the output of these.
    for point in (point for point in RunFront(run).points if point.candidate in by_id):
        found[by_id[point.candidate]] = rows("llama", point)[0]
    return found


@pytest.mark.parametrize("layout", ["tensor", pytest.param("zero3", marks=pytest.mark.slow)])
def test_two_ranks_measure_what_one_process_measures(
    layout: str,
    write_sweep: Callable[..., Path],
    battery: tuple[Battery, Path],
    tmp_path: Path,
) -> None:
    run = finished_run(write_sweep(rungs=RUNGS), tmp_path, list(CANDIDATES.values()))
    given = (run.path, RunFront(run).points, *battery)
    alone = Measurer(*given)
    expected = measured(run, alone.rows)
    alone.close()
    assert expected.keys() == {"bare", *CANDIDATES}
    assert len({repr(found) for found in expected.values()}) == len(expected)
    told = {"world_size": 2, "layout": layout, "timeout_s": 60.0}
    shards = ShardsConfig.model_validate(told)
    with Forks(shards, measurer_of, shards, *given) as ranks:

        def of_both(*asked: Any) -> Any:
            one, other = ranks.each("rows", *asked)
            assert one == other
            return one

        found = measured(run, of_both)
    refused = found.pop("fourierft")
    assert all("has to be installed in the model" in str(one.found) for one in refused)
    for name, items in found.items():
        for one, wanted in zip(items, expected[name], strict=True):
            assert (one.item, one.better) == (wanted.item, wanted.better)
            assert not isinstance(one.found, str), one.found
            assert not isinstance(wanted.found, str), wanted.found
            texts = [(row.example, row.tags, row.output) for row in one.found]
            assert texts == [(row.example, row.tags, row.output) for row in wanted.found]
            values = [row.value for row in wanted.found]
            assert [row.value for row in one.found] == pytest.approx(values, abs=1e-4)
