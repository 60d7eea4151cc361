"""What the embedded models reach: each regime on each task with no, a short and a trained program.

    python benchmarks/tiny_models.py [--examples 486] [--threads 2]

Prints a Markdown table of scores on the search split. `instruction` is a first line that the
post-trained model was shown; `demonstration` is the best of the first eight examples of the train
split, chosen on 64 examples; `adapter` is a LoRA of rank 4 on all matrices after 400 steps.
"""

import argparse
from pathlib import Path

import torch

from kilobit.evaluators.model.adapters import installed
from kilobit.evaluators.model.base_model import FrozenModel, load
from kilobit.evaluators.model.generate import generate
from kilobit.evaluators.model.training_batches import Lesson
from kilobit.evaluators.tasks.miniature.catalogue import MINIATURE_TASKS, load_miniature
from kilobit.search.adapter_methods import AdapterSpec
from kilobit.search.base_model import BaseModelConfig
from kilobit.search.candidate import Prompt
from kilobit.search.task import Task

TINY = Path(__file__).parent.parent / "examples" / "tiny"
INSTRUCTIONS = {"numbers": "Number:", "translation": "German:", "instructions": "Follow the task."}
ADAPTER = AdapterSpec(
    method="lora",
    rank=4,
    target_modules=("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
    learning_rate=5e-3,
    steps=400,
    batch_size=16,
    seed=0,
)


def score(frozen: FrozenModel, task: Task, prompt: Prompt, num_examples: int) -> float:
    """Return the score of a prompt on the first examples of the search split."""
    examples = task.splits.search[:num_examples]
    head = prompt.render(task)
    texts = generate(
        frozen,
        [head + task.ask(example.input) for example in examples],
        max_new_tokens=task.max_new_tokens,
        stop=task.stop,
        batch_size=64,
    ).texts
    return task.metric.corpus([task.cut(text) for text in texts], examples).score


def best_demonstration(frozen: FrozenModel, task: Task) -> Prompt:
    """Return the best single demonstration of eight."""
    prompts = [
        Prompt(demonstrations=((example.input, example.target),))
        for example in task.splits.train[:8]
    ]
    return max(prompts, key=lambda prompt: score(frozen, task, prompt, 64))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=486)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| task | regime | nothing | instruction | demonstration | adapter |")
    print("|---|---|---|---|---|---|")
    for name in MINIATURE_TASKS:
        task = load_miniature(name, 0)
        for regime in ("random", "pretrained", "posttrained"):
            weights = "random" if regime == "random" else "trained"
            config = BaseModelConfig(
                regime=regime, path=Path(regime), weights=weights, seed=int(regime == "random")
            )
            frozen = load(config, TINY)
            cells = [
                score(frozen, task, Prompt(), args.examples),
                score(frozen, task, Prompt(instruction=INSTRUCTIONS[name]), args.examples),
                score(frozen, task, best_demonstration(frozen, task), args.examples),
            ]
            with installed(frozen, ADAPTER) as adapter:
                adapter.train(frozen, Lesson(task, "", task.splits.train), ADAPTER.steps)
                cells.append(score(frozen, task, Prompt(), args.examples))
            print(f"| {name} | {regime} | {' | '.join(f'{c:.3f}' for c in cells)} |", flush=True)


if __name__ == "__main__":
    main()
