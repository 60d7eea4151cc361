"""A task of the lm-evaluation-harness as the task of a search.

The harness reads the task file and the data, makes question, answers and target of each document,
and scores an output by the filters and the metric of its task. A question is the whole context that
the harness gives a model without demonstrations. So the score of a program is the one that the
harness gives for the same program on the same documents.

Task files can hold code. Templates run in Jinja's sandbox, which lets them format a document and
nothing else. Functions (`!function`) of the harness's own tasks are a part of that package; others
run only if the settings say so.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from kilobit.evaluators.metrics.metrics import MeanMetric
from kilobit.evaluators.tasks.jsonl import SplitFractions
from kilobit.evaluators.tasks.published.splits import SEARCH_SHARE, without
from kilobit.evaluators.tasks.sources import DatasetMissingError, checked_text, in_cluster
from kilobit.search.settings import Config, LocalPath, reason_of
from kilobit.search.task import (
    OFFERED,
    ChoicePart,
    Example,
    Task,
    make_example,
    make_splits,
    offered,
    share,
)

# How the log-probabilities of answers are compared, by the metric of a multiple-choice task.
_PER: Mapping[str, Literal["answer", "character", "byte"]] = {
    "acc": "answer",
    "acc_norm": "character",
    "acc_bytes": "byte",
}
# Settings of a task file that decide scores, besides its documents and questions.
_RULES = ("output_type", "doc_to_target", "doc_to_choice", "target_delimiter", "fewshot_delimiter",
          "generation_kwargs", "filter_list", "metric_list", "process_results")  # fmt: skip
_GREEDY = {"until", "max_gen_toks", "do_sample", "temperature"}
_DEFAULT_TOKENS = 256


class HarnessTask(Config):
    """A generate-until or multiple-choice task of the lm-evaluation-harness."""

    kind: Literal["harness"]
    """a task of the lm-evaluation-harness"""
    name: str = Field(min_length=1)
    """its name in the harness, also its label in tables"""
    include_path: LocalPath | None = None
    """folder with task files of your own, relative to the sweep file"""
    metric: str | None = None
    """one of the task's metrics; by default its first one"""
    filter: str | None = None
    """one of the task's filters; by default its first one"""
    trust_task_code: bool = False
    """run the functions that task files of your own name"""
    search_share: float | None = Field(default=None, gt=0, lt=1)
    """share of the train documents that becomes the search split where the task has no validation
    split beside its test split, by the hash of the question or cluster; by default 0.2"""
    fractions: SplitFractions | None = None
    """divides the documents that the harness scores into all three splits, for a task without
    others; then programs are scored on a part of them"""
    seed: int = Field(default=0, ge=0)
    """fixes the order of the examples"""
    balance: bool = True
    """as in the other tasks"""
    cluster_field: str | None = None
    """key of the passage, document or user in a document, as in the other tasks"""
    near_duplicates: Literal["count", "error"] = "count"
    """as in the other tasks"""

    @model_validator(mode="after")
    def _divided_once(self) -> Self:
        if self.fractions is not None and self.search_share is not None:
            raise ValueError("give `search_share` or `fractions`, which divides all splits")
        return self


def load_harness_task(config: HarnessTask, folder: Path) -> Task:
    """Return the task that `config` describes; its paths are relative to `folder`.

    Raises:
        DatasetMissingError: if a data set is not on this machine and can't be fetched.
        ValueError: if the harness is not installed or has no such task, the task has no such
            metric, filter or splits, is of another kind, or a document is unusable.
    """
    try:
        import lm_eval  # noqa: F401 - is it installed
    except ImportError as error:
        raise ValueError(
            "a task of the lm-evaluation-harness needs the packages of kilobit[bench]: "
            f"pip install 'kilobit[bench]' ({error})"
        ) from error
    include = None if config.include_path is None else folder / config.include_path
    with quiet():
        theirs = _loaded(config, include)
        rule = _rule(config, theirs)
        train, search, sealed = _splits(config, theirs, rule)
    about = theirs.config
    chooses = about.output_type == "multiple_choice"
    options = {} if chooses else about.generation_kwargs
    until = options.get("until", ())
    return Task(
        name=config.name,
        question="{input}",
        answer=f"{about.target_delimiter}{{target}}{about.fewshot_delimiter}",
        stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
        max_new_tokens=1 if chooses else int(options.get("max_gen_toks", _DEFAULT_TOKENS)),
        metric=rule,
        splits=make_splits(config.name, train, search, sealed, config.seed),
        choice=ChoicePart(delimiter=about.target_delimiter, per=_PER[rule.name])
        if chooses
        else None,
    )


