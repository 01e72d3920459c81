"""A figure as the bytes of an image."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_bytes(figure: Figure, kind: str = "png", *, dpi: int = 150) -> bytes:
    """Return `figure` as a PNG, SVG or PDF file's content; the same bytes for the same figure.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        Any figure.
    kind : {"png", "svg", "pdf"}
        The format.
    dpi : int
        Pixels an inch, for PNG.
    """
    import matplotlib

    # Ids and dates are random otherwise; text stays text, to be searched and read aloud.
    stable: dict[Any, Any] = {
        "svg.hashsalt": "layerlens",
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
    }
    dates = {"svg": "Date", "png": "Software", "pdf": "CreationDate"}
    metadata: dict[str, str | None] = {dates[kind]: None}
    with matplotlib.rc_context(stable), io.BytesIO() as file:
        figure.savefig(
            file, format=kind, dpi=dpi, metadata=metadata, facecolor=figure.get_facecolor()
        )
        return file.getvalue()
