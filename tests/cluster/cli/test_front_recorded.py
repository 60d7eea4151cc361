"""The recorded quickstart reads as it did: front, report and program bytes of older versions."""

import csv
import hashlib
import json
import re
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from kilobit import launch
from kilobit.cluster.cli.front import least_file_bytes
from kilobit.cluster.runs.folder import open_run
from kilobit.search.programs.recipe import Recipe
from kilobit.search.programs.script import script
from tests.conftest import REPOSITORY
from tests.support.rows import rows_of

# What later versions of the report show besides; other tests are about it.
LATER = ("net_bits", "factors", "lacking", "results", "rewards", "bound on the length")
# Bits of the script that only asks the question, for each of the three base models.
BARE = 3064
RECORDINGS = REPOSITORY / "tests" / "recordings"
# Of the report's data as sorted JSON, without its time and paths.
REPORT_SHA256 = "a564e4076372198705b0738402685ad825be21b3f7141c291093c9ff916c9629"


def without_paths(value: Any) -> Any:
    """Return a report's data without what depends on where and when it was made.

    The recorded run's version did not count distinct outputs, nor the call of a chat template.
    """
    if isinstance(value, dict):
        left_out = ("made_at", "folder", "link", "num_distinct", "template_bits", *LATER)
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
    # Its version did not count distinct outputs, nor the call of a chat template. Bits of the bare
    # question are in the ledger.
    expected = [
        f'{line[:-1]}, "num_distinct": null, "template_bits": null, "net_bits": {bits - BARE}}}'
        for line in recorded.splitlines()
        for bits in [json.loads(line)["program_bits"]]
    ]
    assert capsys.readouterr().out.splitlines() == expected


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


def said(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    capsys.readouterr()
    assert launch.main(list(map(str, words))) == 0
    return capsys.readouterr().out


def test_the_collapse_is_shown_by_each_length(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for length, factor in (("program", 3960 / 3456), ("payload", 568 / 64), ("net", 896 / 392)):
        shown = said(capsys, "front", quickstart, "--length", length)
        assert f"pretrained to posttrained: collapse by a factor of {factor:.2f} (cert" in shown
        assert shown.count("    1.15 by program bits, 8.88 by payload bits, 2.29 by net bits") == 2
    assert re.search(r" 3960 +568 +896 +0\.844 ", shown)


def test_the_table_of_results_has_factors_of_what_is_in_the_ledger(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "results", quickstart, "--json").splitlines()
    rows = {(row["model"], row["target"]): row for row in map(json.loads, lines)}
    assert len(rows) == 6
    found = rows["posttrained", 0.5]
    assert (found["proof"], found["program_bits"], found["net_bits"], found["num_bytes"]) == (
        "certified", 3456, 3456 - BARE, 432
    )  # fmt: skip
    assert rows["posttrained", 0.8]["proof"] == "verified"
    assert (found["bare_score"], found["bare_num_examples"]) == (6 / 486, 486)
    ledger = open_run(quickstart).ledger
    scores = {r["candidate"]: r["score"] for r in rows_of(ledger, "rungs") if r["rung"] == 3}
    about = {r["candidate"]: json.loads(r["spec"]) for r in rows_of(ledger, "candidates")}
    numbers = []
    for row in rows_of(ledger, "programs"):
        recipe, spec = json.loads(row["recipe"]), about[row["candidate"]]
        mine = row["rung"] == 3 and spec["model"] == "posttrained" and "adapter" in recipe
        if mine and scores[row["candidate"]] >= 0.5 and spec["adapter"]["rank"] == 1:
            numbers.append(sum(rows * columns for rows, columns in recipe["adapter"]["shapes"]))
    assert found["baselines"]["lora"] == 16 * min(numbers)
    assert found["baselines"]["full"] == 16 * 1_771_200
    assert found["factors"]["lora"] == 16 * min(numbers) / 3456
    # The random model reaches no target, and no LoRA of rank 1 reaches one with the pre-trained.
    assert rows["pretrained", 0.5]["baselines"]["lora"] is None
    assert rows["random", 0.5]["proof"] is rows["pretrained", 0.5]["baselines"]["random"] is None
    net = said(capsys, "results", quickstart, "--json", "--length", "net").splitlines()
    row = next(row for row in map(json.loads, net) if row["candidate"] == found["candidate"])
    assert row["factors"]["lora"] == 16 * min(numbers) / (3456 - BARE)


def test_the_table_of_results_is_csv_and_markdown_too(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, "results", quickstart)
    written = list(csv.reader(said(capsys, "results", quickstart, "--format", "csv").splitlines()))
    lines = said(capsys, "results", quickstart, "--format", "markdown").splitlines()
    marked = [line.strip("| ").split(" | ") for line in lines]
    assert written == [marked[0], *marked[2:]]
    assert len(written) == 7
    for row in written:
        assert all(cell in shown for cell in row)
    assert written[-1][4:9] == ["verified", "3456", "432", "64", "392"]


def test_a_front_against_itself_is_as_long(
    quickstart: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = said(capsys, "front", quickstart, "--against", quickstart)
    assert shown.count(" 1.000 times the program bits on average (Bjøntegaard, +0.00 doub") == 3
    lines = said(capsys, "front", quickstart, "--against", quickstart, "--json").splitlines()
    last = json.loads(lines[-1])
    assert (last["model"], last["factor"], last["low"], last["high"]) == (
        "posttrained", 1.0, 6 / 486, 420 / 486
    )  # fmt: skip


def test_no_file_of_peft_is_smaller_than_its_least_size() -> None:
    """The names of the tensors and their places are all that is not counted."""
    shapes = [(1, 192), (1, 512), (2, 192), (2, 64)]
    tensors = {
        f"base_model.model.layers.{place}.lora_A.weight": np.ones(shape, np.float32)
        for place, shape in enumerate(shapes)
    }
    written = save(tensors, {"format": "pt"})
    (size,) = struct.unpack("<Q", written[:8])
    header = json.loads(written[8 : 8 + size])
    places = sum(len(json.dumps(one["data_offsets"], separators=(",", ":"))) - len("[0,4]")
                 for name, one in header.items() if name in tensors)  # fmt: skip
    padding = size - len(written[8 : 8 + size].rstrip())
    assert least_file_bytes(shapes) == len(written) - places - padding - sum(map(len, tensors))
