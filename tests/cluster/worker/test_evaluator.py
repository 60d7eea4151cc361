import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kilobit.cluster.messages import BaseModelChangedError, EvaluatorSetup
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.cluster.worker.crash_log import CrashLog
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.worker.run_rung import RungRunner
from kilobit.evaluators.ledger.compaction import begin
from kilobit.evaluators.ledger.ledger import Ledger
from kilobit.evaluators.model import generate
from kilobit.evaluators.proof.program_files import read_program
from kilobit.evaluators.tasks.registry import load_task
from kilobit.search.base_model import digest_of
from kilobit.search.candidate import Candidate, Prompt, Rung
from kilobit.search.programs.program import decode
from kilobit.search.records import WorkerRecord
from tests.conftest import REPOSITORY
from tests.support.driver.candidates import candidate, lora
from tests.support.rows import rows_of
from tests.support.tasks.records import write_jsonl

FIRST, SECOND = Rung(0, 4, 2), Rung(1, 8, 4)


def test_a_rung_leaves_its_row_its_predictions_and_its_program(
    evaluator: RungEvaluator, tmp_path: Path
) -> None:
    prompt = Prompt(instruction="Number:")
    one = candidate(prompt=prompt, postprocess=("last_number",))
    row = evaluator.run_rung(one.canonical(), FIRST).record.row()
    ledger = Ledger(tmp_path / "run" / "ledger")
    assert row["error"] is None if "error" in row else True
    (written,) = rows_of(ledger, "rungs")
    assert (written["candidate"], written["num_examples"], written["attempt"]) == (one.id, 4, 1)
    assert written["score"] is not None
    assert len(rows_of(ledger, "predictions")) == 4
    (program,) = rows_of(ledger, "programs")
    assert written["payload_bits"] == 8 * len(program["payload"]) == program["payload_bits"]
    script_bits = 8 * len(program["script"])
    assert written["program_bits"] == script_bits + program["payload_bits"]
    found = read_program(ledger, f"{one.id}-r0")
    assert found.digest == written["program"] == program["program"]
    assert decode(found.recipe, found.payload).prompt == "Number:\n"
    assert found.recipe.postprocess == ("last_number",)
    (worker,) = rows_of(ledger, "workers")
    assert worker["base_digest"] == written["base_digest"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("model/config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1', "its config"),
        ("model/config.json", "{", "{ ", None),
        ("model/tokenizer.json", '"ignore_merges": false', '"ignore_merges": true', "tokenizer"),
        ("model/chat_template.jinja", "", "{{ messages }}", "its chat template and"),
        ("model/generation_config.json", '"eos_token_id": 0', '"eos_token_id": 1', "generation"),
        ("train.jsonl", "7 apples", "8 apples", "task: the train split changed"),
        ("search.jsonl", "7 apples", "8 apples", "task: the search split changed"),
        ("sealed.jsonl", "7 apples", "8 apples", "task: the sealed split changed"),
    ],
)
def test_a_run_does_not_go_on_with_another_model_or_other_data(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    file: str,
    old: str,
    new: str,
    message: str | None,
) -> None:
    shutil.copytree(model_folders["llama"], tmp_path / "model")
    for name in ("train", "search", "sealed"):
        records = [{"input": f"{name} {i}", "target": f"{i} apples"} for i in range(9)]
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    files = {name: f"{name}.jsonl" for name in ("train", "search", "sealed")}
    task = {"kind": "jsonl", "name": "apples", "metric": "exact_match", "files": files}
    models = [{"regime": "llama", "path": "model"}]
    sweep = load_sweep(write_sweep(task=task, base_models=models))

    def start(attempt: int) -> RungEvaluator:
        run = str(tmp_path / "run")
        begin(tmp_path / "run" / "ledger", attempt)
        return RungEvaluator(
            EvaluatorSetup(sweep.model_dump_json(), str(tmp_path), run, "llama", "w", attempt)
        )

    start(1)
    start(2)
    path = tmp_path / file
    text = path.read_text("utf-8") if path.exists() else ""
    assert old in text
    path.write_text(text.replace(old, new) if old else new, "utf-8")
    if message is None:
        start(3)
        return
    with pytest.raises(ValueError, match=message):
        start(3)


