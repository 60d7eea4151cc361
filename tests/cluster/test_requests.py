"""Requests: words of every command become one, and its paths lie where their types say."""

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from kilobit import launch
from kilobit.cluster.cli import run
from kilobit.cluster.requests import (
    REQUESTS,
    FrontRequest,
    Request,
    RunRequest,
    StatusRequest,
    VerifyRequest,
)
from kilobit.cluster.runs.folder import create_run
from kilobit.cluster.sweep.sweep import load_sweep
from kilobit.evaluators.ledger import stored_path
from kilobit.evaluators.ledger.stored_path import StoredPath

# Every path of every command; `test_the_table_has_every_path` compares it with the requests.
PATHS = {
    "run": "{sweep} --out {out}",
    "resume": "{run}",
    "status": "{run}",
    "check": "{run}",
    "front": "{runs} --against {against}",
    "results": "{runs}",
    "aggregate": "{runs} --import {file} -o {out}",
    "report": "{runs} --out {out} --figures {figures} --overlay {overlay}",
    "verify": "{what} --model {model} --task {task}",
    "certify": "{runs}",
    "scorecard": "{run} --battery {battery}",
    "compare": "{one} {two} {others} --judge {judge} --prompts {prompts} --rows {rows}",
    "export": "{program} --peft {peft} --model {model}",
    "slurm": "{words} --profile {profile} --out {out}",
    "kubernetes": "{words} --profile {profile} --out {out}",
    "doctor": "--out {out}",
    "model": "{file} {folder}",
}
ON_A_STORE = {
    ("run", "out"),
    ("resume", "run"),
    ("status", "run"),
    ("check", "run"),
    ("front", "runs"),
    ("front", "against"),
    ("results", "runs"),
    ("aggregate", "runs"),
    ("report", "runs"),
    ("report", "out"),
    ("verify", "what"),
    ("certify", "runs"),
    ("export", "program"),
    ("slurm", "out"),
    ("kubernetes", "out"),
    ("doctor", "out"),
}
URL = "s3://bucket/a=b/c"
FIELD = re.compile(r"\w+(?=})")
EACH_PATH = [(name, field) for name, words in PATHS.items() for field in FIELD.findall(words)]


def argv(command: str, **given: str) -> list[str]:
    """Return a command line with all paths of a command, `field.x` where none is given."""
    names = FIELD.findall(PATHS[command])
    return [command, *PATHS[command].format(**{n: f"{n}.x" for n in names} | given).split()]


def test_the_table_has_every_path() -> None:
    def is_path(field: Any) -> bool:
        return "Path" in str(field.type) or "_local_word" in str(field.type)

    fields = {kind.command: dataclasses.fields(kind) for kind in REQUESTS}  # type: ignore[arg-type]
    found = {(name, f.name) for name, each in fields.items() for f in each if is_path(f)}
    assert found == set(EACH_PATH)


@pytest.mark.parametrize(("command", "field"), EACH_PATH)
def test_a_url_is_a_place_on_a_store_or_refused_in_the_same_words(
    command: str, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = argv(command, **{field: URL})
    if (command, field) in ON_A_STORE:
        value = getattr(launch.parse(words), field)
        (value,) = value if isinstance(value, tuple) else (value,)
        assert isinstance(value, StoredPath)
        assert str(value) == URL
        return
    with pytest.raises(SystemExit, match="2"):
        launch.parse(words)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f": {URL}: a local path is needed here, not an object store")


@pytest.mark.parametrize("text", ["a=b/c=d.yaml", "c=d.yaml", "../a/c.yaml", "s3:/bucket/c"])
@pytest.mark.parametrize(("command", "field"), EACH_PATH)
def test_a_relative_path_stays_as_it_is_with_an_equals_sign_too(
    command: str, field: str, text: str
) -> None:
    value = getattr(launch.parse(argv(command, **{field: text})), field)
    (value,) = value if isinstance(value, tuple) else (value,)
    assert str(value) == text
    assert isinstance(value, str if field in ("one", "two", "others", "words") else Path)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.command)
def test_a_request_made_in_python_has_the_defaults_of_the_command_line(kind: type[Request]) -> None:
    parsed = launch.parse(argv(kind.command))
    named = {name: getattr(parsed, name) for command, name in EACH_PATH if command == kind.command}
    assert parsed == kind(**named)
    assert type(parsed) is kind
    with pytest.raises(dataclasses.FrozenInstanceError):
        parsed.json = True


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.command)
def test_a_command_takes_its_request(kind: type[Request], monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Request] = []
    module = run._MODULES.get(kind.command, f"cli.{kind.command}")
    name = f"kilobit.cluster.{module}.{kind.command}"
    hints = get_type_hints(getattr(run.import_module(name.rpartition(".")[0]), kind.command))
    assert hints == {"request": kind, "return": int}
    monkeypatch.setattr(name, lambda request: taken.append(request) or 0)
    monkeypatch.setattr(run, "check_there", lambda *_: None)
    monkeypatch.setattr(kind, "check", lambda _: None)
    request = launch.parse(argv(kind.command))
    assert run.dispatch(request) == 0
    assert taken == [request]


