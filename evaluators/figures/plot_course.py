"""Pictures of the course of a search and of the composition of programs.

The course is how fronts grew, and the candidates of each rung; the composition is the bytes of each
section of a program, as stacked bars.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator

from kilobit.evaluators.figures.canvas import (
    COLOURS,
    DASHES,
    SECTIONS,
    Format,
    bits_label,
    encoded,
    new_figure,
    plain,
)
from kilobit.evaluators.report.contents import Course, RungCount, ShownProgram


def draw_course(courses: Sequence[Course], styles: Mapping[str, int], kind: Format) -> bytes:
    """Return the picture of the hypervolume over examples scored and over seconds.

    Args:
        courses: one per run and base model.
        styles: number of the colour and dash of each base model.
        kind: format of the bytes.
    """
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    labels = set()
    for course in courses:
        number = styles[course.model]
        for axes, along in ((left, course.examples), (right, course.seconds)):
            # Only the first run of a base model has an entry in the legend.
            name = "_again" if course.model in labels else plain(course.model)
            axes.step(along, course.hypervolume, where="post", color=COLOURS[number % len(COLOURS)],
                      dashes=DASHES[number % len(DASHES)] or (None, None), linewidth=1.5,
                      label=name)  # fmt: skip
        labels.add(course.model)
    left.set_xlabel("examples scored")
    right.set_xlabel("seconds of search")
    left.set_ylabel("hypervolume (doublings of length times score)")
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    right.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return encoded(figure, kind)


def draw_rungs(counts: Sequence[RungCount], styles: Mapping[str, int], kind: Format) -> bytes:
    """Return the picture of the candidates that each rung promoted, stopped or saw failing."""
    figure = new_figure(7, 3.6)
    axes = figure.add_subplot()
    rungs = sorted({(one.rung, one.num_examples) for one in counts})
    labels = [label for label in styles if any(one.model == label for one in counts)]
    width = 0.8 / max(1, len(labels))
    for position, label in enumerate(labels):
        colour = COLOURS[styles[label] % len(COLOURS)]
        at = np.arange(len(rungs)) + (position - (len(labels) - 1) / 2) * width
        below = np.zeros(len(rungs))
        for outcome, fill, hatch in (
            ("went_on", colour, ""),
            ("stopped", "white", "///"),
            ("failed", "white", "xxx"),
            ("coarser", "white", "..."),
        ):
            own = [one for one in counts if one.model == label]
            heights = np.array(
                [sum(getattr(one, outcome) for one in own if _rung(one) == rung) for rung in rungs]
            )
            name = plain(label) if outcome == "went_on" else None
            axes.bar(at, heights, 0.92 * width, bottom=below, color=fill, edgecolor=colour,
                     hatch=hatch, label=name)  # fmt: skip
            below += heights
    axes.set_xticks(range(len(rungs)), [f"{rung}: {examples:,}" for rung, examples in rungs])
    dotted = "; dotted: coarser versions" if any(one.coarser for one in counts) else ""
    axes.set_xlabel(f"rung: examples (hatched: stopped; crossed: failed{dotted})")
    axes.set_ylabel("candidates")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.06)
    axes.set_ylim(bottom=0)
    if labels:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return encoded(figure, kind)


def _rung(count: RungCount) -> tuple[int, int]:
    return count.rung, count.num_examples


def draw_composition(programs: Sequence[ShownProgram], kind: Format) -> bytes:
    """Return the picture of the sections of programs whose files were read: bytes and shares."""
    bars = [program for program in programs if program.sections is not None]
    figure = new_figure(9, 1.2 + 0.26 * len(bars))
    left, right = figure.subplots(1, 2, sharey=True)
    at = -np.arange(len(bars), dtype=float)
    totals = np.array([sum((program.sections or {}).values()) for program in bars])
    for axes, scale in ((left, np.ones(len(bars))), (right, 100 / np.maximum(totals, 1))):
        start = np.zeros(len(bars))
        for name, (colour, hatch) in SECTIONS.items():
            sizes = np.array([(program.sections or {}).get(name, 0) for program in bars]) * scale
            if sizes.any():
                axes.barh(at, sizes, 0.72, left=start, color=colour, hatch=hatch,
                          edgecolor="white", linewidth=0.5, label=name)  # fmt: skip
            start += sizes
        axes.spines[["top", "right"]].set_visible(False)
    points = [program.point for program in bars]
    names = [f"{plain(p.model)}, {bits_label(p.bits)}, score {p.score:.2f}" for p in points]
    left.set_yticks(at, names, fontsize=8)
    left.set_xlabel("bytes")
    right.set_xlabel("share in %")
    if bars:
        right.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return encoded(figure, kind)
