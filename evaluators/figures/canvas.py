"""Empty pictures and the style of all pictures: colours, markers, dashes, units.

The style is that of the report's page too. No two curves differ by colour alone.
"""

import io
from typing import Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's palette: distinct for colour-blind readers and in grey print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
# Lengths of lines and gaps in units of the line's width; none is a solid line.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (6, 2),
    (6, 2, 1, 2),
    (1.5, 1.5),
    (6, 2, 1, 2, 1, 2),
    (3, 2),
    (9, 3),
)
# Colour and hatch of each section of a program, in the order of its files.
SECTIONS = {
    "script": ("#56B4E9", ""),
    "template": ("#F0E442", "..."),
    "prompt": ("#E69F00", "///"),
    "scales": ("#CC79A7", "..."),
    "numbers": ("#009E73", "\\\\\\"),
    "examples": ("#0072B2", "xxx"),
}
_THREE_DIGITS = 0.9995


def bits_label(bits: float) -> str:
    """Return a length with its unit, for example `96 bit`, `1.4 kbit`, `3.8 Mbit`."""
    for unit, size in (("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3)):
        # A length that rounds to a thousand of a unit is written as one of the next unit.
        if bits >= _THREE_DIGITS * size:
            return f"{bits / size:.3g} {unit}"
    return f"{bits:.0f} bit"


Format = Literal["png", "pdf"]


def new_figure(width: float = 8, height: float = 4.8) -> Figure:
    """Return an empty picture, its sides in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(text: str) -> str:
    """Return a text that matplotlib draws literally: no formula, no label hidden from legends."""
    shown = "".join(letter if letter.isprintable() else " " for letter in text)
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def encoded(figure: Figure, kind: Format = "png") -> bytes:
    """Return the bytes of a picture; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"CreationDate": None} if kind == "pdf" else None
    figure.savefig(buffer, format=kind, dpi=130, metadata=metadata)
    return buffer.getvalue()
