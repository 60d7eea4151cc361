from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kilobit.cluster.runs.folder import RunFolder
from kilobit.cluster.runs.fronts import RunFront
from kilobit.evaluators.proof.verify import program_folder
from tests.support.cli.finished import RUNGS, finished_run


@pytest.fixture
def run(write_sweep: Callable[..., Path], tmp_path: Path) -> RunFolder:
    return finished_run(write_sweep(rungs=RUNGS), tmp_path)


def test_the_same_files_under_two_base_models_are_two_folders(run: RunFolder) -> None:
    points = RunFront(run).points
    other = [replace(point, model="qwen2", candidate=f"{point.candidate}q") for point in points]
    folders = {program_folder(run.path, point) for point in [*points, *other]}
    assert len(folders) == 4
    assert {f"{p.model}-{p.candidate}" for p in [*points, *other]} == {p.name for p in folders}
