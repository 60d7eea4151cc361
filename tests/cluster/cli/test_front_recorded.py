"""The recorded quickstart reads as it did: front, report and program bytes of older versions."""

import hashlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from kilobit import launch
from kilobit.cluster.runs.folder import open_run
from kilobit.search.programs.recipe import Recipe
from kilobit.search.programs.script import script
from tests.conftest import REPOSITORY
from tests.support.rows import rows_of

RECORDINGS = REPOSITORY / "tests" / "recordings"
# Of the report's data as sorted JSON, without its time and paths.
REPORT_SHA256 = "a564e4076372198705b0738402685ad825be21b3f7141c291093c9ff916c9629"


def without_paths(value: Any) -> Any:
    """Return a report's data without what depends on where and when it was made.

    The recorded run's version did not count distinct outputs, nor the call of a chat template.
    """
    if isinstance(value, dict):
        left_out = ("made_at", "folder", "link", "num_distinct", "template_bits")
        kept = {key: one for key, one in value.items() if key not in left_out}
        return {key: without_paths(one) for key, one in kept.items()}
    return [without_paths(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    with tarfile.open(RECORDINGS / "quickstart.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    run = folder / "quickstart"
    manifest = json.loads((run / "run.json").read_text("utf-8"))
    manifest["sweep_folder"] = str(REPOSITORY / "examples")
    (run / "run.json").write_text(json.dumps(manifest), "utf-8")
    run.chmod(0o700)
    return run


def test_the_front_is_the_same_to_the_byte(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["front", str(quickstart), "--json"]) == 0
    recorded = (RECORDINGS / "quickstart_front.jsonl").read_text("utf-8")
    # Its version did not count the distinct outputs, nor the call of a chat template.
    more = ', "num_distinct": null, "template_bits": null}\n'
    assert capsys.readouterr().out == recorded.replace("}\n", more)


def test_the_data_of_the_report_are_the_same(quickstart: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert launch.main(["report", str(quickstart), "-o", str(page)]) == 0
    pattern = r'<script type="application/json" id="data">(.*?)</script>'
    found = re.search(pattern, page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    data = without_paths(json.loads(found[1]))
    # Plots repeat the data as figures.
    assert data.pop("plots").keys() >= {"fronts", "examples", "seconds", "rungs"}
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    assert digest == REPORT_SHA256


def test_recipes_give_the_scripts_that_were_recorded(quickstart: Path) -> None:
    rows = list(rows_of(open_run(quickstart).ledger, "programs"))
    assert len(rows) > 50
    for row in rows:
        assert script(Recipe.model_validate_json(row["recipe"])) == row["script"], row["candidate"]
        payload = row["payload"] or b""
        bits = 8 * (len(row["script"]) + len(payload)), 8 * len(payload)
        assert bits == (row["program_bits"], row["payload_bits"])