class HarnessMetric(MeanMetric):
    """A metric of a task of the harness on the output of one filter.

    An output of a multiple-choice task has to be one of the answers that its input offers.

    Args:
        task: the task, as the harness made it.
        name: of the metric.
        filter_name: of the filter.
    """

    def __init__(self, task: Any, name: str, filter_name: str) -> None:
        about = task.config
        self.name, self._task, self._filter_name = name, task, filter_name
        self._chooses = about.output_type == "multiple_choice"
        own = callable(about.process_results)
        self.binary = self._chooses or (name == "exact_match" and not own)
        settings = about.to_dict()
        rules = [name, filter_name, [settings.get(key) for key in _RULES]]
        said = json.dumps(rules, sort_keys=True, default=str)
        self.digest = hashlib.sha256(said.encode()).hexdigest()[:16]

    def per_example(self, output: str, example: Example) -> float:
        """Return the metric of one output.

        Raises:
            ValueError: if it is no number from 0 to 1.
        """
        document = json.loads(example.extra["document"])
        found = (self._of_choice if self._chooses else self._of_text)(output, example, document)
        value = found.get(self.name)
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(
                f"the metric {self.name} of {self._task.config.task} gave {value!r:.60}: a number "
                "from 0 to 1 is needed"
            )
        return float(value)

    def _of_text(self, output: str, example: Example, document: Any) -> dict[str, Any]:
        from lm_eval.api.instance import Instance

        asked = Instance("generate_until", document, (example.input, {}), 0)
        asked.resps = [output]
        for one in self._task._filters:  # noqa: SLF001 - its `apply_filters` needs whole splits
            if one.name == self._filter_name:
                one.apply([asked])
        found: dict[str, Any] = self._task.process_results(
            document, [asked.filtered_resps[self._filter_name]]
        )
        return found

    def _of_choice(self, output: str, example: Example, document: Any) -> dict[str, Any]:
        _, answers = offered(example.input)
        if output not in answers:
            return {self.name: 0.0}
        # The harness finds the answer itself: the largest number, however it is scaled.
        chosen = answers.index(output)
        told = [(0.0 if at == chosen else -1e9, False) for at in range(len(answers))]
        found: dict[str, Any] = self._task.process_results(document, told)
        return found


def _loaded(config: HarnessTask, include: Path | None) -> Any:
    """Return the task as the harness makes it, its data read.

    Raises:
        DatasetMissingError, ValueError: as `load_harness_task`.
    """
    from lm_eval.api.task import ConfigurableTask

    if include is not None and not include.is_dir():
        raise ValueError(f"include_path: there is no folder {include}")
    manager = manager_of(config.name, include)
    entry = manager.task_index.get(config.name)
    where = f" in {include}" if include else ""
    if entry is None or config.name not in manager.all_subtasks:
        of = "a group of tasks" if entry is not None else "no task"
        near = [one for one in manager.all_subtasks if one.startswith(config.name.split("_")[0])]
        shown = f"; tasks are {', '.join(near[:8])}" if near else ""
        raise ValueError(f"task: {config.name!r} is {of} of the harness{where}{shown}")
    settings = settings_of(entry.yaml_path, trusted=config.trust_task_code)
    if "class" in settings:
        raise ValueError(
            f"task {config.name}: {entry.yaml_path} is a class of its own, with no question, "
            "answers and target to read"
        )
    try:
        task = ConfigurableTask(config=settings)
    except (ConnectionError, FileNotFoundError) as error:
        raise DatasetMissingError(missing_data(config.name, error)) from error
    except Exception as error:  # the harness and its data readers raise many types
        raise ValueError(f"task {config.name}: {reason_of(error)}") from error
    _check_kind(task)
    return task


def _check_kind(task: Any) -> None:
    about, problem = task.config, None
    kinds = ("generate_until", "multiple_choice")
    if about.output_type not in kinds:
        problem = f"`output_type: {about.output_type}` is none of {' and '.join(kinds)}"
    elif getattr(task, "MULTIMODAL", False) or task.multiple_input:
        problem = "its questions are not one text each"
    elif about.repeats != 1:
        problem = f"`repeats: {about.repeats}` asks for several answers to a question"
    elif about.output_type == "multiple_choice" and callable(about.process_results):
        problem = "`process_results` scores log-probabilities, and a program prints one answer"
    elif about.output_type == "generate_until":
        options = about.generation_kwargs
        if options.get("do_sample") or options.get("temperature") or set(options) - _GREEDY:
            problem = f"`generation_kwargs: {options}`: programs generate greedily"
    if problem is not None:
        raise ValueError(f"task {about.task}: {problem}, so it can't be searched")


