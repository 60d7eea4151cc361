"""What `report` says."""

from tests.messages.aggregate_cases import table
from tests.messages.run_cases import damaged
from tests.messages.scene import Case, Scene

OVERLAID = "report {run} --overlay {here}/t.csv"


def points_of_others(scene: Scene) -> None:
    """Make a data set that holds no run."""
    table("accuracy,bits\n0.5,80\n")(scene)
    from launch import main

    words = ["--import", str(scene.here / "t.csv"), "--map", "score=accuracy,payload_bits=bits"]
    assert main(["aggregate", *words, "-o", str(scene.here / "set")]) == 0


def two_lengths(scene: Scene) -> None:
    """Make two runs that compare their programs by different lengths."""
    scene.begun("run")
    scene.begun("other", length="payload")


CASES = [
    Case("report {run}", "{run} holds no run: run.json is missing"),
    Case("report {run}", "rungs/x.a1.parquet: not a part of a ledger: ", given=damaged("rungs")),
    Case(
        "report {here}/set -o {here}/r.html",
        "there is no run in it, only points of others: `kilobit front` shows them",
        given=points_of_others,
    ),
    Case(
        "report {run} {here}/other",
        "say by -o FILE.html where the report of several runs is to lie",
    ),
    Case(
        "report {run} -o {here}",
        "-o {here}: that is a folder; a file such as {here}/report.html fits",
        given=lambda scene: scene.begun(),
    ),
    Case("report {run} --columns bits=b", "--columns belongs to --overlay FILE"),
    Case(
        "report {run} run -o {here}/r.html",
        " is given twice",
        given=lambda scene: scene.begun(),
    ),
    Case(
        "report {run} {here}/other -o {here}/r.html",
        "the runs compare programs differently (",
        given=two_lengths,
    ),
    Case(OVERLAID, "{here}/t.csv: there is no such file", given=lambda scene: scene.begun()),
]
