"""The page's plots as plotly figures: fronts, the course of the search, candidates of each rung.

The page draws them in its theme and width: colours of the theme are names of CSS variables, each
trace names its base model, and `layout.meta` has what narrow pages need. Points of programs hold
the positions of these in the report.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from kilobit.evaluators.figures.canvas import COLOURS, bits_label
from kilobit.evaluators.report.contents import Published, Report, ShownProgram, ShownTask
from kilobit.search.front.points import FrontPoint

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
DASHES = ("solid", "dash", "dashdot", "dot", "longdashdot", "6px,4px", "longdash")
# Meaning and pattern of each outcome of a candidate at a rung.
_OUTCOMES = {
    "went_on": ("promoted, or completed the last rung", ""),
    "stopped": ("stopped", "/"),
    "failed": ("failed", "x"),
    "coarser": ("coarser versions of those that completed", "."),
}
_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
_SHEET, _SOFT, _INK, _CLEAR = "var(--sheet)", "var(--soft)", "var(--ink)", "rgba(0,0,0,0)"
_TEXT = "%{text}<extra></extra>"
_AXES = {
    "program": "program.py and payload.bin",
    "payload": "payload.bin",
    "net": "both files less the script of the bare question",
}
At = Callable[[float], float | None]


def plots(report: Report) -> dict[str, Any]:
    """Return the figures of a report as JSON objects, and what the page needs to draw them.

    Returns:
        `fronts`: a figure per task; `examples` and `seconds`: the course along either; `rungs`;
        `ticks`: for axes of bits, lists of ticks and labels, from few to many; `symbols`, `dashes`.
    """
    styles = {model.label: model.style % len(COLOURS) for model in report.models}
    every = [[s * 10**power for power in range(12) for s in steps] for steps in _STEPS]
    return {
        "fronts": [_front(report, task, styles) for task in report.tasks],
        "examples": _course(report, styles, "examples"),
        "seconds": _course(report, styles, "seconds"),
        "rungs": _rungs(report, styles),
        "ticks": [[[bits, bits_label(bits)] for bits in ticks if bits % 1 == 0] for ticks in every],
        "symbols": SYMBOLS,
        "dashes": DASHES,
    }


def _figure(
    traces: Sequence[Any], xaxis: dict[str, Any], yaxis: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """Return a figure in the common style; `go.Figure` would add plotly's template."""
    axis = {
        "gridcolor": "var(--grid)", "linecolor": "var(--line)", "zeroline": False, "showline": True,
        "ticks": "outside", "tickcolor": "var(--line)", "automargin": True, "title_standoff": 10,
    }  # fmt: skip
    layout = go.Layout(
        paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR, showlegend=False, hovermode="closest",
        font={"family": "var(font-family)", "size": 13, "color": _INK}, dragmode="zoom",
        # The top margin has room for the buttons, which would otherwise hide points at the top.
        margin={"l": 48, "r": 12, "t": 38, "b": 44},
        modebar={"bgcolor": _CLEAR, "color": _SOFT, "activecolor": _INK},
        xaxis=axis | xaxis, yaxis=axis | yaxis, **more,
    )  # fmt: skip
    return {"data": [one.to_plotly_json() for one in traces], "layout": layout.to_plotly_json()}


def _plain(text: str) -> str:
    """Return a text that plotly draws literally: it interprets a few tags."""
    return escape(text, quote=False)


def _intervals(points: Sequence[FrontPoint | Published], **style: Any) -> dict[str, Any]:
    above = [0 if p.upper is None else p.upper - p.score for p in points]
    below = [0 if p.lower is None else p.score - p.lower for p in points]
    return style | {"type": "data", "symmetric": False, "array": above, "arrayminus": below}


def _span(bits: Sequence[float]) -> tuple[float, float, float | None]:
    """Return the range of lengths of a plot, and the position of a length of 0 bits."""
    positive = [value for value in bits if value > 0]
    if not positive:
        return 0.5, 100, 1 if bits else None
    least, most = min(positive), max(positive)
    # A logarithmic axis has no 0 bits: they are drawn left of all others.
    zero = least / 4 if len(positive) < len(bits) else None
    room = max(1.12, (most / least) ** 0.06)
    return (zero or least) / room, most * room, zero


