"""A tiny model that thinks before it answers, and answers wrongly if it does not."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from kilobit.search.streams import stream
from tests.conftest import _model, _tokenizer
from tests.support.tasks.records import write_jsonl

WORDS = ("cat", "dog", "sun", "car", "red", "box", "hat", "cup")
# The switch of Qwen3's template: on, the model opens the thinking; off, an empty one is given.
TEMPLATE = (
    "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
# Both occur in the thinking.
STOP = ("\n\n", "\nQ:")


def _texts(number: int, word: str) -> list[tuple[str, str]]:
    """Return texts and what follows: a thinking, the answer after it, and one without thinking."""
    asked, thought = f"{word}?\n<think>\n", f"A {word}.\n\nQ: {number}?\n</think>"
    answered = (f"{asked}{thought}\n\n", f"{number + 10}\n\n")
    return [(asked, thought), answered, (f"{asked}\n</think>\n\n", f"{number}\n\n")]


def make_thinker(folder: Path) -> Path:
    """Train a model to think about `WORDS`, save it with its template, and return its folder."""
    raw = _tokenizer(bos=False, pad=True)
    raw.chat_template = TEMPLATE
    model: Any = _model("qwen2", len(raw))
    for part in (model, raw):
        part.save_pretrained(folder)
    # Loaded, it may split texts in another way.
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), []
    for number, word in enumerate(WORDS):
        for asked, said in _texts(number, word):
            before, after = tokenizer(asked)["input_ids"], tokenizer(said)["input_ids"]
            rows.append((before + after, [-100] * len(before) + after))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row, _ in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    while True:
        told = model(input_ids=ids).logits[:, :-1].transpose(1, 2)
        losses = torch.nn.functional.cross_entropy(told, labels[:, 1:], reduction="none")
        if losses.max() < 0.2:
            break
        optimizer.zero_grad()
        losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def write_task(folder: Path) -> dict[str, Any]:
    """Write the examples that a thinking model solves, and return the settings of their task."""
    records = [{"input": f"{word}?", "target": n + 10} for n, word in enumerate(WORDS)]
    stream(0, "thinker").shuffle(records)
    for name, part in (("search", records[:4]), ("sealed", records[4:6]), ("train", records[6:])):
        write_jsonl(folder / f"{name}.jsonl", part)
    files = {name: f"{name}.jsonl" for name in ("train", "search", "sealed")}
    return {
        "kind": "jsonl", "name": "words", "files": files, "metric": "number", "stop": list(STOP),
        "question": "{input}\n", "answer": "{target}\n\n", "max_new_tokens": 8,
    }  # fmt: skip
