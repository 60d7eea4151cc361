"""Make docs/leaderboard.md from docs/leaderboard.jsonl, and add the certified programs of runs.

    python docs/make_leaderboard.py [RUN ... --command 'kilobit run examples/quickstart.yaml']

For each target that a certified program of a run reaches, the fewest net bits are one entry. It
takes the place of an entry for the same task, data, base model and target that has no fewer bits.
"""

import argparse
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kilobit.cluster.cli.front import results_of
from kilobit.cluster.runs.result_sources import Source, open_sources
from kilobit.evaluators.ledger.storage import place
from kilobit.search.candidate import in_short

HERE = Path(__file__).parent
DATA, PAGE = HERE / "leaderboard.jsonl", HERE / "leaderboard.md"


@dataclass(frozen=True)
class Entry:
    """A certified program that reaches a target with the fewest net bits.

    Attributes:
        task: name of the task.
        model: the base model: its id on a hub, or its folder.
        base_digest: digest of the base model.
        data: digest of the splits and the scoring rule.
        target: the score that is reached.
        net_bits: program bits above those of the bare question.
        program_bits: 8 times the bytes of both files.
        payload_bits: 8 times the bytes of payload.bin.
        candidate: the program in a line.
        program: digest of both files.
        lower: lower bound of its score on the sealed split.
        num_examples: examples in that split.
        level: probability that all bounds of the opening hold.
        date: when it was certified.
        commit: of this repository when the entry was added.
        command: makes it again.
    """

    task: str
    model: str
    base_digest: str
    data: str
    target: float
    net_bits: int
    program_bits: int
    payload_bits: int
    candidate: str
    program: str
    lower: float
    num_examples: int
    level: float
    date: str
    commit: str
    command: str

    @property
    def place(self) -> tuple[str, str, str, str, float]:
        """Return what only one entry is for."""
        return self.task, self.data, self.model, self.base_digest, self.target


HEAD = """# Leaderboard of bits

The fewest net bits of a program that reaches a score, certified on a sealed split, for each task
and base model that was searched. Net bits are program bits above those of the script that only
asks the question ([what is measured](explanation.md)); every number is an upper bound, and a
shorter program may exist. Made by `docs/make_leaderboard.py` from `docs/leaderboard.jsonl`, which
has the digests of programs and data too.

"""
COLUMNS = (
    "task",
    "base model",
    "score ≥",
    "net bits",
    "program bits",
    "payload bits",
    "program",
    "certified",
    "made again by",
)
TAIL = """
*Certified* is the lower bound of the score, the number of sealed examples and the day; all bounds
of a run hold together with the probability that its certificate names, here {levels}.

| base model | digest | added at |
|---|---|---|
{models}

## Submit an entry

An entry is a program, a base model and a sealed split that the search has not seen.

1. Search, and certify on a sealed split of your own. Send the program's folder
   (`RUN/programs/MODEL-CANDIDATE`: `program.py`, `payload.bin`, `manifest.json` and
   `examples.jsonl`), the base model's id and revision, and the command with its sweep file.
2. The one that checks it keeps examples of the task that were never published, and a sweep file
   with them as the search split of its task. The program is fixed before it runs there and none is
   chosen among several, so that run's 95 % interval needs no correction.
3. `verify` decodes the payload, compares the digest of the base model with that of the manifest,
   builds `program.py` again from its recipe, so that foreign code is told, runs both files in a
   process of their own without network, and prints score and interval on the unseen examples. The
   target has to be no more than the lower end:

        kilobit verify PROGRAM --model MODEL --task unseen.yaml

4. An entry of a run folder is added by one command, which reads certificates and lengths from the
   run's ledger; one with more net bits than the entry in its place is left out:

        python docs/make_leaderboard.py RUN --command 'kilobit run SWEEP'
"""


def entries() -> list[Entry]:
    """Return the entries of the data set."""
    lines = DATA.read_text("utf-8").split("\n")
    return [Entry(**json.loads(line)) for line in lines if line]