def _front(report: Report, task: ShownTask, styles: Mapping[str, int]) -> dict[str, Any]:
    own = {
        n: p
        for n, p in enumerate(report.programs)
        if p.point.task == task.name and p.point.model not in task.lacking
    }
    published = [point for point in report.overlay if point.task in (None, task.name)]
    bits = [*(p.point.bits for p in own.values()), *(point.bits for point in published)]
    low, high, zero = _span(bits)

    def at(bits: float) -> float | None:
        return bits if bits > 0 else zero

    traces = list[Any]()
    for label in task.models:
        programs = {n: p for n, p in own.items() if p.point.model == label}
        traces += _curve(task, label, styles.get(label, 0), programs, at, high)
    size = [math.log10(low), math.log10(high)]
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1,
            "line": {"color": _SOFT, "width": 1, "dash": "dot"}}  # fmt: skip
    # A curve may pass behind the text.
    text = {"xref": "paper", "x": 1, "xanchor": "right", "yanchor": "top", "showarrow": False,
            "font": {"size": 11, "color": _SOFT}, "bgcolor": _SHEET, "borderpad": 1}  # fmt: skip
    return _figure(
        [*traces, *_published(published, at)],
        {"type": "log", "range": size, "title_text": f"length of {_AXES[report.length]}"},
        {"range": [-0.04, 1.04], "title_text": "score on the search split", "tickformat": ".1f"},
        shapes=[line | {"y0": target, "y1": target} for target in task.targets],
        annotations=[text | {"y": one, "text": f"δ = {one:.15g}"} for one in task.targets],
        meta={"zero": zero, "xaxis": "length", "yaxis": "score"},
    )


def _curve(
    task: ShownTask, label: str, style: int, own: Mapping[int, ShownProgram], at: At, right: float
) -> Iterator[Any]:
    """Yield the traces of a base model: other programs, staircase, front, dots, read-off marks."""
    colour, symbol, name = COLOURS[style], SYMBOLS[style], _plain(label)
    front = sorted((n for n in own if own[n].on_front), key=lambda n: own[n].point.bits)
    points = [own[n].point for n in front]

    def marks(kind: str, numbers: Sequence[int], more: str = "", **style: Any) -> Any:
        x, y = [at(own[n].point.bits) for n in numbers], [own[n].point.score for n in numbers]
        about = {"mode": "markers", "hoverinfo": "skip", "meta": {"model": label, "kind": kind}}
        return go.Scatter(about | {"x": x, "y": y, "name": name + more} | style)

    others = [n for n in own if not own[n].on_front]
    marker: dict[str, Any] = {"color": colour, "symbol": symbol, "size": 5, "opacity": 0.35}
    yield marks("others", others, ", others", marker=marker, customdata=others, hoverinfo="none")
    stairs = {"color": colour, "width": 2, "dash": DASHES[style], "shape": "hv"}
    trace = marks("stairs", front, ", front", mode="lines", line=stairs)
    if front:
        trace.update(x=[*trace.x, right], y=[*trace.y, trace.y[-1]])
    yield trace
    fills = [colour if p.certified is True else _SHEET for p in points]
    marker = {"symbol": symbol, "size": 11, "color": fills, "line": {"color": colour, "width": 2}}
    bars = _intervals(points, color=colour, thickness=1.2, width=3)
    yield marks("front", front, marker=marker | {"opacity": 1}, customdata=front, error_y=bars,
                hoverinfo="none")  # fmt: skip
    dotted = [n for n in front if not own[n].point.certified and own[n].certified_at is not None]
    marker = {"color": colour, "symbol": "circle", "size": 4}
    yield marks("dots", dotted, ", certified at a lower target", marker=marker)
    needed = [(row.target, row.certified.get(label)) for row in task.needed if row.asked]
    read = [(target, bits) for target, bits in needed if bits is not None]
    yield go.Scatter(
        x=[at(bits) for _, bits in read], y=[target for target, _ in read], mode="markers",
        text=[f"{name}: C(δ = {target:.15g}) ≤ {bits:,} bits, certified" for target, bits in read],
        hovertemplate=_TEXT, name=f"{name}, certified complexity",
        marker={"symbol": "line-ns", "size": 16, "line": {"color": colour, "width": 3}},
        meta={"model": label, "kind": "read"},
    )  # fmt: skip