def _rule(config: HarnessTask, task: Any) -> HarnessMetric:
    """Return the metric that the settings name.

    Raises:
        ValueError: if the task has no such metric or filter, or its mean is not the score.
    """
    from lm_eval.api.registry import get_aggregation

    known, better = task.aggregation(), task.higher_is_better()
    usable = [
        name
        for name, how in known.items()
        if how is get_aggregation("mean")
        and better.get(name, True)
        and (name in _PER or task.config.output_type != "multiple_choice")
    ]
    name = config.metric or next(iter(usable), None)
    if name is None or name not in usable:
        raise ValueError(
            f"metric: {name!r} of {config.name} is no mean over documents of which higher is "
            f"better; it has {', '.join(known)}, usable are {', '.join(usable) or 'none'}"
        )
    filters = [one.name for one in task._filters]  # noqa: SLF001 - no public name
    chosen = config.filter or filters[0]
    if chosen not in filters:
        raise ValueError(
            f"filter: {config.name} has no filter {chosen!r}, only {', '.join(filters)}"
        )
    return HarnessMetric(task, name, chosen)


def _splits(config: HarnessTask, task: Any, rule: HarnessMetric) -> tuple[list[Example], ...]:
    """Return train, search and sealed examples; an input of a later split is in no earlier one.

    Raises:
        ValueError: if the task lacks a split, or a document is unusable.
    """
    about = task.config
    there = {
        "training_split": about.training_split,
        "validation_split": about.validation_split,
        "test_split": about.test_split,
        "fewshot_split": task.fewshot_cfg.split,
    }
    sealed_name = about.test_split or about.validation_split
    scored = _examples(config, task, rule, sealed_name, offers=True)
    if config.fractions is not None:
        train, search, sealed = config.fractions.divide(scored)
        return [_without_offers(one) for one in train], search, sealed
    learned = about.training_split or task.fewshot_cfg.split
    compared = about.validation_split if about.test_split else None
    if learned is None or learned in (sealed_name, compared) or compared == sealed_name:
        has = ", ".join(f"{name} {split!r}" for name, split in there.items() if split)
        raise ValueError(
            f"task {config.name} has no documents of their own for training: it has {has}; give "
            "`fractions`, which divides those that the harness scores into three splits"
        )
    if compared is not None and config.search_share is not None:
        raise ValueError(
            f"search_share: task {config.name} has the validation split {compared!r}, so nothing "
            "of its train split is held back"
        )
    train = _examples(config, task, rule, learned, offers=True)
    if compared is not None:
        search = _examples(config, task, rule, compared, offers=True)
    else:
        part = SEARCH_SHARE if config.search_share is None else config.search_share
        search = [one for one in train if share(one.cluster or one.question) < part]
    search = without(search, scored)
    return [_without_offers(one) for one in without(train, search, scored)], search, scored


def _examples(
    config: HarnessTask, task: Any, rule: HarnessMetric, split: str, *, offers: bool
) -> list[Example]:
    documents = task.dataset[split]
    if task.config.process_docs is not None:
        documents = task.config.process_docs(documents)
    found = []
    for number, document in enumerate(documents):
        where = f"task {config.name}, split {split!r}, document {number}"
        try:
            example = _example(task, rule, document, where)
        except ValueError:
            raise
        except Exception as error:  # templates and functions of a task raise many types
            raise ValueError(f"{where}: {type(error).__name__}: {reason_of(error)}") from error
        found.append(in_cluster(example, document, config.cluster_field, where))
    return found


def _example(task: Any, rule: HarnessMetric, document: Any, where: str) -> Example:
    """Return the example of a document, the answers of a multiple-choice task in its input.

    Raises:
        ValueError: naming `where`, if it is unusable.
    """
    text = task.fewshot_context(document, num_fewshot=0, gen_prefix=task.doc_to_prefix(document))
    answers = [] if task.config.doc_to_choice is None else task.doc_to_choice(document)
    gold = task.doc_to_target(document)
    gold = gold[0] if isinstance(gold, list) and gold else gold
    if answers and isinstance(gold, int):
        if not 0 <= gold < len(answers):
            raise ValueError(f"{where}: the target {gold} is none of {len(answers)} answers")
        gold = answers[gold]
    parts = [checked_text(str(text), f"{where}: the question")]
    if task.config.output_type == "multiple_choice":
        parts += [checked_text(str(one), f"{where}: an answer") for one in answers]
    target = checked_text(str(gold), f"{where}: the target")
    if any(OFFERED in part for part in parts):
        raise ValueError(f"{where}: it holds the character U+001E, which divides answers")
    extra = {"document": json.dumps(dict(document)), "rules": rule.digest}
    return make_example(OFFERED.join(parts), target, extra)


