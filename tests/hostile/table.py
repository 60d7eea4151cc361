"""All hostile inputs."""

from tests.hostile import data_files, model_folders, names, run_folders, sweep_files
from tests.hostile.case import Case

CASES: list[Case] = [
    *sweep_files.CASES,
    *data_files.CASES,
    *model_folders.CASES,
    *run_folders.CASES,
    *names.CASES,
]
