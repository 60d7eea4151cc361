"""A foreign package, installed in a folder: a metric, a task and a battery item."""

from pathlib import Path

SOURCE = """
from kilobit.evaluators.battery.battery import Row
from kilobit.evaluators.metrics.metrics import MeanMetric
from kilobit.search.task import Task, make_example, make_splits


class FirstLetter(MeanMetric):
    name = "first_letter"
    binary = True

    def per_example(self, output, example):
        return float(output.strip()[:1] == example.gold.strip()[:1] != "")


def letters(settings, folder):
    words = [f"{word}{number}" for number in range(settings["number"]) for word in ("ab", "cd")]
    examples = [make_example(word, word.upper()) for word in words]
    third = len(examples) // 3
    parts = (examples[:third], examples[third : 2 * third], examples[2 * third :])
    splits = make_splits("theirs", *parts, seed=0)
    return Task("theirs", "{input} ", "{target}\\n", ("\\n",), 8, FirstLetter(), splits)


class Length:
    name, better = "length of an answer", "lower"

    def __init__(self, settings, folder):
        self.asked = settings["asked"]

    def evaluate(self, model):
        said = model.answer(self.asked, 4, ("\\n",))
        return [Row(self.name, q, float(len(a))) for q, a in zip(self.asked, said)]
"""
POINTS = """
[kilobit.metrics]
first_letter = theirs:FirstLetter
[kilobit.tasks]
letters = theirs:letters
broken = theirs:nowhere
[kilobit.battery]
length = theirs:Length
"""


def install(folder: Path) -> Path:
    """Write the package and what an installer writes beside it; return the folder for sys.path."""
    about = folder / "theirs-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "theirs.py").write_text(SOURCE, "utf-8")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    return folder