def _without_offers(example: Example) -> Example:
    return make_example(example.question, example.target, example.extra)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let the harness print nothing but errors, and its templates run in the sandbox."""
    import datasets

    _sandbox()
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    try:
        logger.setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


@lru_cache(maxsize=1)
def _sandbox() -> None:
    """Let templates of this process run in Jinja's sandbox from now on, also while scoring."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    before = utils.env
    sandbox = SandboxedEnvironment(
        loader=before.loader, undefined=before.undefined, keep_trailing_newline=True
    )
    sandbox.filters.update(before.filters)
    utils.env = sandbox


@lru_cache(maxsize=1)
def _all_tasks() -> Any:
    """Return the index of all tasks of the harness; slow, as it reads thousands of files."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def manager_of(name: str, include: Path | None) -> Any:
    """Return an index that has the task `name`, if there is one.

    Args:
        name: of a task or a group.
        include: a folder that defines it; by default the harness's folder that is named as `name`
            is up to its first underscore.
    """
    from lm_eval.tasks import TaskManager

    own = _own_tasks() / name.split("_")[0]
    folder = include or (own if own.is_dir() else None)
    if folder is not None:
        found = TaskManager(include_path=str(folder), include_defaults=False)
        if name in found.all_tasks or include is not None:
            return found
    return _all_tasks()


def _own_tasks() -> Path:
    """Return the folder of the harness's own task files."""
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def settings_of(path: Path, *, trusted: bool) -> dict[str, Any]:
    """Return the settings of a task file, its data files relative to the file.

    Raises:
        ValueError: if it would run code, is not of the harness, and is not trusted.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    if not trusted:
        check_code(path)
    found: dict[str, Any] = load_yaml(path)
    for key in ("tag", "group", "task_list"):
        found.pop(key, None)
    options = dict(found.get("dataset_kwargs") or {})
    for key in ("data_files", "data_dir"):
        if key in options:
            options[key] = _located(options[key], path.parent)
    if f"{found.get('dataset_path', '')}".startswith("."):
        found["dataset_path"] = _located(found["dataset_path"], path.parent)
    return {**found, **({"dataset_kwargs": options} if options else {})}


def _located(files: Any, base: Path) -> Any:
    """Return paths, alone or in lists and objects, relative to `base`; URLs stay as they are."""
    if isinstance(files, Mapping):
        return {name: _located(one, base) for name, one in files.items()}
    if isinstance(files, Sequence) and not isinstance(files, str):
        return [_located(one, base) for one in files]
    return files if "://" in str(files) else str(base / str(files))


def check_code(path: Path) -> None:
    """Check that a task file, with those it includes, runs no code that is not the harness's own.

    Raises:
        ValueError: naming the file, if it does.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    if path.resolve().is_relative_to(_own_tasks().resolve()):
        return
    said = path.read_text("utf-8")
    functions = [
        f"!function {event.value}"
        for event in yaml.parse(said, Loader=yaml.SafeLoader)
        if getattr(event, "tag", None) == "!function" and hasattr(event, "value")
    ]
    own = load_yaml(path, resolve_func=False, recursive=False)
    metrics = [one for one in own.get("metric_list") or () if isinstance(one, Mapping)]
    functions += ["hf_evaluate: true" for one in metrics if one.get("hf_evaluate")]
    if own.get("unsafe_code"):
        functions.append("unsafe_code: true")
    if functions:
        raise ValueError(
            f"{path}: {functions[0]}: it runs code that comes with the task; if you trust it, set "
            "`trust_task_code: true`"
        )
    includes = own.get("include") or ()
    for one in [includes] if isinstance(includes, str) else includes:
        check_code(path.parent / one)


def missing_data(name: str, error: Exception) -> str:
    """Return the message for data of a task that are not on this machine."""
    return f"{name} is not on this machine and can't be fetched: {reason_of(error)}"
