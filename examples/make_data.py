"""Make `examples/data/negation.jsonl`: English clauses and their negation, 600 lines.

python examples/make_data.py
"""

import json
from pathlib import Path

from evaluators.miniature.translation import sentence
from evaluators.streams import stream

NUM_LINES = 600


def main() -> None:
    """Write the file beside this script."""
    rng = stream(0, "negation")
    pairs: dict[str, str] = {}
    while len(pairs) < NUM_LINES:
        clause = sentence(rng)
        pairs.setdefault(clause.english, clause.negated)
    lines = [json.dumps({"clause": text, "negation": target}) for text, target in pairs.items()]
    path = Path(__file__).parent / "data" / "negation.jsonl"
    path.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
