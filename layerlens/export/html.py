"""One HTML file that shows a result with no kernel, no server and no network.

The page holds the style sheet, the view's traits and the packed data (base64) as JSON, and the host
script, which plays the kernel's part. A content security policy forbids every request, so a page
can be passed on with confidence.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerlens.errors import ResultError
from layerlens.export.twins import THEMES, packed_of, traits_of
from layerlens.result.files import checked_path, write_bytes
from layerlens.result.select import one_text

if TYPE_CHECKING:
    from layerlens.result.result import Result

STATIC = Path(__file__).resolve().parent.parent / "static"

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; connect-src data:; base-uri 'none'; form-action 'none'"
)
"""No address is allowed but those of data inside the page itself."""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="{scheme}">
<title>{title}</title>
<style>:root {{ color-scheme: {scheme}; }} body {{ margin: 12px; }}</style>
<style>{style}</style>
</head>
<body>
<main id="layerlens-root"></main>
<noscript>This page draws its tables with JavaScript, which is switched off.</noscript>
<script type="application/json" id="layerlens-data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def write_result(
    result: Result, path: str | os.PathLike[str], *, text: int = 0, theme: str = "auto"
) -> Path:
    """Write the page of one text of a result; return its path."""
    data = one_text(result.data, text)
    title = f"{result.analysis} of {data.attrs.get('model', '')}".strip()
    traits = traits_of(data, result.checks, theme=theme)
    return write_html(path, traits, packed_of(data, traits), title)


def write_html(
    path: str | os.PathLike[str], traits: Mapping[str, Any], packed: bytes, title: str
) -> Path:
    """Write the page of a view.

    Parameters
    ----------
    path : path-like
        Must end in ``.html`` or ``.htm``.
    traits : mapping
        The view's traits; ``live`` becomes False, and a ``snapshot`` gives way to `packed`.
    packed : bytes
        What `layerlens.export.pack.pack` returned.
    title : str
        The title of the page.

    Raises
    ------
    ResultError
        The front end is not built, or the file could not be written.
    """
    target = checked_path(path, ".html", ".htm")
    return write_bytes(target, html_bytes(traits, packed, title))


def html_bytes(traits: Mapping[str, Any], packed: bytes, title: str) -> bytes:
    """Return the content of the page that `write_html` writes."""
    frozen = {name: value for name, value in traits.items() if name != "snapshot"} | {"live": False}
    page = _PAGE.format(
        policy=POLICY,
        scheme=THEMES.get(str(traits.get("theme", "auto")), THEMES["auto"]),
        title=html.escape(title),
        style=_style(_static("index.css")),
        data=script_json({"traits": frozen, "packed": base64.b64encode(packed).decode("ascii")}),
        script=_script(_static("host.js")),
    )
    return page.encode("utf-8")


def script_json(value: Any) -> str:
    """Return JSON that no HTML parser takes for markup and no script parser for a line end.

    Everything outside ASCII is escaped too, so lone surrogates survive.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _style(text: str) -> str:
    return re.sub(r"<(?=/style|!--)", r"\\3c ", text, flags=re.IGNORECASE)


def _script(text: str) -> str:
    # In a minified script these occur inside strings only, where \x3c is the same character.
    return re.sub(r"<(?=/?script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def _static(name: str) -> str:
    try:
        return (STATIC / name).read_text(encoding="utf-8")
    except OSError as error:
        raise ResultError(
            f"The front end of layerlens is missing ('{STATIC / name}'): install layerlens from a "
            "wheel, or run 'make build' in the checkout."
        ) from error
