"""The sweep file: everything a run depends on, typed and checked before anything starts.

`load_sweep` reads YAML and returns a `Sweep`. Every problem is raised as one `SweepError` whose
message names file, line, field, value and what is allowed.
"""

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from evaluators.config import Config
from evaluators.tasks import TASK_KINDS, TaskConfig
from search.base_model import BaseModelConfig
from search.proposers.config import KINDS, ProposerConfig, RandomProposer, check_proposer
from search.rate import RateSearch
from search.rungs import RungConfig
from search.schedulers.make import SchedulerConfig
from search.space import Families
from search.workers import Workers


class _Loader(yaml.SafeLoader):
    """YAML with 1e-3 as a number, as YAML 1.2 and everybody else has it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    # More digits than Python converts are no setting of anything.
    if len(node.value) > _MOST_DIGITS:
        problem = f"a whole number has at most {_MOST_DIGITS} digits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    number: int = loader.construct_yaml_int(node)
    return number


_MOST_DIGITS = 100
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)

# What discriminated unions put into the location of a problem.
_VARIANTS = (*TASK_KINDS, *KINDS)


class SweepError(ValueError):
    """A sweep file, or something it names, can't be used."""


class Budget(Config):
    """When a run ends."""

    candidates: Annotated[
        int | None, Field(ge=1, description="at most this many candidates in all")
    ] = None
    seconds: Annotated[
        float | None, Field(gt=0, description="after this time no further rung is started")
    ] = None


class Sweep(Config):
    """A whole sweep file."""

    name: Annotated[
        str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run folder")
    ]
    task: Annotated[TaskConfig, Field(description="what is asked and how it is scored")]
    base_models: Annotated[
        tuple[BaseModelConfig, ...], Field(min_length=1, description="what is adapted")
    ]
    families: Annotated[Families, Field(description="what is tried")]
    targets: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        Field(description="scores at which the task's complexity is read off"),
    ] = (0.8,)
    rungs: Annotated[RungConfig, Field(description="steps and examples between decisions")] = (
        RungConfig()
    )
    proposer: Annotated[ProposerConfig, Field(description="what is tried next")] = RandomProposer()
    order: Annotated[
        Literal["short_first", "drawn"],
        Field(
            description="for proposers that list their candidates: as drawn; or in rounds over all "
            "lengths, in each from short to long by what is known before training"
        ),
    ] = "drawn"
    scheduler: Annotated[SchedulerConfig, Field(description="who goes on")] = SchedulerConfig()
    rate_search: Annotated[
        RateSearch, Field(description="coarser programs from an adapter after its last rung")
    ] = RateSearch()
    length: Annotated[
        Literal["program", "payload"],
        Field(
            description="what is to be short: program.py and payload.bin together, or payload.bin "
            "alone, as most published fronts count"
        ),
    ] = "program"
    train_split_in_machine: Annotated[
        bool,
        Field(
            description="declare the train split a part of the machine: demonstrations may then be "
            "named by index, and program.py takes the split as a second argument"
        ),
    ] = False
    cache: Annotated[
        Path | None,
        Field(
            description="folder of outputs that were generated before, relative to the sweep "
            "file, which several runs may share; the run's own by default"
        ),
    ] = None
    budget: Annotated[Budget, Field(description="when the run ends")] = Budget()
    workers: Annotated[Workers, Field(description="who computes")] = Workers()
    seed: Annotated[int, Field(ge=0, description="names the random streams of the run")] = 0
    certify: Annotated[
        bool,
        Field(
            description="open the sealed split when all candidates have ended; otherwise "
            "`kilobit certify RUN` does"
        ),
    ] = False
    out: Annotated[
        Path | None, Field(description="run folder; runs/NAME of the current folder by default")
    ] = None

    @model_validator(mode="after")
    def _unique_models(self) -> Self:
        labels = [model.label for model in self.base_models]
        twice = {label for label in labels if labels.count(label) > 1}
        if twice:
            raise ValueError(f"two base models are called {sorted(twice)[0]!r}: give each a `name`")
        return self

    @model_validator(mode="after")
    def _proposer_has_what_it_needs(self) -> Self:
        ends = self.budget.candidates is not None or self.budget.seconds is not None
        check_proposer(self.proposer, self.families, ends=ends)
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        first, most = self.rungs.examples, self.workers.batch_size
        if 2 * self.batch_size < min(first, most):
            raise ValueError(
                f"rungs.examples {first} has no divisor between {most // 2} and workers.batch_size "
                f"{most}: programs run in whole batches, and no rung cuts a batch"
            )
        return self

    @property
    def most_candidates(self) -> int | None:
        """Return how many candidates there are at most, None where only the time ends the run."""
        if self.proposer.kind not in ("random", "grid"):
            return self.budget.candidates
        each = sum(family.candidates for family in self.families.named().values())
        most = each * len(self.base_models)
        return most if self.budget.candidates is None else min(most, self.budget.candidates)

    @property
    def batch_size(self) -> int:
        """Return how many examples a program continues together; it divides every rung."""
        first, most = self.rungs.examples, self.workers.batch_size
        return next(size for size in range(min(first, most), 0, -1) if first % size == 0)


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Return the sweep in the YAML file `path` with `key.key=value` overrides applied.

    Raises:
        SweepError: for an unreadable file, broken YAML, or any unknown, missing or unfit value.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SweepError(f"{path}: {reason}") from error
    try:
        _refuse_aliases(path, text)
        root = yaml.compose(text, Loader=_Loader)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except SweepError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SweepError(f"{path}{line}: not valid YAML: {problem}") from error
    if not isinstance(data, dict):
        raise SweepError(f"{path}: a sweep file is a YAML mapping, found {type(data).__name__}")
    assert root is not None
    _check_keys(path, root)
    overridden = [_apply(data, override) for override in overrides]
    try:
        # As JSON, because strict JSON takes a list for a tuple but neither "3" nor true for a
        # number.
        sweep = Sweep.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problems = error.errors()
    else:
        folder = path.absolute().parent
        cache = None if sweep.cache is None else folder / sweep.cache
        return sweep.model_copy(update={"cache": cache})
    described = [
        _describe(path, root, problem, overridden)
        for problem in problems
        if not any(_is_inside(other["loc"], problem["loc"]) for other in problems)
    ]
    raise SweepError("\n".join(dict.fromkeys(described)))


