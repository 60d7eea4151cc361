"""Write `docs/sweep-file.md` from the typed models of the sweep file.

python docs/make_reference.py
"""

import json
from pathlib import Path
from typing import Any

from search.sweep import Sweep

HEAD = """\
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


def _table(model: dict[str, Any]) -> list[str]:
    required = model.get("required", [])
    lines = ["| key | holds | default | meaning |", "|---|---|---|---|"]
    for key, schema in model["properties"].items():
        default = "required" if key in required else f"`{json.dumps(schema.get('default'))}`"
        meaning = schema.get("description", "")
        lines.append(f"| `{key}` | {_type(schema)} | {default} | {meaning} |")
    return lines


def reference() -> str:
    """Return the text of the reference."""
    schema = Sweep.model_json_schema()
    lines = [HEAD, "## Sweep", "", *_table(schema)]
    for name, model in sorted(schema["$defs"].items()):
        if "properties" in model:
            summary = model.get("description", "").splitlines()[:1]
            lines += ["", f"## {name}", "", *summary, "", *_table(model)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "sweep-file.md").write_text(reference(), "utf-8")
