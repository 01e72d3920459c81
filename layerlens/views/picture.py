"""What a view has on screen: meta and frames, and how a front end that comes late gets them."""

from __future__ import annotations

import secrets
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets as t

from layerlens.errors import InputError, LayerLensError
from layerlens.export.inline import Inline
from layerlens.export.pack import Frame, frames_of, pack
from layerlens.views.base import READ_ONLY, Reply, View
from layerlens.views.exports import export
from layerlens.views.frames import Stream
from layerlens.views.kept import MAX_PICTURE_BYTES, Kept, Shot
from layerlens.views.worker import Task, desk

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import pandas as pd
    import xarray as xr

    from layerlens.result import Result

MAX_SNAPSHOT_BYTES = 2 << 20
"""A larger picture is not kept in the notebook file."""


class PictureView(View):
    """Base of views that show arrays which fill up, live or finished.

    A subclass names in `PICTURE` the traits that a frozen page takes over.
    """

    KERNEL_ONLY = View.KERNEL_ONLY | {"meta", "snapshot", "kept"}
    PICTURE: tuple[str, ...] = ("view", "title", "theme")

    meta = t.Dict(help="What the picture shows; see layerlens.export.meta.").tag(**READ_ONLY)
    snapshot = t.Bytes(b"", help="The last picture, packed.").tag(**READ_ONLY)

    kept = t.Unicode(help="Class of the picture in the notebook's file.").tag(**READ_ONLY)

    STREAM: type[Stream] = Stream

    _result: Result | None = None
    _partial: Result | None = None
    _index = 0
    _stream: Stream | None = None
    _shown_meta: Mapping[str, Any] = {}

    def _listen(self) -> None:
        """Answer what every front end asks of a picture."""
        self._keeper = Kept([self])
        self._keepers = [self._keeper]
        self._messages["ready"] = self._on_ready
        self._answers["pull"] = (self._pull, desk())
        self._answers["export"] = (self._export, desk())

    @t.default("kept")
    def _new_kept(self) -> str:
        return f"ll-kept-{secrets.token_hex(6)}"

    @property
    def result(self) -> Result | None:
        """The result of the last run that finished, or None."""
        return self._result

    @property
    def partial(self) -> Result | None:
        """What a cancelled run had finished, while that is shown; else None."""
        return self._partial

    # Showing

    def _show_stream(self, stream: Stream, meta: Mapping[str, Any]) -> None:
        """Let a run's picture replace the last one; called with each of its parts."""
        if self._stream is not stream:
            self._stream, self._shown_meta = stream, meta
            self._post(meta=dict(meta))
            self._say(self._follow_meta)

    def _show_meta(self, stream: Stream, meta: Mapping[str, Any]) -> None:
        """Say something else around a run's picture that is shown."""
        if self._stream is stream:
            self._shown_meta = meta
            self._post(meta=dict(meta))

    def _show_result(self, result: Result, data: xr.Dataset, meta: Mapping[str, Any]) -> None:
        """Show a result that exists; `data` are those of one text."""
        run = int(meta["run"])
        self._stream = self.STREAM.finished(self._frames(data, run), run)
        self._stream.hold(data)
        self._result, self._shown_meta = result, meta
        self.meta = dict(meta)
        self.snapshot = _small_enough(self._packed(meta, self._stream))
        self._follow_meta()

    def _frames(self, data: xr.Dataset, run: int) -> list[Frame]:
        """Return the arrays of a result as they travel."""
        return frames_of(data, run)

    def _keep(self, meta: Mapping[str, Any], stream: Stream) -> None:
        """Show the end of a run and keep its picture for the notebook file."""
        self._shown_meta = meta
        self._post(meta=dict(meta), snapshot=_small_enough(self._packed(meta, stream)))

    def _restore(self, stream: Stream | None, meta: Mapping[str, Any]) -> None:
        """Show the last picture again, after a run that failed on its way."""
        self._stream, self._shown_meta = stream, meta
        self._post(meta=dict(meta))
        self._say(self._follow_meta)
        for frame in stream.sent if stream is not None else []:
            self._send_frame(frame)

    def _follow_meta(self) -> None:
        """Bring other traits in line with a new `meta`."""

    def _send_frame(self, frame: Frame) -> None:
        header, buffers = frame
        self._send_later({"kind": "frame", **header}, buffers)

    # Messages of the front end

    def _on_ready(self, message: dict[str, Any]) -> None:
        run, seq = int(message.get("run") or 0), int(message.get("seq") or 0)
        held = weakref.ref(self)

        def work(task: Task) -> None:
            view = held()
            if view is not None:
                view._resend(run, seq)

        desk().put(Task(self._owner, "resend", work, self._report))

    def _resend(self, run: int, seq: int) -> int:
        frames = [] if self._stream is None else self._stream.after(run, seq)
        for frame in frames:
            self._send_frame(frame)
        return len(frames)

    def _pull(self, params: dict[str, Any], task: Task) -> Reply:
        return {"frames": self._resend(0, 0)}, []

    def _export(self, params: dict[str, Any], task: Task) -> Reply:
        name, mime, content = export(self, str(params.get("format")), dark=bool(params.get("dark")))
        return {"name": name, "mime": mime}, [content]

    # Elsewhere

    def html(self, path: str | os.PathLike[str]) -> Path:
        """Write one HTML file that shows what the view shows, with no kernel and no network."""
        from layerlens.result.files import checked_path, write_bytes

        return write_bytes(checked_path(path, ".html", ".htm"), export(self, "html")[2])

    def embed(self, *, height: int = 560) -> Inline:
        """Return the page that `html` writes as a piece of any other page.

        A cell that ends with it shows it; its attribute `html` is the line for a page of one's own.

        Parameters
        ----------
        height : int
            Pixels, until the frame knows how high its content is.

        Raises
        ------
        InputError
            There is no picture yet.
        """
        return Inline(export(self, "html")[2], self.title or self._caption() or repr(self), height)

    def _frozen(self) -> tuple[dict[str, Any], bytes]:
        """Return the traits and the packed data of a frozen twin."""
        if self._stream is None:
            raise InputError("There is no picture yet; call view.wait() before.")
        traits = {name: getattr(self, name) for name in self.PICTURE}
        traits["meta"] = dict(self._shown_meta)
        ended = self.status["state"] not in ("queued", "running")
        traits["status"] = {**self.status, "state": self.status["state"] if ended else "cancelled"}
        return traits, self._packed(self._shown_meta, self._stream, page=True)

    def _packed(self, meta: Mapping[str, Any], stream: Stream, *, page: bool = False) -> bytes:
        """Return a picture packed, for the notebook's file or for a `page` of its own."""
        return pack(meta, stream.merged())

    def _table_data(self, data: xr.Dataset) -> xr.Dataset:
        """Return what a table of the picture is made of."""
        return data

    def _figure_options(self) -> dict[str, Any]:
        """Return the options of the figure that draw what is chosen on screen."""
        return {"title": self.title or None}

    def _table(self, data: xr.Dataset) -> pd.DataFrame:
        """Return the numbers on screen as a table, with what is chosen there."""
        from layerlens.result.tidy import to_pandas

        return to_pandas(data)

    def _caption(self) -> str:
        """Return what is shown, in a few words, for the name of a file."""
        return self.title

    # In the notebook's file

    def _ipython_display_(self) -> None:
        """Show the widget, and keep a picture of it in the notebook for when no kernel is there."""
        bundle = self._widget_bundle()
        if bundle is not None:
            self._keeper.show(bundle)

    def _settle(self) -> None:
        """Wait for what is under way, however it ends."""

    def _shot(self) -> Shot:
        """Return what the view looks like now, and what to say of it."""
        shown = self._partial or self._result
        if shown is None:
            return Shot(b"", self._unfinished())
        picture = self._picture()
        if len(picture) > MAX_PICTURE_BYTES:
            picture = b""
        what = "Picture" if picture else "Summary"
        return Shot(picture, f"{what} of {self!r}; run the cell to make it live.", repr(shown))

    def _unfinished(self) -> str:
        """Return what stands in the notebook where there is nothing to show."""
        if self.status.get("state") == "error":
            return f"{self!r}: {self.status['message']}"
        return f"{self!r}: nothing was computed when this was saved; run the cell."

    def _renew(self) -> None:
        """Bring what stays in the notebook up to date with what is shown."""
        for kept in list(self._keepers):
            kept.renew()

    def _picture(self) -> bytes:
        shown = self._partial or self._result
        if shown is None:
            return b""
        from layerlens.figures import quick
        from layerlens.figures.images import image_bytes
        from layerlens.result.select import one_text

        try:
            data, options = one_text(shown.data, self._index), self._figure_options()
            kind = options.pop("kind", shown.view)
            return image_bytes(quick(kind, data, **options), "png", dpi=96)
        except LayerLensError:  # the text stands in for a figure that cannot be drawn
            return b""

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        self._stream = None


def _small_enough(packed: bytes) -> bytes:
    return packed if len(packed) <= MAX_SNAPSHOT_BYTES else b""
