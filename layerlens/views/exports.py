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
    "csv": "text/csv",
    "nc": "application/x-netcdf",
}


def export(view: PictureView, kind: str) -> tuple[str, str, bytes]:
    """Return file name, media type and content.

    Raises
    ------
    InputError
        The format is none of `MIME`, or there is nothing to export.
    """
    if kind not in MIME:
        raise InputError(f"'{kind}' is not a format of a view; take one of {', '.join(MIME)}.")
    name = f"{_stem(view)}.{kind}"
    if kind == "html":
        from layerlens.export.html import html_bytes

        traits, packed = view._frozen()
        title = view.title or f"layerlens: {view._caption()}"
        return name, MIME[kind], html_bytes(traits, packed, title)
    write = getattr(_result(view), {"nc": "save"}.get(kind, kind))
    of_one = {"text": view._index} if kind in ("png", "svg") else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path, **of_one)
        return name, MIME[kind], path.read_bytes()


def _result(view: PictureView) -> Result:
    result = view.result or view.partial
    if result is None:
        raise InputError("There is no result yet; wait until the run is done.")
    return result


def _stem(view: PictureView) -> str:
    words = re.findall(r"[A-Za-z0-9]+", view.title or view._caption())
    return "-".join([view.view, *words[:6]])[:60].lower()
