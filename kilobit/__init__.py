"""kilobit: the shortest program that makes a frozen language model reach a target score.

`run` searches as a sweep says, `open_run` opens an existing run; both return a `Run`. `Sweep` is
what a sweep file holds; `load_program` returns a program as a model and a prompt. Whatever can't be
used raises `InputError`. They are imported when first used. `kilobit.launch.main` runs any command
of the command line, with its words in a list, and returns its exit status. The packages are
`kilobit.search` (what is tried and how long it is), `kilobit.evaluators` (how one program is run,
scored and proven) and `kilobit.cluster` (where, and for how long).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kilobit.cluster.python import Run, Sweep, load_program, open_run, run
    from kilobit.search.settings import InputError

__all__ = ["InputError", "Run", "Sweep", "load_program", "open_run", "run"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kilobit' has no attribute {name!r}")
    return getattr(import_module("kilobit.cluster.python"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
