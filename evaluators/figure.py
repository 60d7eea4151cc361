"""The picture of a front: bits on a logarithmic axis, score with its interval, a line a regime."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

# Okabe and Ito's palette: distinct for colour-blind readers and in grey print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = "osD^vPX"
_LINEAR_UP_TO_BITS = 8


def bits_label(bits: float) -> str:
    """Return a length with its unit, for example `96 bit`, `1.4 kbit`, `3.8 Mbit`."""
    for unit, size in (("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)):
        if bits >= size:
            return f"{bits / size:.3g} {unit}"
    return f"{bits:.0f} bit"


def _tick_label(bits: float, _: object = None) -> str:
    # A payload is whole bytes: the tick at one bit would only crowd the one at none.
    return bits_label(bits) if bits == 0 or bits >= _LINEAR_UP_TO_BITS else ""


def draw_front(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    targets: Sequence[float],
    title: str,
    length: str,
) -> bytes:
    """Return a PNG of the fronts.

    Args:
        curves: for each label its points by increasing `bits`, each with `score`, `lower`
            and `upper` (the bounds may be None).
        targets: scores to mark by a line.
        title: what stands above the picture.
        length: what the bits are the length of.
    """
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    longest = max((p["bits"] for points in curves.values() for p in points), default=8)
    for number, (label, points) in enumerate(curves.items()):
        _draw_curve(axes, label, points, number, right=2 * longest)
    for target in targets:
        axes.axhline(target, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(f"δ = {target:g}", (1, target), xycoords=("axes fraction", "data"),
                      ha="right", va="bottom", fontsize=8, color="0.4")  # fmt: skip
    # Logarithmic, but with room for the program that adds nothing.
    axes.set_xscale("symlog", linthresh=_LINEAR_UP_TO_BITS, linscale=0.4)
    axes.set_xlim(-1, 2 * max(longest, _LINEAR_UP_TO_BITS))
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(FuncFormatter(_tick_label))
    axes.set_xlabel(length)
    axes.set_ylabel("score on the search split (95 % interval)")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    if curves:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _draw_curve(
    axes: Axes, label: str, points: Sequence[Mapping[str, Any]], number: int, right: float
) -> None:
    colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
    bits = [p["bits"] for p in points]
    scores = [p["score"] for p in points]
    below = [
        s - (s if p["lower"] is None else p["lower"]) for s, p in zip(scores, points, strict=True)
    ]
    above = [
        (s if p["upper"] is None else p["upper"]) - s for s, p in zip(scores, points, strict=True)
    ]
    # A longer program can do what a shorter one does: the front is a staircase.
    axes.step([*bits, right], [*scores, *scores[-1:]], where="post", color=colour, linewidth=1.5)
    axes.errorbar(bits, scores, yerr=[below, above], fmt=marker, color=colour, capsize=2,
                  elinewidth=0.8, markersize=5, label=label)  # fmt: skip
