import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import kilobit
import kilobit.cluster.cli.run
import kilobit.cluster.python
from kilobit.cluster.console import Notebook
from kilobit.cluster.driver.attempt import Outcome
from kilobit.cluster.runs.fronts import RunFront
from kilobit.search.settings import InputError
from tests.conftest import REPOSITORY
from tests.support.recorded import COMPLETED, candidate_of, program_of, record

Write = Callable[..., Path]
SMALL: dict[str, Any] = {
    "name": "small",
    "task": {"kind": "miniature", "name": "numbers"},
    "base_models": [{"regime": "llama", "path": "."}],
    "families": {"prompt": {"candidates": 3}},
}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    return kilobit.open_run(str(record(tmp_path / "there")))


def test_importing_it_imports_no_library() -> None:
    code = (
        "import sys, kilobit; dir(kilobit)\n"
        "assert not {'torch', 'ray', 'pyarrow', 'pydantic'} & set(sys.modules)\n"
        "kilobit.open_run\nassert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        kilobit.runs  # noqa: B018
    assert {"run", "open_run", "Run", "Sweep"} <= set(dir(kilobit))


def test_sweep_of_python_values_equals_the_one_of_a_file(
    write_sweep: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_sweep(targets=[0.25, 0.75], cache="cache")
    monkeypatch.chdir(path.parent)
    of_file = kilobit.Sweep.from_yaml(path, {"seed": 3})
    data = of_file.model_dump()
    made = kilobit.Sweep(**data | {"targets": np.array([0.25, 0.75]), "seed": np.int64(3)})
    assert made.model_dump() == of_file.model_dump()
    assert (of_file.seed, of_file.cache) == (3, path.parent / "cache")
    assert (of_file.file, made.file.parent) == (path, path.parent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "sweep: unknown key 'sed'. Did you mean 'seed'?"),
        ({"seed": "1"}, "sweep: seed: Input should be a valid integer (found '1')"),
        ({"task": {"kind": "x"}}, "sweep: task.kind must be one of"),
        ({"name": {(1,): 1}}, "sweep: it can't be written as YAML: keys must be str"),
        (
            {"families": {"prompt": {"candidates": -1}}},
            "sweep: families.prompt.candidates: Input should be greater than or equal to 0",
        ),
    ],
)
def test_wrong_settings_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        kilobit.Sweep(**SMALL | changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError) as again:
        kilobit.run(SMALL | changes)
    assert str(again.value) == str(caught.value)


def test_front_and_table_hold_the_same_programs(run: Any) -> None:
    front, table = run.front(), run.table()
    assert [p.score for p in front if p.model == "pretrained"] == [0.1, 0.3, 0.6]
    assert set(table[table.on_front].candidate) == {point.candidate for point in front}
    assert len(table) == sum(map(len, COMPLETED.values()))
    sealed = table.set_index("candidate").sealed_lower.dropna().to_dict()
    assert sealed[candidate_of("posttrained", "Number:").id] == 0.83
    assert {point.length for point in run.front("payload")} == {"payload"}


def test_table_of_the_ledger_is_arrow_on_request(run: Any) -> None:
    table = run.table("rungs", arrow=True)
    assert isinstance(table, pa.Table)
    assert table.num_rows == len(run.table("rungs"))
    with pytest.raises(InputError, match=r"unknown table 'rugs'\. Known here: candidates, rungs"):
        run.table("rugs")


def test_program_has_its_files_and_bits(run: Any) -> None:
    expected = program_of("Number:")
    found = run.program(candidate_of("posttrained", "Number:").id)
    assert (found.script, found.payload) == (expected.script, expected.payload)
    assert found.program_bits == 8 * len(found.script + found.payload)
    assert (found.folder / "program.py").read_bytes() == found.script
    assert f"{found.program_bits} bits" in repr(found)
    assert "input" in found.readable
    with pytest.raises(InputError, match="no candidate 'x' has completed the last rung"):
        run.program("x")


def test_report_is_written_where_asked(run: Any, tmp_path: Path) -> None:
    assert run.report() == run.path / "report.html"
    out = run.report(tmp_path / "front.html")
    assert "<html" in out.read_text("utf-8")
    with pytest.raises(InputError, match=r"its name ends in \.html or \.htm"):
        run.report(tmp_path / "front.pdf")


def test_run_shows_itself_and_escapes_what_it_shows(run: Any) -> None:
    progress = run.progress()
    assert progress.completed == sum(map(len, COMPLETED.values()))
    assert f"{run.path}': {progress.ended} of" in repr(run)
    page = run._repr_html_()
    assert page.count("<tr>") == 1 + len(run.front())
    assert "<td>0.900</td>" in page


