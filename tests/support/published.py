"""A file of published points in the shape of a large paper's table, made anew each time."""

import random
from pathlib import Path

NUM_ROWS = 1389
# Two scores are shares, the translations' BLEU is from 0 to 100.
TASKS = ("gsm8k", "ifeval", "wmt14")
MODELS = tuple(f"step{1000 * number}" for number in range(1, 18))
SCRIPT_BITS = {"prompt": 3064, "lora": 5888}


def write_published(path: Path) -> list[tuple[str, str, str, int, float]]:
    """Write the file and return its points: task, model, family, payload bits, score from 0 to 1.

    The names of base models are paths of their checkpoints, and one of them is `final`.
    """
    rng = random.Random("published points")
    points, lines = [], ["benchmark,checkpoint,method,bits,result"]
    for number in range(NUM_ROWS):
        task, model = TASKS[number % 3], MODELS[number // 3 % len(MODELS)]
        family, bits = rng.choice(["prompt", "lora"]), 8 * rng.randrange(1, 200_000)
        percent = round(100 * min(1.0, rng.random() * bits**0.1 / 3.5), 2)
        result = f"{percent:.2f}" if task == "wmt14" else f"{percent / 100:.4f}"
        folder = "final" if model == MODELS[-1] else model
        lines.append(f"{task},/data/olmo/{folder}/,{family},{bits},{result}")
        score = percent / 100 if task == "wmt14" else float(result)
        points.append((task, model, family, bits, score))
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return points
