"""What a view shows as a file: name, media type, content."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.result import Result
    from layerlens.views.picture import PictureView

MIME = {
    "html": "text/html",
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "csv": "text/csv",
    "nc": "application/x-netcdf",
}
IMAGES = ("png", "svg", "pdf")


def export(view: PictureView, kind: str, *, dark: bool = False) -> tuple[str, str, bytes]:
    """Return file name, media type and content of what is on screen.

    Parameters
    ----------
    view : PictureView
        The view.
    kind : str
        One of `MIME`.
    dark : bool
        Whether a view that follows its host is dark there.

    Raises
    ------
    InputError
        The format is none of `MIME`, or there is nothing to export yet.
    """
    if kind not in MIME:
        raise InputError(f"'{kind}' is not a format of a view; take one of {', '.join(MIME)}.")
    name = f"{_stem(view)}.{kind}"
    if kind == "html":
        from layerlens.export.html import html_bytes

        traits, packed = view._frozen()
        title = view.title or f"layerlens: {view._caption()}"
        return name, MIME[kind], html_bytes(traits, packed, title)
    from layerlens.figures.images import image_bytes
    from layerlens.result.select import one_text

    result = _shown(view)
    if kind in IMAGES:
        follows = "dark" if dark else "light"
        theme = follows if view.theme == "auto" else view.theme
        figure = result.figure(text=view._index, theme=theme, **view._figure_options())
        return name, MIME[kind], image_bytes(figure, kind)
    if kind == "csv":
        data = view._table_data(one_text(result.data, view._index))
        table = view._table(data).to_csv(index=False)
        return name, MIME[kind], table.encode("utf-8", errors="backslashreplace")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        return name, MIME[kind], result.save(path).read_bytes()


def _shown(view: PictureView) -> Result:
    """Return the result of what is on screen; the part of a run that was stopped is one too."""
    if view._stream is not None and not view._stream.ended:
        raise InputError(
            "The run is not done; call view.wait() before, or view.cancel() to take its part."
        )
    result = view.partial if view.partial is not None else view.result
    if result is None:
        raise InputError("There is no result yet; call view.wait() before.")
    return result


def _stem(view: PictureView) -> str:
    words = re.findall(r"[A-Za-z0-9]+", view.title or view._caption())
    return "-".join([view.view, *words[:6]])[:60].lower()
