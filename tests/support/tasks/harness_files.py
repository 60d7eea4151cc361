"""Task files and JSON data for the lm-evaluation-harness: words to generate, answers to choose."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

from kilobit.evaluators.tasks.miniature.catalogue import load_miniature

SPLITS = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
GENERATE: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{answer}}",
    "fewshot_delimiter": "\n",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
    "filter_list": [
        {
            "name": "number",
            "filter": [
                {"function": "regex", "regex_pattern": "(\\d+)"},
                {"function": "take_first"},
            ],
        },
        {"name": "whole", "filter": [{"function": "take_first"}]},
    ],
    "metric_list": [
        {
            "metric": "exact_match",
            "aggregation": "mean",
            "higher_is_better": True,
            "ignore_punctuation": True,
        }
    ],
}
CHOOSE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA: ",
    "doc_to_target": "{{gold}}",
    "doc_to_choice": "{{answers}}",
    "target_delimiter": "",
    "fewshot_delimiter": "\n",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}


def documents(number: int) -> dict[str, list[dict[str, Any]]]:
    """Return documents of each split: a question, its answer, and three answers to choose from."""
    splits, rng = load_miniature("numbers", 0).splits, random.Random(0)
    found = {}
    for name, examples in (
        ("train", splits.train),
        ("validation", splits.search),
        ("test", splits.sealed),
    ):
        found[name] = []
        for example in examples[:number]:
            others = [int(example.target) + 1, int(example.target) + 2]
            # The longest one is right less often by chance, so `acc` and `acc_norm` differ.
            answers = [example.target, f"{others[0]}", f"{others[1]} or more"]
            rng.shuffle(answers)
            found[name].append(
                {
                    "question": example.input,
                    "answer": example.target,
                    "answers": answers,
                    "gold": answers.index(example.target),
                }
            )
    return found


def write_task(
    folder: Path, name: str, about: dict[str, Any], number: int = 24, **changes: Any
) -> Path:
    """Write a task file and its data below `folder`, which is returned; None removes a setting."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, rows in documents(number).items():
        files[split] = f"{split}.jsonl"
        said = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / files[split]).write_text(said, "utf-8")
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        **SPLITS,
        **about,
        **changes,
    }
    said = yaml.safe_dump({key: value for key, value in settings.items() if value is not None})
    (folder / f"{name}.yaml").write_text(said, "utf-8")
    return folder
