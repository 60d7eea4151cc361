"""Where results come from: attempts, hosts, versions and digests, as the report tells them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kilobit.cluster.runs.report_parts import origin_of
from kilobit.cluster.runs.result_sources import Source
from kilobit.cluster.sweep.sweep import Sweep, load_sweep
from kilobit.evaluators.ledger.parts import TABLES
from kilobit.evaluators.report.contents import Origin

Rows = Sequence[Mapping[str, Any]]


@pytest.fixture
def sweep(write_sweep: Callable[..., Path]) -> Sweep:
    models: list[dict[str, Any]] = [
        {"regime": "small", "path": "models/small"},
        {"regime": "large", "hub": "maker/large", "revision": "main"},
    ]
    return load_sweep(write_sweep(base_models=models, seed=7))


def origin(sweep: Sweep, about: Mapping[str, Any], **tables: Rows) -> Origin:
    """Return what is known of a run with this `run.json` and these rows."""

    def read(table: str, columns: Sequence[str] | None = None) -> pa.Table:
        rows = pa.Table.from_pylist(list(tables.get(table, ())), schema=TABLES[table])
        return rows if columns is None else rows.select(columns)

    place = Path("runs/one")
    return origin_of(Source("one", place, place, about, sweep, read, lambda _: {}))


def test_a_run_that_says_nothing_of_itself_has_no_empty_facts(sweep: Sweep) -> None:
    found = origin(sweep, {})
    assert (found.run, found.folder) == ("one", "runs/one")
    assert dict(found.facts) == {"seed": "7", "workers": "0 model loads on unknown hosts"}
    assert (found.attempts, found.versions, found.sweep) == ([], {}, "null")


def test_facts_are_those_of_the_driver_and_of_all_workers(sweep: Sweep) -> None:
    about = {
        "created_at": "2026-01-02T03:00:00+00:00",
        "machine": {"processor": "x86_64", "cores": 16},
        "python": "3.12.1",
        "ledger_schema": 3,
    }
    workers = [{"worker": f"w-{i}", "host": f"node{i % 10}"} for i in range(12)]
    facts = dict(origin(sweep, about, workers=workers).facts)
    assert facts["begun"] == "2026-01-02T03:00:00+00:00"
    assert facts["driver"] == "x86_64, 16 cores, Python 3.12.1"
    hosts = ", ".join(f"node{i}" for i in range(8))
    assert facts["workers"] == f"12 model loads on {hosts} and 2 more"
    assert facts["ledger schema"] == "3"
    assert "verified on" not in facts


def test_each_environment_of_verifications_is_named_once(sweep: Sweep) -> None:
    gpu = json.dumps({"device": "cuda", "dtype": "bfloat16", "machine": "a"})
    cpu = json.dumps({"device": "cpu", "dtype": "float32"})
    rows = [{"verified_on": text} for text in (gpu, cpu, gpu, None, "not JSON", "[3]")]
    facts = dict(origin(sweep, {}, verifications=rows).facts)
    assert facts["verified on"] == "cpu, float32; cuda, bfloat16, a"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/opt/bin/kilobit", "run", "my sweep.yaml"], "kilobit run 'my sweep.yaml'"),
        (["launch.py", "run", "a;b"], "python launch.py run 'a;b'"),
        (["/usr/bin/other", "x"], "/usr/bin/other x"),
        ([], ""),
    ],
)
def test_the_command_of_an_attempt_can_be_pasted_into_a_shell(
    sweep: Sweep, words: list[str], shown: str
) -> None:
    attempt = {"attempt": 2, "started_at": "then", "host": "here", "command": words}
    assert origin(sweep, {"attempts": [attempt]}).attempts == [
        {"attempt": 2, "started_at": "then", "host": "here", "command": shown}
    ]


def test_weights_that_differed_between_workers_are_seen(sweep: Sweep) -> None:
    workers = [
        {"worker": "s-0", "model": "small", "base_digest": "bb", "num_parameters": 1000},
        {"worker": "s-1", "model": "small", "base_digest": "aa", "num_parameters": None},
        {"worker": "s-2", "model": "small", "base_digest": "bb", "num_parameters": 1000},
    ]
    small, large = origin(sweep, {}, workers=workers).models
    assert (small["digests"], small["parameters"]) == (["aa", "bb"], 1000)
    assert str(small["from"]).endswith("models/small")
    assert (large["digests"], large["parameters"]) == ([], None)
    assert large["from"] == "maker/large at main"


def test_versions_of_workers_stand_beside_those_of_the_driver(sweep: Sweep) -> None:
    texts = (json.dumps({"torch": "2.9", "peft": "0.1"}), json.dumps({"torch": "2.8"}), "broken")
    workers = [{"worker": f"w-{i}", "versions": text} for i, text in enumerate(texts)]
    found = origin(sweep, {"versions": {"torch": "2.9", "numpy": "2.0"}}, workers=workers)
    assert found.versions == {"torch": "2.8, 2.9", "numpy": "2.0", "peft": "0.1"}