def test_place_that_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run: there is no such folder"):
        kilobit.open_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match="open_run: http:// is not an object store"):
        kilobit.open_run("http://x/y")


def test_address_outside_of_the_cluster_is_refused(write_sweep: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ray://x:1 connects from outside"):
        kilobit.run(write_sweep(), tmp_path / "out", address="ray://x:1")
    assert not (tmp_path / "out").exists()


def test_damaged_rungs_are_not_certified(run: Any) -> None:
    lost = next((run.path / "ledger" / "rungs").glob("*-r1.*"))
    lost.unlink()
    with pytest.raises(InputError, match=r"nothing is certified: rungs of .* are damaged"):
        run.certify()


def test_interrupt_says_how_to_go_on_and_leaves_the_run(
    write_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def attempt(folder: Any, *_: Any) -> tuple[Outcome, RunFront]:
        calls.append(folder.attempt)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return Outcome(lost=["a trial"]), RunFront(folder)

    monkeypatch.setattr(kilobit.cluster.cli.run, "attempt", attempt)
    sweep, out = kilobit.Sweep.from_yaml(write_sweep()), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt, match=r"kilobit\.open_run\('.*out'\)\.resume\(\)"):
        kilobit.run(sweep, out)
    with pytest.raises(InputError, match="holds a run of this sweep"):
        kilobit.run(sweep, out)
    found = kilobit.run(sweep, out, resume=True, progress=False)
    found.resume(overrides="budget.seconds=60", progress=False)
    assert (calls, found.sweep.budget.seconds) == ([1, 2, 3], 60)
    assert (out / "front.png").exists()
    with pytest.raises(InputError, match="a resumed run keeps its settings"):
        found.resume(overrides={"seed": 1})


def test_notebook_rewrites_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    def display(content: dict[str, str], **how: Any) -> Any:
        assert how == {"raw": True, "display_id": True}
        shown.append(("new", content["text/plain"]))
        return types.SimpleNamespace(
            update=lambda content, raw: shown.append(("again", content["text/html"]))
        )

    module: Any = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    console = Notebook(kilobit.cluster.python._output())
    console.print("begun")
    console.renew("1 of <2>")
    assert shown == [("new", "begun"), ("again", "<pre>begun\n1 of &lt;2&gt;</pre>")]


def test_notebook_is_small_and_runs(tmp_path: Path) -> None:
    file = REPOSITORY / "examples" / "first_search.ipynb"
    cells = json.loads(file.read_text("utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(bool(line.strip()) for text in code for line in text.splitlines()) <= 15
    for text in code:
        compile(text, "cell", "exec")


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_notebook_goes_to_a_front_twice_in_a_process_with_a_loop_and_ray(tmp_path: Path) -> None:
    script = tmp_path / "cells.py"
    script.write_text(CELLS.format(file=str(REPOSITORY / "examples" / "first_search.ipynb")))
    (tmp_path / "tiny").symlink_to(REPOSITORY / "examples" / "tiny")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        # Without one Ray writes a token into the user's home.
        env=os.environ | {"RAY_AUTH_TOKEN": "0" * 64},
    )
    assert done.returncode == 0, done.stderr
    # Ray may write between a text and its line's end.
    assert "interrupted" in done.stdout
    assert "resumed, Ray is still there" in done.stdout
    found = kilobit.open_run(tmp_path / "runs" / "first_search")
    assert found.front()
    assert all(point.verified for point in found.front())


# The cells in one namespace, from a running loop, beside a Ray session that the process began. The
# first search is interrupted at its first result, as by a notebook's button; the cells resume it.
CELLS = """
import _thread, asyncio, json, pathlib, signal, threading, time
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
cells = json.load(open({file!r}))["cells"]
code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]

def interrupt():
    rungs = pathlib.Path("runs/first_search/ledger/rungs")
    while not list(rungs.glob("*.parquet")):
        time.sleep(0.05)
    _thread.interrupt_main()

async def main():
    names = {{}}
    # As in the kernel of a notebook; `asyncio.run` would cancel the task, at its next await.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    try:
        exec(code[0], names)
    except KeyboardInterrupt as error:
        assert "resume()" in str(error)
        print("interrupted")
    for text in code:
        exec(text, names)
    assert ray.is_initialized()
    print("resumed, Ray is still there")

asyncio.run(main())
"""
