import re
from collections.abc import Callable
from pathlib import Path

import pytest

from kilobit.cluster.sweep.launch_targets import seconds_of
from kilobit.launch import main

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("partition", "gpu; touch x"),
        ("partition", "gpu\n#SBATCH --uid=0"),
        ("account", "$(touch x)"),
        ("qos", "`touch x`"),
        ("time", "1:00:00\ntouch x"),
        ("time", "soon"),
        ("time", 43200),
        ("nodes", "2;3"),
        ("nodes", "4-2"),
        ("nodes", 0),
        ("scratch", "/tmp/$(touch x)"),
        ("scratch", "/a/folder/whose/name/is/long"),
        ("interface", "ib0 | sh"),
        ("output", "a b"),
        ("container", "apptainer exec x.sif; touch x"),
        ("container", "apptainer exec x.sif)"),
        ("setup", ["module load cuda\ntouch x"]),
        ("setup", [""]),
        ("directives", ["constraint=h100"]),
        ("directives", ["--constraint=h100 --uid=0"]),
        ("directives", ["--comment=$(touch x)"]),
        ("directives", ["--comment=a\ntouch x"]),
        ("directives", ["--signal=KILL"]),
        ("directives", ["--array=1-9"]),
    ],
)
def test_what_could_be_more_than_a_word_is_refused(
    write_sweep: Write, capsys: pytest.CaptureFixture[str], field: str, value: object
) -> None:
    path = write_sweep(slurm={field: value})
    section = path.read_text("utf-8").splitlines().index("slurm:") + 1
    assert main(["slurm", str(path), "--print"]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert f"slurm.{field}" in shown.err
    found = re.search(r"line (\d+)", shown.err)
    assert found
    assert int(found[1]) > section


def test_times_are_read_as_slurm_writes_them() -> None:
    texts = ("30:00", "1:00:00", "2-00:00:00", "1-12", "infinite", "n/a")
    assert list(map(seconds_of, texts)) == [1800, 3600, 172800, 129600, None, None]
