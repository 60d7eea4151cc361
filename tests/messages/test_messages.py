"""Every message for a user, with the command line and the files that cause it.

The tables are beside this file, one a group of commands. The last test holds them against the code:
each place that makes such a message is reached by a case, or is listed below with the reason why
not.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kilobit import launch
from tests.messages import (
    aggregate_cases,
    launcher_cases,
    program_cases,
    report_cases,
    run_cases,
    sweep_cases,
)
from tests.messages.scene import Case, Scene
from tests.messages.sites import Reached, all_sites

CASES: list[Case] = [
    *sweep_cases.CASES,
    *run_cases.CASES,
    *program_cases.CASES,
    *launcher_cases.CASES,
    *aggregate_cases.CASES,
    *report_cases.CASES,
]
# A piece of the source of each place that no case reaches, and why.
NOT_REACHED = {
    "the run is in object storage, but event files need": "needs a store that answers; "
    "tests/cluster/driver/test_trackers.py has it",
    "is not on this machine, so no adapter from": "needs a hub that answers; "
    "tests/cluster/driver/test_check.py has it",
    **dict.fromkeys(
        (
            "it can't be written as YAML",
            "table: unknown table",
            "has completed the last rung; `table()`",
            "nothing is certified: rungs of",
            "connects from outside of the cluster",
            "{argument}: {error}",
        ),
        "only in Python; tests/cluster/test_python.py has it",
    ),
}
DONE: set[str] = set()


@pytest.fixture(scope="module")
def reached() -> Iterator[Reached]:
    places = Reached()
    with places.watching():
        yield places


@pytest.fixture
def scene(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_sweep: Callable[..., Path],
    model_folders: dict[str, Path],
) -> Scene:
    monkeypatch.chdir(tmp_path)
    return Scene(tmp_path, monkeypatch, write_sweep, model_folders)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_message(
    case: Case, scene: Scene, reached: Reached, capsys: pytest.CaptureFixture[str]
) -> None:
    if case.sweep is not None:
        scene.write_sweep(**case.sweep)
    if case.given is not None:
        case.given(scene)
    capsys.readouterr()
    try:
        status = launch.main(case.argv(scene))
    except SystemExit as error:
        # argparse ends the process itself.
        status = int(error.code or 0)
    said = capsys.readouterr().err
    assert (status, scene.fill(case.message) in said) == (case.status, True), said
    assert "Traceback" not in said
    assert "sesame" not in said
    DONE.add(case.name)


def test_every_place_that_makes_a_message_is_reached_or_listed(reached: Reached) -> None:
    if {case.name for case in CASES} - DONE:
        pytest.skip("only with all cases")
    sites = all_sites()
    for piece, why in NOT_REACHED.items():
        named = [site for site in sites if piece in site.text]
        assert len(named) == 1, f"{piece!r} names {len(named)} places"
        assert named[0] not in reached, f"{piece!r} is reached, so it need not be listed"
        assert why
    missing = [
        str(site)
        for site in sites
        if site not in reached and not any(piece in site.text for piece in NOT_REACHED)
    ]
    assert missing == []
