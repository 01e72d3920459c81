"""A page of a view as a piece of any other page, by one line of HTML."""

from __future__ import annotations

import os
from html import escape

EVERYWHERE = "LAYERLENS_EMBED"
"""The variable of the environment that has cells show views this way; `notebook.py` sets it."""


class Inline:
    """A frozen view inside another page: an iframe that holds all of its own.

    It is what a cell shows, so a notebook with it is drawn alike by JupyterLab, nbconvert, Sphinx
    with MyST-NB, Jupyter Book and Quarto, with no kernel and no network; `html` is for a page that
    is written by hand. Where the page around it lets it, it is as high as what it shows.

    Parameters
    ----------
    page : bytes
        The page, as `layerlens.export.html.html_bytes` makes it.
    title : str
        What the frame is called, for those who do not see it.
    height : int
        Its height in pixels, until it is known how high it has to be.
    """

    def __init__(self, page: bytes, title: str, height: int = 560) -> None:
        self.page = page
        self.title = title
        self.height = height

    @property
    def html(self) -> str:
        """The frame, as HTML."""
        return (
            f'<iframe title="{escape(self.title)}" srcdoc="{escape(self.page.decode("utf-8"))}" '
            f'style="width:100%;height:{self.height}px;border:0" loading="lazy"></iframe>'
        )

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"{self.title} ({len(self.page) / 1024:.0f} KiB of HTML)"


def wanted() -> bool:
    """Whether cells show views frozen, each with its data, in the place of widgets."""
    return os.environ.get(EVERYWHERE) == "1"
