"""The data of the examples on a public model, and their sweep files."""

import json
from pathlib import Path

import pytest

from kilobit.cluster.sweep.sweep import load_sweep
from tests.conftest import REPOSITORY

REAL = REPOSITORY / "examples" / "real"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REAL))


def package(number: int, section: str, description: str) -> str:
    tags = "Tag: a::b,\n Section: none\n"
    return (
        f"Package: p{number}\nDescription-en: {description}\nDescription-md5: 0\n{tags}"
        f"Section: {section}\n\n"
    )


def test_sections_are_those_of_descriptions_that_occur_once_and_do_not_name_them() -> None:
    from prepare import SECTIONS, sections

    text = "".join(
        package(i, name if i % 2 else f"contrib/{name}", f"package number {i} of {name[::-1]}")
        for name in SECTIONS
        for i in range(120)
    )
    unfit = [
        ("games", "is given twice"), ("games", "is given twice"), ("sound", "in two sections"),
        ("mail", "in two sections"), ("mail", "short"), ("doc", "too long " * 10),
        ("python", "about Python itself"), ("kernel", "another section"),
    ]  # fmt: skip
    text += "".join(package(i, *one) for i, one in enumerate(unfit))
    rows = sections(text.split("\n"))
    assert {(row["description"], row["section"]) for row in rows} == {
        (f"package number {i} of {name[::-1]}", name) for name in SECTIONS for i in range(120)
    }
    assert len(rows) == 960
    assert rows == sections(text.split("\n"))
    fewer = text.replace("package number 7 of selif", "x", 1).replace("number 7 of semag", "7", 1)
    with pytest.raises(ValueError, match="section games: 119 descriptions fit, 120 are needed"):
        sections(fewer.replace("package 7", "p").split("\n"))


def test_countries_are_those_of_places_that_do_not_name_them() -> None:
    from prepare import countries

    zones = ["# comment", "", "KE\t-0117+03649\tAfrica/Nairobi", "LU\t+4936\tEurope/Luxembourg",
             "AR\t-3132\tAmerica/Argentina/San_Juan\tSan Juan (SJ)",
             "MX\t+19\tAmerica/Mexico_City"]  # fmt: skip
    names = ["#c", "KE\tKenya", "LU\tLuxembourg", "AR\tArgentina", "MX\tMexico"]
    assert countries(zones, names) == [
        {"place": "Nairobi", "country": "Kenya"},
        {"place": "San Juan", "country": "Argentina"},
    ]


def test_the_shares_of_ifeval_hold_no_prompt_twice() -> None:
    from prepare import IFEVAL, shares_of_ifeval

    record = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    punkt = {
        "instruction_id_list": ["length_constraints:number_sentences"],
        "kwargs": [{"relation": "at least", "num_sentences": 3}],
    }
    lines = [
        json.dumps({"key": i, "prompt": f"Write {i % 450} words.", **record}) for i in range(500)
    ]
    lines += [json.dumps({"key": 1000 + i, "prompt": f"Say {i}.", **punkt}) for i in range(20)]
    shares = shares_of_ifeval(lines)
    assert {split: len(records) for split, records in shares.items()} == IFEVAL
    prompts = [record["prompt"] for records in shares.values() for record in records]
    assert len(set(prompts)) == len(prompts)
    assert not [prompt for prompt in prompts if prompt.startswith("Say")]
    with pytest.raises(ValueError, match="line 1: field 'key'"):
        shares_of_ifeval(['{"prompt": "x"}'])


@pytest.mark.parametrize("path", sorted(REAL.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweep_files_name_what_the_script_makes(path: Path) -> None:
    sweep = load_sweep(path)
    script, about = (
        (REAL / "prepare.py").read_text("utf-8"),
        (REAL / "README.md").read_text("utf-8"),
    )
    task = sweep.task.model_dump(mode="json", exclude_none=True)
    named = (
        {Path(task["data"]).name}
        if "data" in task
        else {Path(task[split]["path"]).name for split in ("train", "search", "sealed")}
    )
    assert all(f'"{name}"' in script for name in named)
    assert {model.path for model in sweep.base_models} == {Path("models/smollm2")}
    assert f"[{path.name}]({path.name})" in about