def page(found: Iterable[Entry]) -> str:
    """Return the page of entries."""
    ordered = sorted(found, key=lambda one: (one.task, one.target, one.net_bits))
    rows = [
        (
            one.task,
            f"`{one.model}`",
            f"{one.target:g}",
            f"**{one.net_bits:,}**",
            f"{one.program_bits:,}",
            f"{one.payload_bits:,}",
            one.candidate.replace("|", "&#124;"),
            f"{one.lower:.3f} on {one.num_examples:,}, {one.date}",
            f"`{one.command}`",
        )
        for one in ordered
    ]
    models = sorted({(one.model, one.base_digest, one.commit) for one in ordered})
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    digests = "\n".join(f"| `{name}` | `{digest}` | {commit} |" for name, digest, commit in models)
    levels = ", ".join(f"{level:g}" for level in sorted({one.level for one in ordered}))
    return f"{HEAD}{table}\n{TAIL.format(models=digests, levels=levels)}"


def of_runs(runs: Sequence[Path], command: str, commit: str) -> list[Entry]:
    """Return an entry for each target that a certified program of some runs reaches.

    Raises:
        InputError, ValueError: if a run can't be read.
    """
    sources, _ = open_sources([place(str(run)) for run in runs])
    points = [point for source in sources for point in source.points("net")]
    found = []
    for row in results_of(sources, points, "net"):
        point = row.point
        if row.proof != "certified" or point is None or point.certificate is None:
            continue
        source = next(one for one in sources if one.name == point.run)
        sealed, lower = point.certificate, point.certificate.lower
        assert lower is not None, "a certified program has a lower bound"
        assert point.net_bits is not None, "points by net bits have them"
        found.append(
            Entry(
                task=row.task,
                model=_model(source, row.model),
                base_digest=sealed.base_digest or "",
                data=sealed.data or "",
                target=row.target,
                net_bits=point.net_bits,
                program_bits=point.program_bits,
                payload_bits=point.payload_bits,
                candidate=in_short(_spec(source, point.candidate)),
                program=point.program,
                lower=lower,
                num_examples=sealed.num_examples,
                level=sealed.level,
                date=f"{sealed.finished_at:%Y-%m-%d}",
                commit=commit,
                command=command,
            )
        )
    return found


def _model(source: Source, label: str) -> str:
    config = next(one for one in source.sweep.base_models if one.label == label)
    # A folder is named as in a sweep file of examples/, or by its last part.
    path = config.path
    return config.hub or (str(path.name) if path and path.is_absolute() else str(path))


def _spec(source: Source, candidate: str) -> dict[str, object]:
    rows = source.read("candidates", ["candidate", "spec"]).to_pylist()
    return dict(json.loads(next(row["spec"] for row in rows if row["candidate"] == candidate)))


def merged(known: Iterable[Entry], new: Iterable[Entry]) -> list[Entry]:
    """Return the entry with the fewest net bits of each place, of equal ones the new one."""
    found = {one.place: one for one in known}
    for one in new:
        if one.place not in found or one.net_bits <= found[one.place].net_bits:
            found[one.place] = one
    return sorted(found.values(), key=lambda one: one.place)


def main() -> None:
    """Add the entries of the runs that are named, and write data and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--command", help="the command that makes the runs again")
    asked = parser.parse_args()
    found = entries() if DATA.exists() else []
    if asked.runs:
        if not asked.command:
            parser.error("--command: say how the runs are made again")
        words = ["git", "-C", str(HERE), "rev-parse", "--short=12", "HEAD"]
        # The words are fixed, and git is that of this machine.
        commit = subprocess.check_output(words, text=True).strip()  # noqa: S603
        found = merged(found, of_runs(asked.runs, asked.command, commit))
    DATA.write_text("".join(json.dumps(asdict(one)) + "\n" for one in found), "utf-8")
    PAGE.write_text(page(found), "utf-8")


if __name__ == "__main__":
    main()
