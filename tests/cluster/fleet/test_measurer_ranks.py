"""A base model that is spread over two ranks is measured as it is in one process."""

import json
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilobit.cluster.fleet.measurer import Measured, Measurer
from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.fronts import RunFront
from kilobit.cluster.shards import process_group
from kilobit.cluster.shards.process_group import RankAddress
from kilobit.cluster.sweep.workers import ShardsConfig
from kilobit.evaluators.battery.config import Battery
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate, Prompt
from tests.support.cli.finished import finished_run

pytest.importorskip("lm_eval")
import kilobit.evaluators.battery.harness  # noqa: F401 - before the ranks are forked

pytestmark = pytest.mark.timeout(300)
RUNGS = {"examples": 2, "train_steps": 2, "eta": 2, "count": 1}
TIMEOUT_S = 60.0


def adapter(method: str, **settings: Any) -> AdapterSpec:
    more = {"learning_rate": 1.0, "steps": 2, "batch_size": 2, "seed": 0}
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


def rows_of(measurer: Measurer, run: RunFolder) -> dict[str, list[Measured]]:
    """Return what is measured bare and with each program, without the seconds."""
    by_id = {candidate.id: name for name, candidate in CANDIDATES.items()}
    found = {"bare": measurer.rows("llama", None)[0]}
    # Others are of steps on the output of these.
    for point in (point for point in RunFront(run).points if point.candidate in by_id):
        found[by_id[point.candidate]] = measurer.rows("llama", point)[0]
    measurer.close()
    return found


def serve(end: Connection, rank: int, port: int, layout: str, run: RunFolder, *of: Any) -> None:
    """Measure as one of two ranks, and send what was found."""
    told = {"world_size": 2, "layout": layout, "timeout_s": TIMEOUT_S}
    address = RankAddress(rank, 2, rank, 2, "127.0.0.1", port)
    try:
        listener = socket.create_server(("127.0.0.1", port)) if rank == 0 else None
        process_group.join(address, "cpu", TIMEOUT_S, listener)
        shards = ShardsConfig.model_validate(told)
        measurer = Measurer(run.path, RunFront(run).points, *of, rank=(shards, address))
        end.send(rows_of(measurer, run))
    except Exception as error:  # noqa: BLE001 - the parent raises it
        end.send(error)


@pytest.fixture
def on_two() -> Iterator[Callable[..., dict[str, list[Measured]]]]:
    """Return a function that measures on two ranks, forks of this process, which find the same."""
    context = multiprocessing.get_context("fork")
    ranks = []

    def measured(*of: Any) -> dict[str, list[Measured]]:
        with process_group.listen("127.0.0.1") as taken:
            port = taken.getsockname()[1]
        ends = []
        for rank in range(2):
            ours, theirs = context.Pipe()
            ranks.append(context.Process(target=serve, args=(theirs, rank, port, *of)))
            ranks[-1].start()
            ends.append(ours)
        found = []
        for end in ends:
            assert end.poll(2 * TIMEOUT_S), "a rank did not answer"
            found.append(end.recv())
        for one in found:
            if isinstance(one, Exception):
                raise one
        assert found[0] == found[1]
        one = found[0]
        assert isinstance(one, dict)
        return one

    yield measured
    for rank in ranks:
        rank.kill()
        rank.join()


@pytest.mark.parametrize("layout", ["tensor", pytest.param("zero3", marks=pytest.mark.slow)])
def test_two_ranks_measure_what_one_process_measures(
    layout: str,
    write_sweep: Callable[..., Path],
    battery: tuple[Battery, Path],
    on_two: Callable[..., dict[str, list[Measured]]],
    tmp_path: Path,
) -> None:
    run = finished_run(write_sweep(rungs=RUNGS), tmp_path, list(CANDIDATES.values()))
    expected = rows_of(Measurer(run.path, RunFront(run).points, *battery), run)
    assert expected.keys() == {"bare", *CANDIDATES}
    assert len({repr(found) for found in expected.values()}) == len(expected)
    found = on_two(layout, run, *battery)
    alone = found.pop("fourierft")
    assert all("has to be installed in the model" in str(one.found) for one in alone)
    for name, items in found.items():
        for one, wanted in zip(items, expected[name], strict=True):
            assert (one.item, one.better) == (wanted.item, wanted.better)
            assert not isinstance(one.found, str), one.found
            assert not isinstance(wanted.found, str), wanted.found
            told = [(row.example, row.tags, row.output) for row in one.found]
            assert told == [(row.example, row.tags, row.output) for row in wanted.found]
            values = [row.value for row in wanted.found]
            assert [row.value for row in one.found] == pytest.approx(values, abs=1e-4)
