"""Settings from YAML files, overridden from the command line and checked against their model.

Every problem is raised as one `ConfigError` whose message names file, line, field, value and what
is allowed. A file of settings is a regular file of at most 1 MiB. Neither it nor an override has
aliases, tags (`!!int`), keys that are given twice, values nested more than 50 levels deep, or more
than 20,000 keys and values.
"""

import difflib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kilobit.search.settings import Config, InputError

Settings = TypeVar("Settings", bound=Config)
# Terms of YAML for pydantic's terms of Python and JSON.
_IN_YAML = {
    "Tuple": "List",
    "a valid array": "a list",
    "a valid object": "keys with values",
    "an object": "keys with values",
    "a valid dictionary": "keys with values",
}


_OTHER_LINE_ENDS = re.compile("[\x85\u2028\u2029]")
_MOST_BYTES = 1 << 20
_DEEPEST = 50
_MOST_VALUES = 20_000
_MOST_PROBLEMS = 10
_SURROGATE = re.compile("[\ud800-\udfff]")


class ConfigError(InputError):
    """Error for a settings file that can't be used."""


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-3 as a number and a date as text, as in YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - of the base class
        first: [one for one in resolvers if one[0] != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    # Python refuses to convert very long numbers, and no setting needs so many digits.
    if len(node.value) > _MOST_DIGITS:
        problem = f"a whole number has at most {_MOST_DIGITS} digits"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    number: int = loader.construct_yaml_int(node)
    return number


_MOST_DIGITS = 100
_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


def load_config(
    path: Path,
    model: type[Settings],
    overrides: Sequence[str] = (),
    variants: Mapping[str, Sequence[str]] | None = None,
) -> Settings:
    """Return the settings in the YAML file `path` with `key.key=value` overrides applied.

    Args:
        path: the file.
        model: the model that the settings have to fit.
        overrides: changes from the command line.
        variants: kinds of the top-level keys that are discriminated unions, or lists of them.

    Raises:
        ConfigError: for an unreadable file, broken YAML, or any unknown, missing or unfit value.
    """
    try:
        text = read_regular_file(path, _MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: {reason}") from error
    try:
        data, root = _read(text)
    except _NotAllowedError as error:
        raise ConfigError(f"{path}, line {error.line}: {error}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a YAML mapping is needed, found {type(data).__name__}")
    assert root is not None

    def where(location: Sequence[str | int]) -> str:
        return f"{path}, line {_line(root, location)}"

    return _checked(data, where, model, overrides, variants or {})


def check_config(
    settings: Mapping[str, Any],
    name: str,
    model: type[Settings],
    overrides: Sequence[str] = (),
    variants: Mapping[str, Sequence[str]] | None = None,
) -> Settings:
    """Return settings made in Python, checked as those of a file.

    Args:
        settings: values of YAML, numbers and arrays of NumPy, paths and typed settings.
        name: stands in messages for the file and the line.
        model: the model that the settings have to fit.
        overrides: changes, as on the command line.
        variants: as in `load_config`.

    Raises:
        ConfigError: for any unknown, missing or unfit value.
    """
    try:
        data = json.loads(json.dumps(dict(settings), default=_plain_value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{name}: it can't be written as YAML: {error}") from error
    return _checked(data, lambda _: name, model, overrides, variants or {})


def _plain_value(value: Any) -> Any:
    if isinstance(value, Config):
        return value.model_dump(mode="json")
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _checked(
    data: dict[str, Any],
    where: Callable[[Sequence[str | int]], str],
    model: type[Settings],
    overrides: Sequence[str],
    variants: Mapping[str, Sequence[str]],
) -> Settings:
    overridden = [apply_override(data, override) for override in overrides]
    try:
        # Validate as JSON: strict mode then accepts a list for a tuple, but neither "3" nor true
        # for a number.
        return model.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        problems = error.errors()
    described = [
        _describe(where, problem, overridden, model, variants)
        for problem in problems
        if not any(_is_inside(other["loc"], problem["loc"]) for other in problems)
    ]
    told = list(dict.fromkeys(described))
    if len(told) > _MOST_PROBLEMS:
        told[_MOST_PROBLEMS:] = [f"and {len(told) - _MOST_PROBLEMS} more problems"]
    raise ConfigError("\n".join(told))


class _NotAllowedError(ValueError):
    def __init__(self, message: str, at: yaml.Event | yaml.Node | int) -> None:
        super().__init__(message)
        self.line = at if isinstance(at, int) else _line_of(at)


def _line_of(at: yaml.Event | yaml.Node) -> int:
    return at.start_mark.line + 1 if at.start_mark else 1


def _read(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the value of a text of YAML and its nodes, None if it holds nothing.

    Raises:
        _NotAllowedError: naming the line of what YAML allows and no setting needs.
        yaml.YAMLError, ValueError, OverflowError: if it is not YAML.
    """
    found = _OTHER_LINE_ENDS.search(text)
    if found is not None:
        code = f"{ord(found[0]):04x}"
        raise _NotAllowedError(
            f"YAML would end a line at the character U+{code.upper()}: "
            f"write it as \\u{code} between double quotes",
            text.count("\n", 0, found.start()) + 1,
        )
    _check_events(text)
    root = yaml.compose(text, Loader=_Loader)
    data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    if root is not None:
        _check_keys(root)
    return data, root


def _check_events(text: str) -> None:
    """Reject what YAML allows and no setting needs, before any value is made.

    A few lines of aliases can expand to more values than fit into memory, the time of deep nesting
    grows with its square, a tag asks for another type than the text has, and each value takes a
    tenth of a millisecond to read.

    Raises:
        _NotAllowedError: naming the line.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.AliasEvent):
            raise _NotAllowedError(f"YAML aliases (*{event.anchor}) are not allowed", event)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise _NotAllowedError(f"YAML tags ({tag}) are not allowed", event)
        if isinstance(event, yaml.ScalarEvent) and _SURROGATE.search(event.value):
            raise _NotAllowedError("half of a surrogate pair is not valid text", event)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise _NotAllowedError(f"nested more than {_DEEPEST} levels deep", event)
        if number > _MOST_VALUES:
            raise _NotAllowedError(f"more than {_MOST_VALUES} keys and values", event)


def read_regular_file(path: Path, most: int) -> bytes:
    """Return the content of a regular file of a limited size.

    Reading a pipe or a device that is named as a file could block, or never end.

    Args:
        path: the file.
        most: the largest size that is read, in bytes.

    Raises:
        ValueError: if it is no regular file or larger than `most`; the message does not name it.
        OSError: if it can't be read.
    """
    # O_NONBLOCK: opening a pipe must not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        os.close(descriptor)
        raise ValueError("not a regular file")
    content, at_once = bytearray(), max(about.st_size + 1, 1 << 16)
    # Files of /proc say that they are empty, and some never end.
    most = min(most, 2 * about.st_size + (1 << 20))
    with os.fdopen(descriptor, "rb") as file:
        # Not all at once: that takes the memory of the largest file beforehand.
        while about.st_size <= most and len(content) <= most:
            part = file.read(min(at_once, most + 1 - len(content)))
            if not part:
                return bytes(content)
            content += part
    raise ValueError(f"larger than the allowed {most} bytes")


def _is_inside(inner: Sequence[str | int], outer: Sequence[str | int]) -> bool:
    return len(inner) > len(outer) and tuple(inner[: len(outer)]) == tuple(outer)


def apply_override(data: dict[str, Any], override: str) -> list[str]:
    """Set one `key.key=value` in `data` and return the keys.

    Raises:
        ConfigError: if it is not of that form.
    """
    key, sign, value = override.partition("=")
    if not sign or not all(key.split(".")):
        raise ConfigError(f"{override!r}: an override is written key=value, e.g. budget.seconds=60")
    *parents, last = key.split(".")
    if len(parents) >= _DEEPEST:
        raise ConfigError(f"{override!r:.100}: nested more than {_DEEPEST} levels deep")
    inner = data
    for parent in parents:
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            what = "a list: override it as a whole" if isinstance(inner, list) else "a value"
            raise ConfigError(f"{override!r}: {parent!r} is {what}")
    try:
        inner[last], _ = _read(value)
    except _NotAllowedError as error:
        raise ConfigError(f"{override!r:.100}: {error}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{override!r:.100}: the value is not valid YAML") from error
    return [*parents, last]


def _check_keys(root: yaml.Node) -> None:
    for mapping in _mappings(root):
        seen: set[str] = set()
        for key, _ in mapping.value:
            if key.tag != "tag:yaml.org,2002:str":
                raise _NotAllowedError(f"the key {key.value} is not text: write it in quotes", key)
            if key.value in seen:
                raise _NotAllowedError(f"the key {key.value!r} is given twice", key)
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
                # In a discriminated union the location contains the variant's name.
                continue
            line, node = found[0].start_mark.line + 1, found[1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _describe(
    place: Callable[[Sequence[str | int]], str],
    problem: ErrorDetails,
    overridden: Sequence[Sequence[str]],
    model: type[Config],
    variants: Mapping[str, Sequence[str]],
) -> str:
    location = list(problem["loc"])
    # Drop the variant's name, which follows the key or the index in a list.
    for position in (1, 2):
        if location[position : position + 1] and location[position] in variants.get(
            str(location[0]), ()
        ):
            del location[position]
            break
    field = ".".join(str(part) for part in location)
    where = place(location)
    if any(all(a == b for a, b in zip(location, keys, strict=False)) for keys in overridden):
        where = "command line"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "value_error":  # those are our own messages
        for theirs, in_yaml in _IN_YAML.items():
            message = message.replace(theirs, in_yaml)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        allowed = f" Known here: {', '.join(known)}." if known else ""
        return f"{where}: unknown key {field!r}.{hint}{allowed}"
    if problem["type"] == "union_tag_invalid":
        return (
            f"{where}: {field}.kind must be one of {problem['ctx']['expected_tags']} "
            f"(found {problem['ctx']['tag']!r:.80})"
        )
    if problem["type"] == "union_tag_not_found":
        kinds = ", ".join(map(repr, variants.get(str(location[0]), ())))
        return f"{where}: '{field}.kind' is missing" + (f"; it is one of {kinds}" if kinds else "")
    if problem["type"] == "missing":
        return f"{where}: {field!r} is missing"
    value = problem["input"]
    # Never print a URL that may contain a password.
    hidden = isinstance(value, dict) or ("://" in str(value) and "@" in str(value))
    shown = "" if hidden else f" (found {value!r:.80})"
    # A problem between several fields has no field of its own; its message names them.
    return ": ".join(filter(None, (where, field, message))) + shown


def _known_keys(model: type[Config], location: Sequence[str | int]) -> list[str]:
    """Return the keys that the part of the file at `location` may have."""
    options: list[type[BaseModel]] = [model]
    # Indices of lists lead nowhere: `_models` has looked into the lists already.
    for part in (part for part in location if isinstance(part, str)):
        fields = [option.model_fields[part] for option in options if part in option.model_fields]
        options = [below for field in fields for below in _models(field.annotation)]
    return sorted({key for option in options for key in option.model_fields})


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a field's annotation names, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
