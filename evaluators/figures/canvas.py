"""Creation and encoding of pictures."""

import io
from typing import Literal

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
