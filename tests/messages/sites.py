"""Where the code tells a user that something is wrong, and which of these places were reached."""

import argparse
import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilobit.search.config_file import ConfigError
from kilobit.search.settings import InputError
from tests.conftest import REPOSITORY

_NAMES = {"InputError", "LockedError", "SealedError", "ConfigError", "ArgumentTypeError"}


@dataclass(frozen=True, order=True)
class Site:
    """A call that makes an error for a user."""

    file: str
    line: int
    end: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


def all_sites() -> list[Site]:
    """Return every line of the packages and launch.py that makes an error for a user."""
    files = [REPOSITORY / "launch.py"]
    for name in ("search", "evaluators", "cluster"):
        files += (REPOSITORY / name).rglob("*.py")
    return sorted(site for path in files for site in _sites_in(path))


def _sites_in(path: Path) -> Iterator[Site]:
    name = path.relative_to(REPOSITORY).as_posix()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and _makes_an_error(node.func):
            yield Site(name, node.lineno, node.end_lineno or node.lineno, ast.unparse(node))


def _makes_an_error(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in _NAMES
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        whole = f"{function.value.id}.{function.attr}"
        return function.attr in _NAMES or whole == "parser.error"
    return False


class Reached:
    """The places that made an error, as file and line."""

    def __init__(self) -> None:
        self.places: set[tuple[str, int]] = set()

    def __contains__(self, site: Site) -> bool:
        return any((site.file, line) in self.places for line in range(site.line, site.end + 1))

    def _note(self) -> None:
        # Of this method, of what was put in place of the constructor, of who calls it.
        frame = sys._getframe(2)
        path = Path(frame.f_code.co_filename).resolve()
        if path.is_relative_to(REPOSITORY):
            self.places.add((path.relative_to(REPOSITORY).as_posix(), frame.f_lineno))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Take down where errors are made meanwhile."""
        exit_with = argparse.ArgumentParser.error

        def made(error: Exception, *args: object) -> None:
            self._note()
            Exception.__init__(error, *args)

        def refused(parser: Any, message: str) -> None:
            self._note()
            exit_with(parser, message)

        with pytest.MonkeyPatch.context() as patch:
            for kind in (InputError, ConfigError, argparse.ArgumentTypeError):
                patch.setattr(kind, "__init__", made)
            patch.setattr(argparse.ArgumentParser, "error", refused)
            yield
