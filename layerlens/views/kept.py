"""The picture of a view that stays in a notebook's file, for when no kernel and no widget is there.

A cell shows two outputs: the widget, and under it a picture of its own display id, renewed at the
end of each run. A widget's own output cannot be renewed: JupyterLab would build the widget again,
and what is typed or opened in it would be lost. While the widget is on the page it hides the
picture (by the picture's class, see ``mount.tsx``); without it, the picture hides the message
that stands in the widget's place.
"""

from __future__ import annotations

import base64
import weakref
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from layerlens.export.inline import wanted
from layerlens.views.worker import Task, easel

if TYPE_CHECKING:
    from layerlens.views.picture import PictureView

MAX_PICTURE_BYTES = 1 << 20
"""A larger picture is not kept in the notebook file."""

# `:has` knows JupyterLab's and nbconvert's boxes; elsewhere the rule finds nothing.
_HIDE_EMPTY = (
    ".jp-OutputArea-child:has(+ .jp-OutputArea-child .{kept}):not(:has(.layerlens)){{display:none}}"
)
_BOX = "margin:4px 0 8px"
_CAPTION = "margin:0 0 6px;font-size:12px;opacity:.75"


class Shot(NamedTuple):
    """What a view looks like now: a PNG file, empty where there is none, a sentence, a summary."""

    picture: bytes
    caption: str
    summary: str = ""


class Kept:
    """An output of a notebook that shows what some views showed last.

    Parameters
    ----------
    views : sequence of PictureView
        Whose picture it is; more than one where they are shown together.
    """

    def __init__(self, views: Sequence[PictureView]) -> None:
        self.owner = views[0]._owner
        self.display_id = views[0].kept
        self._views = [weakref.ref(view) for view in views]
        self._shown = False

    def show(self, bundle: tuple[dict[str, Any], dict[str, Any]]) -> None:
        """Publish a widget, and the picture that belongs to it.

        Where nobody can be asked anything (nbconvert, papermill) nobody watches either, and the
        cell ends with the run, so that its picture is in the file. Where views are to be embedded,
        their pages stand in the place of both.
        """
        if wanted():
            for view in self._alive():
                view._settle()
                _embed(view)
            return
        publish(*bundle)
        shell = _notebook()
        if shell is None:
            return
        self._publish(update=False)
        if unattended(shell):
            for view in self._alive():
                view._settle()
            self._publish(update=True)
            self._shown = True
            return
        self._shown = True
        if any(view._result is not None for view in self._alive()):
            self.renew()

    def renew(self) -> None:
        """Draw the picture anew, soon and on another thread, if it was ever shown."""
        if not self._shown:
            return
        held = weakref.ref(self)

        def work(task: Task) -> None:
            kept = held()
            if kept is not None and not task.cancelled:
                kept._publish(update=True)

        easel().put(Task(self.owner, "picture", work, lambda error: None))

    def _alive(self) -> list[PictureView]:
        found = (view() for view in self._views)
        return [view for view in found if view is not None]

    def _publish(self, *, update: bool) -> None:
        views = [view for view in self._alive() if view.status["state"] != "idle"]
        # An empty one is published first, so that the widget does not wait for its drawing.
        shots = [view._shot() if update else Shot(b"", view._unfinished()) for view in views]
        names = " ".join(view.kept for view in views)
        data = {"text/html": _page(names, shots), "text/plain": _lines(shots)}
        if pictures := [shot.picture for shot in shots if shot.picture]:
            data["image/png"] = _base64(pictures[0])
        publish(data, {}, {"display_id": self.display_id}, update=update)


def _embed(view: PictureView) -> None:
    """Show a view's page in the cell; nothing of one that was never asked."""
    if view._stream is not None:
        publish({"text/html": view.embed().html, "text/plain": view._plain()}, {})
    elif view.status["state"] != "idle":
        publish({"text/plain": view._unfinished()}, {})


def unattended(shell: Any) -> bool:
    """Return whether the running cell was sent by a program that cannot be asked anything."""
    parent = shell.kernel.get_parent("shell")
    return parent.get("content", {}).get("allow_stdin") is False


def _notebook() -> Any | None:
    """Return the shell of a kernel, if this is one; in a terminal nothing is kept."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell if hasattr(shell, "kernel") else None


def publish(
    data: dict[str, Any],
    metadata: dict[str, Any],
    transient: dict[str, Any] | None = None,
    *,
    update: bool = False,
) -> None:
    """Put an output under the running cell, or renew one."""
    from IPython import display

    send: Any = display.publish_display_data  # it has no annotations
    send(data, metadata, transient=transient, update=update)


def _page(names: str, shots: Sequence[Shot]) -> str:
    hide = _HIDE_EMPTY.format(kept=names.split()[0])
    parts = "".join(_figure(shot) for shot in shots)
    return f'<div class="{names}" style="{_BOX}"><style>{hide}</style>{parts}</div>'


def _figure(shot: Shot) -> str:
    text = f'<p style="{_CAPTION}">{escape(shot.caption)}</p>'
    if not shot.picture:
        return f"{text}<pre>{escape(shot.summary)}</pre>" if shot.summary else text
    source = f"data:image/png;base64,{_base64(shot.picture)}"
    return f'{text}<img alt="{escape(shot.caption)}" src="{source}" style="max-width:100%">'


def _lines(shots: Sequence[Shot]) -> str:
    return "\n".join(line for shot in shots for line in (shot.caption, shot.summary) if line)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
