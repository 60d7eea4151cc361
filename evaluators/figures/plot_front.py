"""The picture of a front: logarithmic bits, score with its interval, one line per regime.

Net bits below 0, of programs shorter than the bare question, are drawn at 0.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes

from kilobit.evaluators.figures.canvas import (
    COLOURS,
    DASHES,
    MARKERS,
    Format,
    bits_label,
    encoded,
    new_figure,
    plain,
)
from kilobit.evaluators.report.contents import Published
from kilobit.search.front.points import FrontPoint

_Point = FrontPoint | Published
_LINEAR_UP_TO_BITS = 8
_MANY_DECADES, _FEW_DECADES = 3.2, 1.6


def _ticks(low: float, high: float) -> list[float]:
    """Return the ticks of the axis of lengths: decades, and steps between if these are few.

    A payload is whole bytes: a tick at 1 bit would only crowd the one at 0 bit.
    """
    decades = math.log10(high / max(low, _LINEAR_UP_TO_BITS))
    steps = (1,) if decades > _MANY_DECADES else (1, 3) if decades > _FEW_DECADES else (1, 2, 3, 5)
    first = math.floor(math.log10(max(low, _LINEAR_UP_TO_BITS)))
    marks = [s * 10.0**power for power in range(first, math.ceil(math.log10(high))) for s in steps]
    shown = [mark for mark in marks if max(low, _LINEAR_UP_TO_BITS) <= mark <= high]
    return [0.0, *shown] if low <= 0 else shown


AXES = {
    "program": "length of the program",
    "payload": "length of the payload",
    "net": "net bits: program bits above the script of the bare question",
}


def draw_front(
    curves: Mapping[str, Sequence[FrontPoint]],
    targets: Sequence[float],
    title: str,
    length: str,
    *,
    dotted: Collection[FrontPoint] = (),
    others: Mapping[str, Sequence[FrontPoint]] | None = None,
    published: Mapping[str, Sequence[Published]] | None = None,
    kind: Format = "png",
) -> bytes:
    """Return the picture of the fronts.

    Args:
        curves: for each label its points by increasing bits; certified points are filled.
        targets: scores to mark by a line.
        title: heading of the picture.
        length: label of the axis of bits.
        dotted: points to mark by a dot, unless they are certified.
        others: points of the same labels that are on no front.
        published: points of other curves, by their label.
        kind: format of the bytes.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    groups: list[Mapping[str, Sequence[_Point]]] = [curves, others or {}, published or {}]
    bits = [_drawn(p) for group in groups for points in group.values() for p in points]
    longest = max(bits, default=8)
    for number, (label, points) in enumerate(curves.items()):
        _draw_others(axes, (others or {}).get(label, ()), number)
        _draw_curve(axes, label, points, number, 2 * longest, dotted)
    for number, (label, curve) in enumerate((published or {}).items()):
        _draw_published(axes, label, curve, number)
    for target in targets:
        axes.axhline(target, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(f"δ = {target:g}", (1, target), xycoords=("axes fraction", "data"),
                      ha="right", va="bottom", fontsize=8, color="0.4")  # fmt: skip
    # Logarithmic, with room for a program of 0 bits.
    axes.set_xscale("symlog", linthresh=_LINEAR_UP_TO_BITS, linscale=0.4)
    shortest = min(bits, default=0)
    left = -1 if shortest < _LINEAR_UP_TO_BITS else shortest / 1.3
    right = 1.5 * max(longest, _LINEAR_UP_TO_BITS)
    axes.set_xlim(left, right)
    ticks = _ticks(left, right)
    axes.set_xticks(ticks, list(map(bits_label, ticks)))
    axes.set_xticks([], minor=True)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(length)
    axes.set_ylabel("score on the search split (95 % interval)")
    axes.set_title(plain(title))
    axes.grid(alpha=0.25)
    if curves or published:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return encoded(figure, kind)


def _drawn(point: _Point) -> float:
    """Return the bits at which a point is drawn."""
    return max(0, point.bits)


def _draw_curve(
    axes: Axes,
    label: str,
    points: Sequence[FrontPoint],
    number: int,
    right: float,
    dotted: Collection[FrontPoint],
) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    bits = [_drawn(p) for p in points]
    scores = [p.score for p in points]
    # A longer program can do what a shorter one does: the front is a staircase.
    ends = [right] if bits else []
    axes.step([*bits, *ends], [*scores, *scores[-1:]], where="post", color=colour, linewidth=1.5,
              dashes=DASHES[number % len(DASHES)] or (None, None))  # fmt: skip
    marked = [p for p in points if not p.certified and p in dotted]
    for certified in (False, True):
        own = [p for p in points if (p.certified is True) == certified]
        if own:
            below, above = _interval(own)
            lengths = [_drawn(p) for p in own]
            axes.errorbar(lengths, [p.score for p in own], yerr=[below, above],
                          fmt=marker, color=colour, capsize=2, elinewidth=0.8, markersize=5,
                          markerfacecolor=colour if certified else "white")  # fmt: skip
    axes.plot([_drawn(p) for p in marked], [p.score for p in marked], ".", color=colour,
              markersize=3, zorder=4)  # fmt: skip
    axes.plot([], [], marker=marker, color=colour, markersize=5, label=plain(label),
              dashes=DASHES[number % len(DASHES)] or (None, None))  # fmt: skip


def _interval(points: Sequence[_Point]) -> tuple[list[float], list[float]]:
    """Return how far the intervals of points reach below and above their scores."""
    below = [0.0 if p.lower is None else p.score - p.lower for p in points]
    above = [0.0 if p.upper is None else p.upper - p.score for p in points]
    return below, above


def _draw_others(axes: Axes, points: Sequence[FrontPoint], number: int) -> None:
    axes.scatter([_drawn(p) for p in points], [p.score for p in points], s=8, alpha=0.3,
                 color=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)],
                 linewidths=0)  # fmt: skip


def _draw_published(axes: Axes, label: str, points: Sequence[Published], number: int) -> None:
    ordered = sorted(points, key=lambda p: p.bits)
    grey = ("0.35", "0.55")[number % 2]
    below, above = _interval(ordered)
    axes.errorbar([p.bits for p in ordered], [p.score for p in ordered], yerr=[below, above],
                  fmt="x+12"[number % 4], linestyle=":", linewidth=1, color=grey, markersize=5,
                  elinewidth=0.8, label=plain(label))  # fmt: skip
