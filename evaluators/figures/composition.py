"""The picture of the composition of programs: bytes of each section as stacked bars."""

from collections.abc import Sequence

import numpy as np

from evaluators.figures.canvas import Format, encoded, new_figure, plain
from evaluators.figures.style import SECTIONS, bits_label
from evaluators.report.contents import ShownProgram


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
    names = [f"{plain(p.model)}, {bits_label(p.bits)}, score {p.score:.2f}" for p in bars]
    left.set_yticks(at, names, fontsize=8)
    left.set_xlabel("bytes")
    right.set_xlabel("share in %")
    if bars:
        right.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return encoded(figure, kind)
