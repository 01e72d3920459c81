"""A progress bar in the output of a notebook's cell, of which nothing is left when it is done."""

from __future__ import annotations

import html
from typing import Any

from tqdm.std import tqdm

_GONE = {"text/plain": ""}


def bar_class() -> Any:
    """Return what draws progress here: a cell's output in a kernel, else the terminal."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return tqdm
    return CellBar if hasattr(get_ipython(), "kernel") else tqdm


class CellBar(tqdm):  # type: ignore[misc]
    """tqdm's counting, drawn with one display that changes.

    Its own notebook bar is a widget, which a saved cell keeps as it stood first: half done for
    ever. This one is emptied, so that a notebook is saved as if it had never been.
    """

    def __init__(self, **options: Any) -> None:
        self._place: Any = None
        super().__init__(gui=True, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show how far it is."""
        from IPython.display import display

        if self._place is None:
            drawn = self._drawn()
            self._place = display(drawn, raw=True, display_id=True)
        else:
            self._place.update(self._drawn(), raw=True)

    def close(self) -> None:
        """Take it away."""
        super().close()
        if self._place is not None:
            self._place.update(_GONE, raw=True)
            self._place = None

    def _drawn(self) -> dict[str, str]:
        total = "" if self.total is None else f' max="{self.total}" value="{self.n}"'
        words = self.format_meter(**{**self.format_dict, "bar_format": "{desc}{r_bar}"})
        words = html.escape(words.replace("|", "", 1))
        return {"text/plain": str(self), "text/html": f"<progress{total}></progress> {words}"}
