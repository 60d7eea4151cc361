"""The picture of a scorecard: side effects of programs as a heat map with numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from kilobit.evaluators.figures.canvas import Format, encoded, new_figure, plain

# Orange is worse, blue is better.
_WORSE_TO_BETTER = LinearSegmentedColormap.from_list("kilobit", ["#E66E00", "#FFFFFF", "#0072B2"])
_MARKS = {"helps": " ▲", "harms": " ▼"}
# Changes below this are pale, even where nothing in the column changed more.
_LEAST_SCALE = 0.05


def draw_scorecard(lines: Sequence[Mapping[str, Any]], kind: Format) -> bytes:
    """Return the picture of the changes of whole items against the bare base models.

    Args:
        lines: rows of scorecard.parquet.
        kind: format of the bytes.
    """
    whole = [line for line in lines if line["tag"] is None]
    whole = [line for line in whole if line["change"] is not None or line["error"]]
    # Leave out items without a number for any program: their columns would be empty.
    items = list(dict.fromkeys(line["item"] for line in whole if line["change"] is not None))
    programs = list(dict.fromkeys(_program(line) for line in whole))
    cells = {(_program(line), line["item"]): line for line in whole}
    better = np.zeros((len(programs), len(items)))
    for row, program in enumerate(programs):
        for column, item in enumerate(items):
            better[row, column] = _better(cells.get((program, item)))
    scale = np.maximum(np.abs(better).max(axis=0, initial=0), _LEAST_SCALE)
    figure = new_figure(2.6 + 1.15 * len(items), 1.2 + 0.28 * len(programs))
    axes = figure.add_subplot()
    axes.imshow(better / scale, cmap=_WORSE_TO_BETTER, vmin=-1.6, vmax=1.6, aspect="auto")
    for row, program in enumerate(programs):
        for column, item in enumerate(items):
            text = _text(cells.get((program, item)))
            axes.text(column, row, text, ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(items)), list(map(plain, items)), rotation=20, ha="left", fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(programs)), [_name(cells, p, items) for p in programs], fontsize=8)
    axes.tick_params(length=0)
    axes.set_xlabel("change against the bare base model; ▲ helps, ▼ harms beyond noise", fontsize=8)
    return encoded(figure, kind)


def _program(line: Mapping[str, Any]) -> tuple[str, str, str]:
    return line["run"], line["model"], line["candidate"]


def _better(line: Mapping[str, Any] | None) -> float:
    if line is None or line["change"] is None:
        return 0.0
    return float(-line["change"] if line["better"] == "lower" else line["change"])


def _text(line: Mapping[str, Any] | None) -> str:
    if line is None or line["change"] is None:
        return "failed" if line is not None and line["error"] else "?"
    if line["change"] == 0:
        return "0"
    return f"{line['change']:+.2f}{_MARKS.get(line['verdict'], '')}"


def _name(
    cells: Mapping[tuple[tuple[str, str, str], str], Mapping[str, Any]],
    program: tuple[str, str, str],
    items: Sequence[str],
) -> str:
    line = next(cells[program, item] for item in items if (program, item) in cells)
    return f"{plain(line['model'])}, {line['program_bits']:,} bits"
