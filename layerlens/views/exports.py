"""What a view shows as a file: name, media type, content."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.result import Result
    from layerlens.views.lens import LensView

MIME = {
    "html": "text/html",
    "png": "image/png",
    "svg": "image/svg+xml",
    "csv": "text/csv",
}


def export(view: LensView, kind: str) -> tuple[str, str, bytes]:
    """Return file name, media type and content.

    Raises
    ------
    InputError
        The format is none of ``html``, ``png``, ``svg``, ``csv``, or there is nothing to export.
    """
    if kind not in MIME:
        raise InputError(f"'{kind}' is not a format of a lens; take one of {', '.join(MIME)}.")
    name = f"{_stem(view)}.{kind}"
    if kind == "html":
        from layerlens.export.html import html_bytes

        traits, packed = view._frozen()
        return name, MIME[kind], html_bytes(traits, packed, view.title or f"layerlens: {view.text}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        getattr(_result(view), kind)(path)
        return name, MIME[kind], path.read_bytes()


def _result(view: LensView) -> Result:
    result = view.result or view.partial
    if result is None:
        raise InputError("There is no result yet; wait until the run is done.")
    return result


def _stem(view: LensView) -> str:
    words = re.findall(r"[A-Za-z0-9]+", view.title or view.text)
    return "-".join(["lens", *words[:6]])[:60].lower()
