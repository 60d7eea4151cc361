"""What `run`, `resume`, `status`, `front` and the words of any command say of a run folder."""

import json
import os
from typing import Any

from kilobit.cluster.runs.lock import lock_run
from kilobit.evaluators.ledger.fencing import latest_attempt
from tests.messages.scene import Case, Scene, ledger_of, no_store
from tests.support.rows import write_rows


def begun(scene: Scene) -> None:
    """Begin a run."""
    scene.begun()


def held(scene: Scene) -> None:
    """Begin a run that another process seems to hold."""
    scene.begun()
    scene.monkeypatch.setattr("kilobit.cluster.runs.lock.is_locked", lambda *_, **__: True)


def claimed_meanwhile(scene: Scene) -> None:
    """Begin a run, and let whoever looks at it not see that it was claimed again."""
    run = scene.begun()
    ledger = run.path / "ledger"
    with lock_run(ledger) as attempt:
        assert attempt == latest_attempt(ledger) == 2
    scene.monkeypatch.setattr("kilobit.cluster.runs.lock.latest_attempt", lambda _: 1)


def edited(**changes: Any) -> Any:
    """Return what begins a run and changes its manifest."""

    def given(scene: Scene) -> None:
        file = scene.begun().path / "run.json"
        manifest = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))

    return given


def of_a_removed_proposer(scene: Scene) -> None:
    """Begin a run and let its record name a proposer that no longer exists."""
    file = scene.begun().path / "run.json"
    manifest = json.loads(file.read_text())
    manifest["sweep"] |= {"proposer": {"kind": "descent"}, "budget": {"candidates": 9}}
    file.write_text(json.dumps(manifest))


def damaged(table: str) -> Any:
    """Return what begins a run, one table of which has a part that is no Parquet."""

    def given(scene: Scene) -> None:
        scene.finished()
        scene.file(f"run/ledger/{table}/x.a1.parquet", b"PAR1 no PAR1")

    return given


def a_list_that_is_damaged(scene: Scene) -> None:
    """Begin a run whose list of files is none."""
    scene.begun()
    with lock_run(scene.here / "run" / "ledger"):
        scene.file("run/ledger/accepted/accepted.a2.k0.json", "{")


def without_its_claim(scene: Scene) -> None:
    """Make a finished run whose first attempt is claimed no more."""
    scene.finished()
    for path in (scene.here / "run" / "ledger" / "attempts").iterdir():
        path.unlink()


def without_its_list(scene: Scene) -> None:
    """Make a run whose second attempt has rows, and no list of what it accepts."""
    scene.finished()
    with lock_run(scene.here / "run" / "ledger"):
        scene.file("run/ledger/rungs/x.a2.parquet", b"PAR1")


def of_another_search(operator: str = "random") -> Any:
    """Return what begins a run whose record has a candidate that its sweep does not propose."""

    def given(scene: Scene) -> None:
        run = scene.begun()
        row = {"candidate": "f" * 16, "task": "numbers", "model": "llama", "position": 0}
        row |= {"spec": '{"model":"llama","task":"numbers"}', "family": "prompt", "after": 0}
        row["operator"] = operator
        write_rows(ledger_of(run), "candidates", "f" * 16, [row])

    return given


def two_begun(scene: Scene) -> None:
    """Begin a run in which two candidates have begun."""
    ledger = ledger_of(scene.begun())
    for position, name in enumerate(("a" * 16, "b" * 16)):
        write_rows(ledger, "candidates", name, [{"candidate": name, "position": position}])


def open_to_all(scene: Scene) -> None:
    """Begin a run in a folder that everybody may write to."""
    scene.monkeypatch.delenv("KILOBIT_SHARED_RUNS", raising=False)
    scene.begun()
    (scene.here / "run").chmod(0o777)


def full_disk(scene: Scene) -> None:
    """Begin a run on a disk that has become full."""
    scene.begun()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    scene.monkeypatch.setattr(os, "fsync", full)


def a_run_of_another_sweep(scene: Scene) -> None:
    """Begin a run, then change the sweep file."""
    scene.begun()
    scene.write_sweep(seed=7)