def change_budget(sweep: Sweep, overrides: Sequence[str]) -> Sweep:
    """Return `sweep` with values of its budget changed by `budget.key=value`.

    Raises:
        SweepError: for any other key, or a value that does not fit.
    """
    data = sweep.model_dump(mode="json")
    for override in overrides:
        keys = _apply(data, override)
        if keys[0] != "budget" or len(keys) != 2 or keys[1] not in Budget.model_fields:
            known = ", ".join(f"budget.{name}" for name in Budget.model_fields)
            raise SweepError(
                f"{override!r}: a run goes on with what it began with; what may change is {known}"
            )
    try:
        return Sweep.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(map(str, problem["loc"]))
        message = f"command line: {field}: {problem['msg']} (found {problem['input']!r:.80})"
        raise SweepError(message) from error


def _refuse_aliases(path: Path, text: str) -> None:
    """Refuse `*name`: a few lines of it can stand for more values than there is memory."""
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise SweepError(f"{path}, line {line}: YAML aliases (*{event.anchor}) are not allowed")


def _is_inside(inner: Sequence[str | int], outer: Sequence[str | int]) -> bool:
    return len(inner) > len(outer) and tuple(inner[: len(outer)]) == tuple(outer)


def _apply(data: dict[str, Any], override: str) -> list[str]:
    """Set one `key.key=value` and return the keys."""
    key, sign, value = override.partition("=")
    if not sign or not all(key.split(".")):
        raise SweepError(f"{override!r}: an override is written key=value, e.g. budget.seconds=60")
    *parents, last = key.split(".")
    place = data
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise SweepError(f"{override!r}: {parent!r} is not a mapping in this sweep file")
    try:
        place[last] = yaml.load(value, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SweepError(f"{override!r:.100}: the value is not valid YAML") from error
    root = yaml.compose(value, Loader=_Loader)
    keys = [key for mapping in _mappings(root) for key, _ in mapping.value] if root else []
    if any(key.tag != "tag:yaml.org,2002:str" for key in keys):
        raise SweepError(f"{override!r:.100}: a key of the value is no text")
    return [*parents, last]


def _check_keys(path: Path, node: yaml.Node) -> None:
    for mapping in _mappings(node):
        seen: set[str] = set()
        for key, _ in mapping.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise SweepError(
                    f"{path}, line {key.start_mark.line + 1}: the key {key.value} is no text: "
                    "write it in quotes"
                )
            if key.value in seen:
                raise SweepError(
                    f"{path}, line {key.start_mark.line + 1}: the key {key.value!r} is given twice"
                )
            seen.add(key.value)


def _mappings(node: yaml.Node) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _mappings(value)


def _line(root: yaml.Node, location: Sequence[str | int]) -> int:
    """Return the line of the deepest part of `location` that the file has."""
    node, line = root, root.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == part), None)
            if found is None:
                # Discriminated unions put the name of the variant into the location.
                continue
            line, node = found[0].start_mark.line + 1, found[1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _describe(
    path: Path, root: yaml.Node, problem: ErrorDetails, overridden: Sequence[Sequence[str]]
) -> str:
    location = list(problem["loc"])
    if location[:1] in (["task"], ["proposer"]) and location[1:2] and location[1] in _VARIANTS:
        del location[1]
    field = ".".join(str(part) for part in location) or "the file"
    where = f"{path}, line {_line(root, location)}"
    if any(all(a == b for a, b in zip(location, keys, strict=False)) for keys in overridden):
        where = "command line"
    # What is a tuple to us is a list in YAML.
    message = problem["msg"].removeprefix("Value error, ").replace("Tuple", "List")
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        allowed = f" Known here: {', '.join(known)}." if known else ""
        return f"{where}: unknown key {field!r}.{hint}{allowed}"
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return f"{where}: {field}.kind must be one of {problem['ctx']['expected_tags']}"
    if problem["type"] == "missing":
        return f"{where}: {field!r} is missing"
    value = problem["input"]
    shown = "" if isinstance(value, dict) else f" (found {value!r:.80})"
    return f"{where}: {field}: {message}{shown}"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Return the keys that the part of the sweep file at `location` may have."""
    schema = Sweep.model_json_schema()
    options = [schema]
    for part in location:
        following: list[dict[str, Any]] = []
        for option in (_resolve(schema, o) for o in options):
            below = (
                option.get("items")
                if isinstance(part, int)
                else option.get("properties", {}).get(part)
            )
            if below:
                following += below.get("oneOf") or below.get("anyOf") or [below]
        options = following
    return sorted(
        {key for option in options for key in _resolve(schema, option).get("properties", {})}
    )


def _resolve(schema: dict[str, Any], option: dict[str, Any]) -> dict[str, Any]:
    reference = option.get("$ref")
    found: dict[str, Any] = schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else option
    return found