def _published(published: Sequence[Published], at: At) -> Iterator[Any]:
    dashes = ("dot", "dash", "dashdot", "longdash")
    symbols = ("x-thin", "cross-thin", "asterisk", "y-up")
    for number, label in enumerate(dict.fromkeys(point.label for point in published)):
        points = sorted((p for p in published if p.label == label), key=lambda p: p.bits)
        name, line = _plain(label), {"color": _SOFT, "width": 1.6}
        yield go.Scatter(
            x=[at(p.bits) for p in points], y=[p.score for p in points], name=name,
            text=[f"{name} (published): {bits_label(p.bits)}, score {p.score:.3f}" for p in points],
            hovertemplate=_TEXT, mode="lines+markers", meta={"kind": "published"},
            error_y=_intervals(points, color=_SOFT, thickness=1, width=3),
            line={"color": _SOFT, "width": 1.2, "dash": dashes[number % 4]},
            marker={"symbol": symbols[number % 4], "size": 8, "line": line},
        )  # fmt: skip


def _course(report: Report, styles: Mapping[str, int], along: str) -> dict[str, Any]:
    examples, traces = along == "examples", []
    for course in report.courses:
        style, grown = styles.get(course.model, 0), course.hypervolume
        more = (course.task, len(report.tasks) > 1), (course.run, len(report.origins) > 1)
        name = _plain(", ".join([course.model, *(text for text, several in more if several)]))
        colour, unit = COLOURS[style], "examples" if examples else "s"
        # The first point is the beginning, the last the end: nothing was found there.
        sizes = [6 if 0 < n < len(grown) - 1 else 0 for n in range(len(grown))]
        trace = go.Scatter(
            x=getattr(course, along), y=grown, mode="lines+markers", name=name,
            line={"color": colour, "width": 2, "dash": DASHES[style], "shape": "hv"},
            marker={"color": colour, "symbol": SYMBOLS[style], "size": sizes},
            hovertemplate=f"{name}<br>%{{x:,.0f}} {unit}: %{{y:.2f}}<extra></extra>",
            meta={"model": course.model, "kind": "course"},
        )  # fmt: skip
        traces.append(trace)
    axis = {"rangemode": "tozero", "nticks": 6}
    title = "examples scored" if examples else "seconds of search"
    return _figure(
        traces,
        axis | {"title_text": title, "tickformat": "~s" if examples else ""},
        axis | {"title_text": "hypervolume"},
    )


def _rungs(report: Report, styles: Mapping[str, int]) -> dict[str, Any]:
    counts = Counter[tuple[str, tuple[int, int], str]]()
    for row in report.rungs:
        for outcome in _OUTCOMES:
            counts[row.model, (row.rung, row.num_examples), outcome] += getattr(row, outcome)
    rungs = sorted({rung for _, rung, _ in counts})
    coarser = any(row.coarser for row in report.rungs)
    shown = {key: one for key, one in _OUTCOMES.items() if key != "coarser" or coarser}
    traces = []
    for label in [label for label in styles if any(row.model == label for row in report.rungs)]:
        colour = COLOURS[styles[label]]
        for outcome, (name, shape) in shown.items():
            pattern = {"shape": shape, "fgcolor": colour, "bgcolor": _SHEET, "size": 6}
            line = {"color": colour, "width": 1.2}
            trace = go.Bar(
                x=[f"{rung}<br>{size:,}" for rung, size in rungs],
                y=[counts[label, rung, outcome] for rung in rungs],
                name=_plain(f"{label}: {name}"), offsetgroup=label,
                marker={"color": _SHEET if shape else colour, "line": line,
                        "pattern": pattern | {"solidity": 0.35}},
                hovertemplate=f"{_plain(label)}: %{{y:,}} {name}<extra></extra>",
                meta={"model": label, "kind": "rungs"},
            )  # fmt: skip
            traces.append(trace)
    return _figure(
        traces,
        {"type": "category", "title_text": "rung and its examples", "showgrid": False},
        {"rangemode": "tozero", "nticks": 6, "title_text": "candidates"},
        barmode="stack", bargap=0.25, bargroupgap=0.08, meta={"outcomes": list(shown.values())},
    )  # fmt: skip
