"""A report as one HTML file: style, scripts, plotly.js and data are all in it.

No text of a run becomes markup: the page gets texts as JSON, in which `<` is escaped, and its
scripts make text nodes of them. A content security policy names the scripts by their digests and
forbids every request, so that even injected markup can't run a script or send data.
"""

import base64
import hashlib
import json
import math
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from kilobit.evaluators.figures.canvas import COLOURS
from kilobit.evaluators.report.contents import Report
from kilobit.evaluators.report.plots import plots

# In the order of their dependencies.
_SCRIPTS = ("base.js", "parts.js", "table.js", "panel.js", "start.js")


def page(report: Report) -> bytes:
    """Return the HTML page of a report."""
    folder = files("kilobit.evaluators.report")
    data = report.as_json() | {"colours": COLOURS, "plots": plots(report)}
    scripts = [
        _script(_plotly()),
        _script("\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS)),
    ]
    template = Template((folder / "report.html").read_text("utf-8"))
    text = template.substitute(
        title=escape(report.title),
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
        style=(folder / "report.css").read_text("utf-8"),
        data=as_script_json(data),
        plotly=scripts[0],
        script=scripts[1],
    )
    # Names of files may hold bytes that are no text.
    return text.encode("utf-8", "replace")


def as_script_json(value: Any) -> str:
    r"""Return JSON that is safe in a script element: no `<`, no NaN, no lone surrogates.

    >>> as_script_json(["</script>", float("nan")])
    '["\\u003c/script>", null]'
    """
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """Return a value whose NaN and infinite numbers, which JSON lacks, are None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _plotly() -> str:
    return (files("plotly") / "package_data" / "plotly.min.js").read_text("utf-8")


def _script(text: str) -> str:
    """Return a script as a browser reads it between the tags of its element."""
    # Both would be read as markup.
    assert "</script" not in text.lower(), "the script would end early"
    assert "<!--" not in text, "the script would become a comment"
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