def test_a_run_goes_on_only_where_outputs_would_be_the_same(
    write_sweep: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = [{"input": f"Ben has {i} coins", "target": f"{i}"} for i in range(60)]
    write_jsonl(tmp_path / "data.jsonl", records)
    task = {"kind": "jsonl", "name": "numbers", "metric": "exact_match", "data": "data.jsonl"}
    sweep, run = load_sweep(write_sweep(task=task)), tmp_path / "run"

    def start(attempt: int, **changes: object) -> RungEvaluator:
        begin(run / "ledger", attempt)
        text = sweep.model_copy(update=changes).model_dump_json()
        return RungEvaluator(EvaluatorSetup(text, str(tmp_path), str(run), "llama", "w", attempt))

    one = start(1).run_rung(candidate().canonical(), FIRST).record
    (worker,) = Ledger(run / "ledger").records(WorkerRecord)
    assert one.machine == worker.machine == digest_of(json.loads(worker.parts or ""))
    assert one.data == digest_of(json.loads(worker.data or ""))
    with pytest.raises(ValueError, match=r"llama: its train_split_in_machine changed since"):
        start(2, train_split_in_machine=True)
    with pytest.raises(ValueError, match=r"task: the scoring rule changed since"):
        start(3, task=sweep.task.model_copy(update={"stop": ("?",)}))
    honest = generate.version
    monkeypatch.setattr(
        generate, "version", lambda name: "0.1" if name == "torch" else honest(name)
    )
    with pytest.raises(ValueError, match=r"base model llama: its torch changed since"):
        start(4)
    # A version that knew fewer parts did not record the libraries.
    run = tmp_path / "old"
    begin(run / "ledger", 1)
    known = ("weights", "config", "generation config", "tokenizer", "chat template")
    parts = {name: json.loads(worker.parts or "")[name] for name in known}
    old = replace(worker, machine=None, data=None, parts=json.dumps(parts))
    Ledger(run / "ledger", 1).write(WorkerRecord, "w-a1-1", [old])
    start(2)
    assert "the machine of earlier attempts is not known" in caplog.text


def test_what_a_metric_says_besides_the_score_is_a_column(
    write_sweep: Callable[..., Path], tmp_path: Path
) -> None:
    for name, first in (("train", 0), ("test", 40)):
        records = [
            {"problem": str(i), "level": i % 5, "type": "Algebra", "solution": f"\\boxed{{{i}}}"}
            for i in range(first, first + 40)
        ]
        write_jsonl(tmp_path / f"{name}.jsonl", records)
    task = {"kind": "math", "train": {"path": "train.jsonl"}, "sealed": {"path": "test.jsonl"}}
    sweep = load_sweep(write_sweep(task=task | {"max_new_tokens": 4, "search_share": 0.5}))
    run = str(tmp_path / "run")
    setup = EvaluatorSetup(sweep.model_dump_json(), str(tmp_path), run, "llama", "llama-0", 1)
    RungEvaluator(setup).run_rung(candidate(task="math").canonical(), FIRST).record.row()
    rows = rows_of(Ledger(tmp_path / "run" / "ledger"), "predictions")
    assert len(rows) == 4
    splits = load_task(sweep.task, tmp_path).splits.search
    levels = {example.id: str(int(example.input) % 5) for example in splits}
    for row in rows:
        found = json.loads(row["columns"])
        assert found == {"level": levels[row["example"]], "subject": "Algebra"}


@pytest.mark.parametrize(("architecture", "target"), [("gpt2", "c_attn"), ("qwen2", "q_proj")])
def test_other_architectures_go_the_same_way(
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
    tmp_path: Path,
    architecture: str,
    target: str,
) -> None:
    models = [{"regime": "llama", "path": str(model_folders[architecture])}]
    sweep = load_sweep(write_sweep(base_models=models))
    run = str(tmp_path / "run")
    setup = EvaluatorSetup(sweep.model_dump_json(), str(tmp_path), run, "llama", "llama-0", 1)
    evaluator = RungEvaluator(setup)
    for one in (candidate(prompt=Prompt(instruction="Number:")), lora(target_modules=(target,))):
        row = evaluator.run_rung(one.canonical(), FIRST).record.row()
        assert row.get("error") is None
        assert row["score"] is not None
        assert row["payload_bits"] > 0


def test_rungs_are_nested(evaluator: RungEvaluator, tmp_path: Path) -> None:
    for rung in (FIRST, SECOND):
        evaluator.run_rung(candidate().canonical(), rung).record.row()
    rows = rows_of(Ledger(tmp_path / "run" / "ledger"), "predictions")
    first, second = ([r["example"] for r in rows if r["rung"] == i] for i in (0, 1))
    assert second[:4] == first


def test_a_repeated_rung_is_returned_and_not_run_again(evaluator: RungEvaluator) -> None:
    first = evaluator.run_rung(lora().canonical(), FIRST).record.row()
    again = evaluator.run_rung(lora().canonical(), FIRST).record.row()
    assert again["finished_at"] == first["finished_at"]
    assert again["seconds"] == first["seconds"]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lora(learning_rate=1e30, steps=40), "FloatingPointError: the training loss became"),
        (lora(target_modules=("nosuch",)), "nosuch"),
        (candidate(prompt=Prompt(instruction="dog " * 300)), "do not fit into the model's context"),
    ],
)
def test_a_candidate_that_fails_is_a_row_with_its_traceback(
    evaluator: RungEvaluator, tmp_path: Path, broken: Candidate, message: str
) -> None:
    row = evaluator.run_rung(broken.canonical(), Rung(0, 4, 40)).record.row()
    assert "Traceback" in row["error"]
    assert message in row["error"]
    (written,) = rows_of(Ledger(tmp_path / "run" / "ledger"), "rungs")
    assert (written["score"], written["payload_bits"]) == (None, None)
    assert written["error"] == row["error"]
    after = evaluator.run_rung(candidate().canonical(), FIRST).record.row()
    assert after["score"] is not None


