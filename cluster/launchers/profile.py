"""Settings of a launcher: a profile file, overridden by the sweep file.

A profile describes a cluster once, for all sweeps that are launched there. It has the same keys as
the section of the launcher in a sweep file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from kilobit.search.config_file import ConfigError, load_config
from kilobit.search.settings import Config, InputError

Settings = TypeVar("Settings", bound=Config)


def sweeps_and_overrides(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Sort words of a command line into sweep files and `key=value` overrides.

    A word with `=` is an override unless it names a file.

    Raises:
        InputError: if no word is a sweep file.
    """
    overrides = [word for word in words if "=" in word and not Path(word).is_file()]
    files = [Path(word) for word in words if word not in overrides]
    if not files:
        raise InputError("no sweep file is given")
    return files, overrides


def with_profile(section: Settings | None, profile: Path | None, model: type[Settings]) -> Settings:
    """Return the settings of `profile`, overridden by every field that `section` sets.

    A field counts as set if the sweep file or the command line names it, even with its default. A
    mapping or a list is replaced as a whole.

    Args:
        section: the launcher's part of a sweep file, None if it has none.
        profile: a YAML file with the same keys, None if there is none.
        model: the type of both.

    Raises:
        InputError: naming file and line of an invalid value in the profile, or the conflict
            between both.
    """
    if profile is None:
        return model() if section is None else section
    try:
        base = load_config(profile, model)
    except ConfigError as error:
        raise InputError(str(error)) from error
    if section is None:
        return base
    values = {name: getattr(base, name) for name in base.model_fields_set}
    values |= {name: getattr(section, name) for name in section.model_fields_set}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"{profile} and the sweep file together: {message}") from error