WORDS = [
    Case("dance", "argument COMMAND: invalid choice: 'dance'"),
    Case("run", "the following arguments are required: SWEEP.yaml\n"),
    Case("status {run} --deep", "unrecognized arguments: --deep"),
    Case("status {run} more", "unrecognized arguments: more"),
    Case("status s3://me:sesame@bucket/run", "give credentials by the environment"),
    Case("status ftp://host/run", "ftp:// is not an object store that processes can share; known"),
    Case("status s3://bucket", "names no folder in a bucket: give s3://BUCKET/FOLDER"),
    Case("status {run} --watch 0", "argument --watch: '0': 0.2 to 3600 seconds are allowed"),
    Case("verify {run} --timeout 0", "argument --timeout: '0': whole seconds from 1 to 1000000"),
    Case("slurm a.yaml --chain x", "argument --chain: 'x': 1 to 1000 jobs are allowed"),
    Case("front {run} --length file", "argument --length: invalid choice: 'file'"),
    Case("resume {run} --log-level loud", "argument --log-level: invalid choice: 'loud'"),
    Case("run {sweep} --take-over", "--take-over belongs to --continue: a new run is n", sweep={}),
    Case(
        "run {sweep} --out {run} --address 127.0.0.1:1",
        "--address: no Ray cluster that accepts our token answers at 127.0.0.1:1: ",
        sweep={},
    ),
    Case(
        "run {sweep} --out {run} --address 127.0.0.1:1",
        "base_models.0: whether on_nodes has a chat template is not known here (there is no folder "
        "{here}/on_nodes): put it on this machine, or say `chat: [true]` or `chat: [false]` in ",
        sweep={"base_models": [{"regime": "r", "path": "on_nodes"}]},
    ),
    Case(
        "doctor --address 127.0.0.1:1",
        "--address: no Ray cluster that accepts our token answers at 127.0.0.1:1: ",
    ),
]
FOLDERS = [
    Case("run {sweep} --out /proc/kilobit", "'/proc/kilobit' can't be written: ", sweep={}),
    Case(
        "run {sweep} --out {run}",
        "{run} holds a run of this sweep: continue it with `kilobit resume {run}`, or choose",
        given=begun,
    ),
    Case(
        "run {sweep} --out {run}",
        "{run} holds a run of this sweep, locked by attempt 1 on ",
        given=held,
    ),
    Case(
        "run {sweep} --out {run}",
        "{run} holds a run of another sweep (seed differs): continue it with `kilobit resume",
        given=a_run_of_another_sweep,
    ),
    Case(
        "run {sweep} --out {run}",
        "{run}/run.json can't be read: 'sweep' is missing; choose another folder with --out",
        sweep={},
        given=lambda scene: scene.file("run/run.json", "{}"),
    ),
    Case(
        "run {sweep} --out {run}",
        "{run} is neither empty nor a run: it holds thesis.tex; choose another folder with --out",
        sweep={},
        given=lambda scene: scene.file("run/thesis.tex", "x"),
    ),
    Case(
        "run {sweep} --out s3://bucket/run",
        "s3://bucket: no answer at http://127.0.0.1:9",
        sweep={},
        given=no_store,
    ),
    Case("resume {run}", "{run} can be written by others (everybody may), ", given=open_to_all),
    Case(
        "run {sweep} --out {run} --continue",
        "{run} holds the run of another sweep: seed differs; choose another folder with --out",
        given=a_run_of_another_sweep,
    ),
]
RUNS = [
    *(
        Case(f"{words} {{run}}", "{run} holds no run: there is no such folder")
        for words in (
            "resume",
            "status",
            "front",
            "verify",
            "certify",
            "scorecard",
            "status --watch 1",
        )
    ),
    Case(
        "status {run}",
        "{run} holds no run: run.json is missing",
        given=lambda scene: scene.file("run/notes.txt", "x"),
    ),
    Case(
        "verify {run}",
        "{run} is a file, not the folder of a run",
        given=lambda scene: scene.file("run", "x"),
    ),
    Case(
        "resume {run}",
        "{run} is a data set, which front, report and aggregate read",
        given=lambda scene: scene.file("run/dataset.json", "{}"),
    ),
    Case(
        "certify {run}",
        "{run} is not a run but contains runs: {run}/a, {run}/b\n",
        given=lambda scene: (scene.begun("run/a"), scene.begun("run/b")),
    ),
    Case(
        "status {run}",
        "{run}/run.json can't be read: sweep: ",
        given=lambda scene: scene.file("run/run.json", '{"sweep": 3}'),
    ),
    Case(
        "status {run}",
        "{run}/run.json can't be read: 'sweep' is missing",
        given=lambda scene: scene.file("run/run.json", "{}"),
    ),
    Case(
        "status {run}",
        "{run}/run.json can't be read: Expecting value: line 1 column 1 (char 0)",
        given=lambda scene: scene.file("run/run.json", "half"),
    ),
    Case("resume {run}", "was written by an older version: it", given=edited(ledger_schema=None)),
    Case("resume {run}", "its proposer 'descent' was removed", given=of_a_removed_proposer),
    Case("resume {run}", "{run} is locked by attempt 1 on ", given=held),
    Case("resume {run}", "It is running: wait for it, or end it there by Ctrl-C", given=held),
    Case(
        "resume {run}",
        "{run} was claimed by another process just now: attempt 2 on ",
        given=claimed_meanwhile,
    ),
    Case(
        "resume {run} seed=3",
        "'seed=3': a resumed run keeps its settings; only these may change: budget.candidates",
        given=begun,
    ),
    Case("resume {run} budget", "'budget': an override is written key=value, e.g.", given=begun),
    Case(
        "resume {run} budget.candidates=1",
        "budget.candidates: 2 candidates have begun, so 2 or more are allowed, or null for no "
        "limit (found 1); nothing was changed",
        given=two_begun,
    ),
    Case(
        "resume {run} budget.candidates=0",
        "command line: budget.candidates: Input should be greater than or equal to 1 (found 0)",
        given=begun,
    ),
    Case("resume {run}", "accepted.a2.k0.json: not a list of", given=a_list_that_is_damaged),
    *(
        Case(
            words,
            "ledger/attempts/0001.json: the file is gone, but attempt 1 or a later one was at "
            "work: put it back, empty if need be",
            given=without_its_claim,
        )
        for words in ("resume {run}", "status {run}", "front {run}", "report {run}")
    ),
    Case(
        "resume {run}",
        "ledger/accepted: a list of accepted files is gone, but attempt 2 wrote x.a2.parquet: put "
        "it back from a copy, rows that only this list names would not count",
        given=without_its_list,
    ),
    Case("resume {run}", "{run} can't be resumed: the recorded", given=of_another_search()),
    Case(
        "resume {run}",
        "{run} can't be resumed: families.given has changed since the run began; begin a new run",
        given=of_another_search("given"),
    ),
    Case(
        "resume {run}",
        "kilobit: [Errno 28] No space left on device: '{run}/ledger/attempts/0002.json'",
        status=1,
        given=full_disk,
    ),
    Case("front {run}", "rungs/x.a1.parquet: not a part of a ledger: ", given=damaged("rungs")),
    Case("status {run}", "rungs/x.a1.parquet: not a part of a ledger: ", given=damaged("rungs")),
]
CASES = [*WORDS, *FOLDERS, *RUNS]
