"""Tasks, metrics and battery items of other packages, by the names that a settings file gives.

A name is `MODULE:OBJECT`, or that of an entry point of an installed package in one of the groups
below. Importing it runs that package's code, which the user asks for by naming it. It has to be
importable wherever the search or the measurement runs.
"""

import re
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue

from kilobit.search.settings import Config

Group = Literal["kilobit.tasks", "kilobit.metrics", "kilobit.battery"]
_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class NamedPart(Config):
    """A part of another package, made by a function of the package."""

    uses: Annotated[
        str,
        Field(
            description="its function of settings and folder, as MODULE:OBJECT or by an entry "
            "point of its group (kilobit.tasks, kilobit.battery)"
        ),
    ]
    settings: Annotated[
        dict[str, JsonValue], Field(description="what the function takes first")
    ] = {}  # noqa: RUF012 - pydantic copies it

    def make(self, group: Group, folder: Path) -> Any:
        """Return the part that is made of the settings; relative paths start at `folder`.

        Raises:
            ValueError: if there is no such function.
        """
        return named(group, self.uses)(dict(self.settings), folder)


def named(group: Group, name: str) -> Any:
    """Return the object of a name.

    Raises:
        ValueError: if there is none, or its module can't be imported.
    """
    if _OBJECT.fullmatch(name):
        module, _, path = name.partition(":")
        try:
            found: Any = import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except Exception as error:  # a module may raise anything
            raise ValueError(
                f"{name!r} can't be imported: {type(error).__name__}: {error}"
            ) from error
        return found
    there = {point.name: point for point in entry_points(group=group)}
    if name not in there:
        raise ValueError(
            f"there is no {name!r}: give MODULE:OBJECT, or an entry point of the group {group}, of "
            f"which there are: {', '.join(sorted(there)) or 'none'}"
        )
    try:
        return there[name].load()
    except Exception as error:  # as above
        raise ValueError(
            f"the entry point {name!r} of {group} can't be loaded: {type(error).__name__}: {error}"
        ) from error


def known_or_named(*known: str) -> Any:
    """Return a check of a metric's setting: one of `known`, or a name as `named` takes it."""

    def check(name: str) -> str:
        if name in known or _OBJECT.fullmatch(name):
            return name
        there = [point.name for point in entry_points(group="kilobit.metrics")]
        if name not in there:
            raise ValueError(
                f"must be one of {', '.join(map(repr, (*known, *sorted(there))))}, or MODULE:OBJECT"
            )
        return name

    return AfterValidator(check)


MetricName = Annotated[
    str, known_or_named("exact_match", "number", "contains", "bleu", "preference")
]
