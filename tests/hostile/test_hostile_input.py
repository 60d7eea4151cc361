"""Hostile input: no traceback, no hang, little memory, nothing executed, and a plain message."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.case import Case, Commands, problems
from tests.hostile.table import CASES


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(tmp_path_factory.mktemp("hostile")) as found:
        yield found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_hostile_input_ends_in_a_plain_message(
    case: Case, commands: Commands, tmp_path: Path
) -> None:
    place = commands.place(tmp_path)
    result = commands.run(case.make(place), tmp_path)
    assert problems(result, place, case.allowed) == [], result.said[:3000]


def test_there_are_many_inputs_and_no_two_have_a_name() -> None:
    assert len(CASES) >= 300
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES)
