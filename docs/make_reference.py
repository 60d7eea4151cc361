"""Write the pages of the reference that follow from the code.

    python docs/make_reference.py

`sweep-file.md` from the typed models, `command-line.md` from the parser, `ledger.md` from the
tables.
"""

import argparse
import ast
import inspect
import json
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from kilobit import launch
from kilobit.cluster.sweep.sweep import Sweep
from kilobit.evaluators.ledger.parts import columns
from kilobit.search.records import RECORDS
from kilobit.search.settings import Config

SWEEP_HEAD = """\
# The sweep file

Made by `docs/make_reference.py` from the typed models; every field that exists is here. A key that
is not known is an error, and so is a value of another type. Values can be changed on the command
line by `key.key=value`.
"""


def _type(schema: dict[str, Any]) -> str:
    """Return what a field may hold, in words."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    options = schema.get("oneOf") or schema.get("anyOf")
    if options:
        return " or ".join(_type(option) for option in options)
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return "list"
        return f"list of ({_type(schema.get('items', {}))})"
    limits = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
    }
    bounds = [f"{sign} {schema[key]:g}" for key, sign in limits.items() if key in schema]
    return " ".join([schema.get("type", "anything"), ", ".join(bounds)]).strip()


@cache
def _said(name: str) -> dict[str, str]:
    """Return the texts below the fields of a model and of its bases, by field."""
    # A class of the Python face extends the settings of the same name.
    model = next(each for each in _models(Config) if each.__name__ == name)
    bases = [base for base in reversed(model.__mro__) if issubclass(base, Config)]
    bodies = [ast.parse(inspect.getsource(base)).body[0] for base in bases]
    return {
        ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
        for body in bodies
        if isinstance(body, ast.ClassDef)
        for field, text in pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _models(base: type[Config]) -> Iterator[type[Config]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _table(name: str, model: dict[str, Any]) -> list[str]:
    required = model.get("required", [])
    lines = ["| key | holds | default | meaning |", "|---|---|---|---|"]
    for key, schema in model["properties"].items():
        default = "required" if key in required else f"`{json.dumps(schema.get('default'))}`"
        meaning = schema.get("description") or _said(name)[key]
        lines.append(f"| `{key}` | {_type(schema)} | {default} | {meaning} |")
    return lines


def sweep_file() -> str:
    """Return the page of the sweep file."""
    schema = Sweep.model_json_schema()
    lines = [SWEEP_HEAD, "## Sweep", "", *_table("Sweep", schema)]
    for name, model in sorted(schema["$defs"].items()):
        if "properties" in model:
            summary = model.get("description", "").splitlines()[:1]
            lines += ["", f"## {name}", "", *summary, "", *_table(name, model)]
    return "\n".join(lines) + "\n"


COMMANDS_HEAD = """\
# The command line

Made by `docs/make_reference.py` from the parser. `kilobit` is the installed name of
`python launch.py`; without an installation each command works as `python launch.py COMMAND`.
"""


def commands() -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Return the commands by name: one line about each, and its parser."""
    parser = launch.make_parser()
    # argparse has no public way to ask what it was told.
    group = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))  # noqa: SLF001
    about = {choice.dest: choice.help or "" for choice in group._choices_actions}  # noqa: SLF001
    return {name: (about[name], sub) for name, sub in group.choices.items()}


def command_line() -> str:
    """Return the page of the command line."""
    exits = inspect.cleandoc(launch.__doc__ or "").partition("Exit status: ")[2]
    lines = [COMMANDS_HEAD, "## Exit status", "", "| | |", "|---|---|"]
    for status in " ".join(exits.split()).removesuffix(".").split("; "):
        number, _, meaning = status.partition(" ")
        lines.append(f"| {number} | {meaning} |")
    for name, (about, parser) in commands().items():
        actions = [a for a in parser._actions if a.dest != "help"]  # noqa: SLF001
        words = " ".join(filter(None, (_usage(action) for action in actions)))
        lines += ["", f"## kilobit {name}", "", f"    kilobit {name} {words}".rstrip(), ""]
        lines += [about[:1].upper() + about[1:] + "."]
        lines += [*_more(parser), "", "| argument | meaning |", "|---|---|"]
        lines += [f"| {_argument(action)} | {_meaning(action)} |" for action in actions]
        if not actions:
            lines = lines[:-3]
    return "\n".join(lines) + "\n"


def _more(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield what a command says of itself beside one line; its examples begin with two spaces."""
    for text in filter(None, (parser.description, parser.epilog)):
        for line in ["", *text.rstrip("\n").split("\n")]:
            yield f"    {line.strip()}" if line.startswith("  ") else line


def _values(action: argparse.Action) -> str:
    """Return what stands after an option, or for a positional argument."""
    if action.nargs == 0:
        return ""
    name = "|".join(action.choices) if action.choices else action.metavar or action.dest.upper()
    return f"{name} ..." if action.nargs in ("*", "+") else str(name)


def _usage(action: argparse.Action) -> str:
    words = " ".join(filter(None, (*action.option_strings[-1:], _values(action))))
    optional = not action.required or action.nargs == "*"
    return f"[{words}]" if optional else words


def _argument(action: argparse.Action) -> str:
    words = " ".join(filter(None, (", ".join(action.option_strings), _values(action))))
    return f"`{words}`".replace("|", "\\|")


def _meaning(action: argparse.Action) -> str:
    text = action.help or ""
    default = action.default
    if action.option_strings and default and default is not argparse.SUPPRESS:
        text += f" (default: {default})"
    return text.replace("|", "\\|")


LEDGER_HEAD = """\
# The ledger

Made by `docs/make_reference.py` from `search/records.py`. Each table is a folder of
Parquet parts, `RUN/ledger/TABLE`, that any Parquet tool reads. Every file also has the column
`part`, the name of the part that a row came in, and the schema's version in its metadata. Unknown
is null. A column may be added, none changes its meaning. [design.md](design.md#the-ledger) says how
parts come and go.
"""


def ledger() -> str:
    """Return the page of the ledger's tables."""
    lines = [LEDGER_HEAD.rstrip()]
    for record in RECORDS:
        about = (record.__doc__ or "").partition(".")[0]
        lines += ["", f"## {record.table}", "", f"A row is {about[:1].lower()}{about[1:]}.", ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        lines += [f"| `{name}` | {_kind(kind)} | {it} |" for name, kind, it in columns(record)]
    return "\n".join(lines) + "\n"


def _kind(kind: Any) -> str:
    return str(kind).replace("list<item: ", "list of ").rstrip(">").replace("[us, tz=UTC]", ", UTC")


PAGES = {"sweep-file.md": sweep_file, "command-line.md": command_line, "ledger.md": ledger}

if __name__ == "__main__":
    for page, text in PAGES.items():
        (Path(__file__).parent / page).write_text(text(), "utf-8")
