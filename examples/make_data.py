"""Make the files of `examples/data`, all from generators of our own.

python examples/make_data.py

- `negation.jsonl`: English clauses and their negation, 600 lines.
- `clauses.en`, `clauses.de` and `clauses-sealed.en`, `.de`: English clauses and their German
  translation as parallel text, 600 and 300 lines.
- `ifeval_search.jsonl`: prompts in IFEval's format, 270 lines, to search on while the official set
  stays sealed.
- `harness/*.jsonl`: word problems with three answers each, for the task file beside them, 120 and
  twice 60 lines.
"""

import json
import random
from pathlib import Path

from ifeval_prompts import prompts

from kilobit.evaluators.tasks.miniature.grammar import sentence
from kilobit.evaluators.tasks.miniature.word_problems import problem
from kilobit.search.streams import stream

DATA = Path(__file__).parent / "data"
NUM_NEGATIONS = 600
NUM_CLAUSES = {"clauses": 600, "clauses-sealed": 300}
NUM_PROMPTS = 270
NUM_CHOICES = {"train": 120, "validation": 60, "test": 60}


def _write(name: str, lines: list[str]) -> None:
    (DATA / name).write_text("\n".join(lines) + "\n", "utf-8")


def _negation() -> None:
    rng = stream(0, "negation")
    pairs: dict[str, str] = {}
    while len(pairs) < NUM_NEGATIONS:
        clause = sentence(rng)
        pairs.setdefault(clause.english, clause.negated)
    lines = [json.dumps({"clause": text, "negation": target}) for text, target in pairs.items()]
    _write("negation.jsonl", lines)


def _clauses() -> None:
    rng = stream(0, "clauses")
    pairs: dict[str, str] = {}
    while len(pairs) < sum(NUM_CLAUSES.values()):
        clause = sentence(rng)
        pairs.setdefault(clause.english, clause.german)
    waiting = list(pairs.items())
    for name, count in NUM_CLAUSES.items():
        part, waiting = waiting[:count], waiting[count:]
        _write(f"{name}.en", [english for english, _ in part])
        _write(f"{name}.de", [german for _, german in part])


def _choices(rng: random.Random) -> None:
    asked: dict[str, int] = {}
    while len(asked) < sum(NUM_CHOICES.values()):
        drawn = problem(rng)
        asked.setdefault(drawn.question, drawn.answer)
    waiting = list(asked.items())
    for name, count in NUM_CHOICES.items():
        part, waiting = waiting[:count], waiting[count:]
        lines = []
        for question, answer in part:
            answers = [f"{answer + more}" for more in (0, 1, 2)]
            rng.shuffle(answers)
            gold = answers.index(f"{answer}")
            lines.append(json.dumps({"question": question, "answers": answers, "gold": gold}))
        _write(f"harness/{name}.jsonl", lines)


def main() -> None:
    """Write the files beside this script."""
    _choices(stream(0, "choices"))
    _negation()
    _clauses()
    records = prompts(stream(0, "ifeval"), NUM_PROMPTS)
    _write("ifeval_search.jsonl", [json.dumps(record) for record in records])


if __name__ == "__main__":
    main()