def test_a_changed_base_model_stops_the_worker(
    evaluator: RungEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RungRunner.run

    def vandal(self: RungRunner, *args: Any) -> Any:
        with torch.no_grad():
            self._frozen.model.lm_head.weight[0, 0] += 1
        return run(self, *args)

    monkeypatch.setattr(RungRunner, "run", vandal)
    with pytest.raises(BaseModelChangedError, match="of the base model have changed"):
        evaluator.run_rung(lora().canonical(), FIRST).record.row()


def test_who_was_there_when_a_worker_died_runs_alone_and_is_given_up_at_last(
    make_evaluator: Callable[..., RungEvaluator],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    killer, other = candidate(prompt=Prompt(instruction="kill")), candidate()
    asked = [(killer, FIRST), (other, FIRST)]
    run, packs = RungRunner.run, []

    class DiedError(BaseException):
        pass

    def deadly(self: RungRunner, works: Any) -> None:
        packs.append([work.candidate.id for work in works])
        if any(work.candidate == killer for work in works):
            # Nobody who is killed tidies up.
            monkeypatch.setattr(CrashLog, "_write", lambda *_: None)
            raise DiedError
        run(self, works)

    write = CrashLog._write
    monkeypatch.setattr(RungRunner, "run", deadly)
    for _ in range(3):
        with pytest.raises(DiedError):
            make_evaluator().run_rungs(asked)
        monkeypatch.setattr(CrashLog, "_write", write)
    first, second = make_evaluator().run_rungs(asked)
    assert first.record.error == "its worker died 3 times while it ran"
    assert caplog.messages.count("died and was started again") == 3
    assert second.record.score is not None
    assert packs[0] == [killer.id, other.id]
    assert [killer.id, other.id] not in packs[1:]


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from kilobit.cluster.worker.evaluator import RungEvaluator
from kilobit.cluster.messages import EvaluatorSetup
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.candidate import Candidate
from kilobit.search.candidate import Rung
from kilobit.cluster.sweep.sweep import load_sweep
sweep = load_sweep(Path(sys.argv[1]))
out = str(Path(sys.argv[1]).parent / "run")
evaluator = RungEvaluator(EvaluatorSetup(sweep.model_dump_json(), ".", out, "llama", "llama-0", 1))
spec = AdapterSpec(
    method="lora", rank=1, target_modules=("q_proj",), learning_rate=0.01, steps=4,
    batch_size=20000, seed=1,
)
used = 1024 * int(Path("/proc/self/statm").read_text().split()[0]) * 4
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000,) * 2)
row = evaluator.run_rung(
    Candidate(task="numbers", model="llama", adapter=spec).canonical(), Rung(0, 4, 2)
).record
print((row.error or "").strip().splitlines()[-1])
good = Candidate(task="numbers", model="llama")
print("then", evaluator.run_rung(good.canonical(), Rung(0, 4, 2)).record.score)
"""


def test_running_out_of_memory_is_a_row_and_the_next_candidate_runs(
    write_sweep: Callable[..., Path],
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(write_sweep())],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=REPOSITORY,
        check=False,
    )
    assert "memory" in done.stdout.splitlines()[0].lower(), done.stderr
    assert done.stdout.splitlines()[1] == "then 0.0"


@pytest.mark.parametrize("place", ["ledger/rungs", "ledger/predictions", "states"])
def test_a_disk_that_can_not_be_written_is_not_the_candidates_failure(
    evaluator: RungEvaluator, tmp_path: Path, place: str
) -> None:
    blocked = tmp_path / "run" / place
    blocked.write_text("in the way")
    with pytest.raises(OSError, match=blocked.name):
        evaluator.run_rung(lora().canonical(), FIRST).record.row()
    blocked.unlink()
    assert evaluator.run_rung(lora().canonical(), FIRST).record.row()["score"] is not None