def test_words_become_values_of_their_types() -> None:
    assert launch.parse(["front", "a", "b", "--json", "--length", "payload"]) == FrontRequest(
        runs=(Path("a"), Path("b")), json=True, length="payload"
    )
    assert launch.parse(["status", "a", "--watch"]) == StatusRequest(run=Path("a"), watch_s=2.0)
    assert launch.parse(["verify", "a", "--timeout=7"]) == VerifyRequest(
        what=Path("a"), timeout_s=7
    )
    words = ["run", "a.yaml", "seed=1", "--continue", "--address", "auto", "seed=2"]
    assert launch.parse(words) == RunRequest(
        sweep=Path("a.yaml"), overrides=("seed=1", "seed=2"), go_on=True, address="auto"
    )


@pytest.fixture
def _odd_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_sweep: Callable[..., Path]
) -> Iterator[None]:
    """Make files and a run that has done nothing below a folder with `=` in its name."""
    sweep = write_sweep()
    folder = tmp_path / "a=b"
    folder.mkdir()
    sweep.rename(folder / "q=1.yaml")
    with create_run(load_sweep(folder / "q=1.yaml"), folder / "q=1.yaml", folder / "run"):
        pass
    (folder / "p=1.csv").write_text("score,bits\n0.5,100\n")
    (folder / "x=1.jsonl").write_text('{"id": "1", "input": "p", "output": "o"}\n')
    (folder / "j=1.yaml").write_text("judge: {kind: file, path: v=1.jsonl}\n")
    (folder / "v=1.jsonl").write_text('{"id": "1", "verdict": "win"}\n')
    monkeypatch.chdir(tmp_path)
    stored_path._store.cache_clear()
    yield
    assert not list(tmp_path.glob("*:*"))


@pytest.mark.usefixtures("_odd_folder")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("run a=b/q=1.yaml --dry-run seed=3", 0, "The sweep file is valid"),
        ("run a=b/q=2.yaml", 2, "a=b/q=2.yaml: No such file"),
        ("slurm a=b/q=1.yaml --print seed=3", 0, "sweeps=(a=b/q=1.yaml)"),
        ("slurm a=b/q=2.yaml --print", 2, "no sweep file is given"),
        ("kubernetes a=b/q=1.yaml --print", 2, "kubernetes.image is missing"),
        ("kubernetes a=b/q=2.yaml --print", 2, "no sweep file is given"),
        ("resume a=b/run seed=3", 2, "seed"),
        ("status a=b/run", 0, "a=b/run"),
        ("front a=b/run", 0, ""),
        ("aggregate a=b/run -o a=b/all", 0, "a=b/all"),
        ("aggregate --import a=b/p=1.csv --map score=score,payload_bits=bits -o all", 0, "p-1"),
        ("report a=b/run -o a=b/r=1.html", 0, "a=b/r=1.html"),
        ("verify a=b/run", 0, ""),
        ("certify a=b/run", 2, "a=b/run has no verified program"),
        ("scorecard a=b/run", 2, "a=b/run: no candidate has completed the last rung"),
        ("compare a=b/x=1.jsonl a=b/x=1.jsonl --judge a=b/j=1.yaml", 0, "1 of 1 prompts"),
        ("compare a=b/run:0 a=b/x=1.jsonl --judge a=b/j=1.yaml", 2, "no candidate begins with"),
        ("export a=b/run --peft p=1 --model a=b", 2, "a=b/run holds no program"),
    ],
)
def test_commands_read_and_write_below_a_relative_folder_with_an_equals_sign(
    words: str, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = launch.main(shlex.split(words))
    printed = capsys.readouterr()
    assert found == status, printed
    assert said in "".join((printed.out + printed.err).split("\n"))


@pytest.mark.usefixtures("_odd_folder")
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("run a=b/q=1.yaml --out s3://bucket/r", 2, "s3://bucket: no answer"),
        ("resume s3://bucket/r", 2, "s3://bucket: no answer"),
        ("status s3://bucket/r", 2, "s3://bucket: no answer"),
        ("front a=b/run s3://bucket/r", 2, "s3://bucket: no answer"),
        ("aggregate s3://bucket/r -o all", 2, "s3://bucket: no answer"),
        ("report s3://bucket/r", 2, "s3://bucket: no answer"),
        ("report a=b/run -o s3://bucket/r.html", 2, "s3://bucket: no answer"),
        ("verify s3://bucket/r", 2, "s3://bucket: no answer"),
        ("certify s3://bucket/r", 2, "s3://bucket: no answer"),
        ("export s3://bucket/p --peft p --model a=b", 2, "s3://bucket: no answer"),
        ("slurm a=b/q=1.yaml --print --out s3://bucket/r", 0, "outs=(s3://bucket/r)"),
    ],
)
def test_a_store_that_does_not_answer_is_named_and_nothing_is_written_here(
    words: str,
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    found = launch.main(shlex.split(words))
    printed = capsys.readouterr()
    assert found == status, printed
    assert said in printed.out + printed.err
