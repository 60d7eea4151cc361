"""Sweeps and data as runs and data sets recorded them, also those of earlier versions."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from kilobit.cluster.sweep.sweep import Sweep
from kilobit.search.base_model import check_same, digest_of
from kilobit.search.candidate import GIVEN
from kilobit.search.records import WorkerRecord
from kilobit.search.search import REMOVED_KINDS
from kilobit.search.task import Task, split_digest

# Settings of a task that decide scores, where it has them.
_SCORING = ("answer", "judge", "metric", "question", "stop", "tokenizer")


def recorded_sweep(settings: Any) -> Sweep:
    """Return a recorded sweep with the meaning that it had for its run.

    What could not be set when it was recorded has the value that held then, where another one is
    the default now: programs have the batch of the search, none runs without the model, no order is
    balanced, a chat is used only where a family says so and has a single turn, both factors of LoRA
    learn at one rate, and BLEU of FLORES has the tokenizer 13a. A removed proposer proposes nothing
    any more; one that needs the same budget stands for it.

    Raises:
        ValueError, TypeError: if it is damaged.
    """
    if not isinstance(settings, dict):
        return Sweep.model_validate(settings)
    changed = dict(settings)
    if proposer_of(settings) in REMOVED_KINDS:
        changed["proposer"] = {"kind": "evolution"}
    task = settings.get("task")
    if isinstance(task, dict) and task.get("kind") == "flores" and "tokenizer" not in task:
        changed["task"] = task = {**task, **_tokenizer_of_then(str(task.get("target")))}
    # The items of built-in tasks are generated, with one order for ever.
    if isinstance(task, dict) and task.get("kind") != "miniature":
        changed["task"] = {"balance": False, **task}
    families, then = settings.get("families"), {"chat": [False], "turns": False}
    if isinstance(families, dict):
        changed["families"] = {
            name: {**then, **({"ratio": 1.0} if name == "lora" else {}), **family}
            if isinstance(family, dict) and name != GIVEN
            else family
            for name, family in families.items()
        }
    changed.setdefault("model_free", {"constants": 0, "copy_input": False})
    sweep = Sweep.model_validate_json(json.dumps(changed), strict=True)
    if "program_batch_size" in settings:
        return sweep
    return sweep.model_copy(update={"program_batch_size": sweep.batch_size})


def data_parts(task: Task, sweep: Sweep) -> dict[str, str]:
    """Return the parts of the data that scores are relative to, by name."""
    splits = {name: getattr(task.splits, name) for name in ("train", "search", "sealed")}
    rule = sweep.task.model_dump(mode="json", include=set(_SCORING))
    return {
        **{f"{name} split": split_digest(own, task.metric) for name, own in splits.items()},
        "scoring rule": digest_of({"metric": task.metric.name, **rule}),
    }


def check_data(records: Iterable[WorkerRecord], now: Mapping[str, str]) -> None:
    """Check that the data of a run are those that its workers recorded.

    Raises:
        ValueError: naming what has changed.
    """
    for known in {record.data for record in records if record.data}:
        check_same("task: the", now, json.loads(known), "data")


def proposer_of(settings: Any) -> Any:
    """Return the kind of the proposer in a recorded sweep, None if it has none."""
    proposer = settings.get("proposer") if isinstance(settings, dict) else None
    return proposer.get("kind") if isinstance(proposer, dict) else None


def _tokenizer_of_then(target: str) -> dict[str, str]:
    """Return the setting of BLEU's tokenizer, empty where the default is still the same."""
    from kilobit.evaluators.metrics.bleu import tokenizer_of

    with suppress(ValueError):
        if tokenizer_of(target) == "13a":
            return {}
    return {"tokenizer": "13a"}
