"""A view of one analysis of one text: it runs on the model's lane, streams and can be stopped."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

import traitlets as t

from layerlens.errors import Cancelled, InputError
from layerlens.export.pack import Frame, pack
from layerlens.views.base import READ_ONLY, Reply, View, sentence
from layerlens.views.frames import Stream
from layerlens.views.listen import RunListener
from layerlens.views.runs import Run, superseded
from layerlens.views.worker import Lane, Task, desk, lane_of

if TYPE_CHECKING:
    from layerlens.analyses.contract import Analysis
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result

MAX_SNAPSHOT_BYTES = 2 << 20
"""A larger picture is not kept in the notebook file."""

IDLE = {"state": "idle", "run": 0, "done": 0, "total": 0, "what": "", "message": "", "seconds": 0.0}


class LiveView(View):
    """Base of views that show one analysis of one text.

    A subclass names its analysis in `ANALYSIS`. The traits `text` and `options` are the question:
    setting one, from Python or from the front end, starts a run that replaces the present one.
    """

    ANALYSIS = ""
    KERNEL_ONLY = View.KERNEL_ONLY | {"meta", "snapshot"}

    text = t.Unicode("", help="The prompt.").tag(sync=True)
    options = t.Dict(help="Options of the analysis.").tag(sync=True)
    meta = t.Dict(help="What the picture shows; see layerlens.export.meta.").tag(**READ_ONLY)
    snapshot = t.Bytes(b"", help="The last picture, packed.").tag(**READ_ONLY)

    model: LensModel | None = None
    _lane: Lane | None = None
    _run: Run | None = None
    _result: Result | None = None
    _partial: Result | None = None
    _stream: Stream | None = None
    _shown_meta: Mapping[str, Any] = {}
    _ready = False

    def __init__(self, model: LensModel, text: Any, **keywords: Any) -> None:
        self._open(model, text, keywords)
        self._ask()

    def _open(self, model: LensModel | None, text: Any, keywords: dict[str, Any]) -> None:
        """Create the widget, without asking anything yet."""
        options = {**keywords.pop("options", {}), **self._take_options(keywords)}
        self.model = model
        self._given = text
        self._given_text = text if isinstance(text, str) else _readable(model, text)
        self._lock = threading.RLock()
        if model is not None:
            self._lane = lane_of(model)
        View.__init__(self, text=self._given_text, options=options, **keywords)
        self._answers["pull"] = (self._pull, desk())
        self._messages["ready"] = self._on_ready
        self._messages["run"] = self._on_run
        self._messages["cancel"] = self._on_cancel
        self.live = model is not None
        self.status = dict(IDLE)
        self._ready = True

    def _take_options(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Remove from `keywords` the options of the analysis, and return them."""
        known = self._keywords()
        others = [name for name in keywords if name not in known]
        if not others:
            return {}
        options = self.analysis.options
        for name in others:
            if name not in options:
                close = get_close_matches(name, [*known, *options], n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
                raise TypeError(f"{type(self).__name__} has no option '{name}': {hint}")
        return {name: keywords.pop(name) for name in others}

    @property
    def analysis(self) -> Analysis:
        """The analysis that this view shows."""
        from layerlens.analyses.registry import get

        return get(self.ANALYSIS)

    @property
    def result(self) -> Result | None:
        """The result of the last run that finished, or None."""
        return self._result

    @property
    def partial(self) -> Result | None:
        """What the present run had finished when it was cancelled, or None."""
        return self._partial

    # Asking

    def run(self, text: Any = None, **options: Any) -> Self:
        """Ask again, or ask something else; returns at once.

        Parameters
        ----------
        text : str, list of int or chat messages, optional
            A new text; by default the present one.
        **options
            Options of the analysis to change.
        """
        if self._lane is None:
            raise InputError(f"This {type(self).__name__} is frozen: it has no model to ask.")
        with self._lock:
            self._ready = False
            try:
                if text is not None:
                    self._given = text
                    self._given_text = (
                        text if isinstance(text, str) else _readable(self.model, text)
                    )
                    self.text = self._given_text
                self.options = {**self.options, **options}
            finally:
                self._ready = True
            self._ask(again=True)
        return self

    @t.observe("text", "options")
    def _question_changed(self, change: Any) -> None:
        if self._ready:
            self._ask()

    def _ask(self, *, again: bool = False) -> None:
        """Put the present question into the lane; one that is being answered is not put twice."""
        if self._lane is None or self._closed:
            return
        with self._lock:
            text = self._given if self.text == self._given_text else self.text
            old = self._run
            if old is not None and not old.ended and not again:
                same = old.same_question(text, self.options)
                if same:
                    return
            run = self._run = Run(1 if old is None else old.number + 1, text, self.options)
            self._tell(run, "queued")
            self._lane.put(self._task(run))
        if old is not None and not old.ended and old.task_waits:
            old.end(error=superseded())

    def _task(self, run: Run) -> Task:
        # Only weakly: what waits in the lane must not keep a closed widget alive.
        held = weakref.ref(self)

        def work(task: Task) -> None:
            run.task_waits = False
            view = held()
            if view is not None and not task.cancelled:
                view._compute(run, task)
            elif not run.ended:
                run.end(error=superseded())

        def fail(error: BaseException) -> None:
            view = held()
            if view is not None:
                view._tell(run, "error", message=sentence(error))
            run.end(error=error)

        return Task(self._owner, "run", work, fail)

    # Computing, on the worker's thread

    def _compute(self, run: Run, task: Task) -> None:
        if self.model is None:
            return
        self._tell(run, "running")
        add_bos = run.options.get("add_bos")
        run.tokens = self.model.tokens(run.text, add_bos=add_bos)
        if not run.tokens.single:
            raise InputError(
                f"{type(self).__name__} shows one text and got {len(run.tokens.ids)}; "
                f"give one of them, or call ll.{self.ANALYSIS} for all."
            )
        run.resolved = self._resolved(run)
        before = self._stream, self._shown_meta
        listener = RunListener(self, run, task)
        try:
            result = self.analysis.run(self.model, run.text, run.resolved, listener)
        except Cancelled as stop:
            self._stopped(run, stop, listener)
        except BaseException:
            if listener.stream is not None and self._stream is listener.stream:
                self._restore(*before)
            raise
        else:
            self._finished(run, result, listener)

    def _resolved(self, run: Run) -> dict[str, Any]:
        """Return the options as the analysis takes them."""
        return dict(run.options)

    def _finished(self, run: Run, result: Result, listener: RunListener) -> None:
        if run is not self._run or listener.stream is None:
            run.end(error=superseded())
            return
        self._show_stream(listener.stream, listener.meta)
        listener.stream.finish()
        checks = result.checks.records()
        meta = {**listener.meta, "checks": checks, "code": result.code}
        self._result, self._partial = result, None
        self._settle(run, meta, listener.stream, "done")
        run.end(result=result)

    def _stopped(self, run: Run, stop: Cancelled, listener: RunListener) -> None:
        if run is self._run:
            self._partial = stop.partial  # type: ignore[assignment]
            if listener.stream is not None and listener.stream is self._stream:
                listener.stream.finish()
                self._settle(run, listener.meta, listener.stream, "cancelled")
            else:
                self._tell(run, "cancelled")
        run.end(error=stop)

    def _settle(self, run: Run, meta: dict[str, Any], stream: Stream, state: str) -> None:
        """Show the end of a run and keep its picture for the notebook file."""
        packed = pack(meta, stream.merged())
        self._shown_meta = meta
        self._post(meta=meta, snapshot=packed if len(packed) <= MAX_SNAPSHOT_BYTES else b"")
        self._tell(run, state)

    # Showing

    def _show_stream(self, stream: Stream, meta: dict[str, Any]) -> None:
        """Let a run's picture replace the last one; called with each of its parts."""
        if self._stream is not stream:
            self._stream, self._shown_meta = stream, meta
            self._post(meta=meta)
            self._say(self._follow_meta)

    def _restore(self, stream: Stream | None, meta: Mapping[str, Any]) -> None:
        """Show the last picture again, after a run that failed on its way."""
        self._stream, self._shown_meta = stream, meta
        self._post(meta=dict(meta))
        self._say(self._follow_meta)
        for frame in stream.sent if stream is not None else []:
            self._send_frame(frame)

    def _follow_meta(self) -> None:
        """Bring other traits in line with a new `meta`."""

    def _tell(self, run: Run, state: str, **more: Any) -> None:
        """Set the status, unless a newer run has taken over."""

        def show() -> None:
            if run is self._run:
                last = self.status if self.status.get("run") == run.number else IDLE
                common = {"state": state, "run": run.number, "message": ""}
                self.status = {**last, **common, "seconds": round(run.seconds, 3), **more}

        self._say(show)

    def _send_frame(self, frame: Frame) -> None:
        header, buffers = frame
        self._send_later({"kind": "frame", **header}, buffers)

    # Messages of the front end

    def _on_ready(self, message: dict[str, Any]) -> None:
        run, seq = int(message.get("run") or 0), int(message.get("seq") or 0)
        self._put_resend(run, seq)

    def _put_resend(self, run: int, seq: int) -> None:
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

    def _on_run(self, message: dict[str, Any]) -> None:
        with self._lock:
            text, options = message.get("text", self.text), message.get("options", self.options)
            old = self._run
            busy = old is not None and not old.ended
            changed = text != self.text or options != self.options
            self._ready = False
            try:
                self.text, self.options = text, options
            finally:
                self._ready = True
            self._ask(again=changed or not busy)

    def _on_cancel(self, message: dict[str, Any]) -> None:
        run = self._run
        # A Stop that comes late names a run that is over; it must not hit the next one.
        if run is not None and message.get("run") in (None, run.number):
            self.cancel()

    def cancel(self) -> None:
        """Stop the present run; what it has finished stays in the picture."""
        run = self._run
        if self._lane is None or run is None or run.ended:
            return
        if self._lane.cancel(self._owner, "run"):
            self._tell(run, "cancelled")
            run.end(error=superseded())

    # Waiting

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait for the present run, or for the one that replaces it.

        Parameters
        ----------
        timeout : float, optional
            Seconds; by default without end.

        Returns
        -------
        Result or None
            None where there is nothing to wait for (a frozen view has its `result`).

        Raises
        ------
        TimeoutError
            The run goes on.
        Cancelled
            It was stopped.
        LayerLensError
            It failed; the sentence is the one in `status`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (run := self._run) is not None:
            if run.wait(0.05) and run is self._run:
                return run.outcome()
            if deadline is not None and time.monotonic() >= deadline and not run.ended:
                raise TimeoutError(f"The run is not finished after {timeout} seconds; it goes on.")
        return self._result

    async def done(self) -> Result | None:
        """Wait as `wait` does, while the kernel goes on: ``result = await view.done()``."""
        while (run := self._run) is not None:
            if run.ended and run is self._run:
                return run.outcome()
            await asyncio.sleep(0.02)
        return self._result

    # Elsewhere

    def code_of(self, run: Run) -> str:
        """Return the call that answers the question of a run."""
        from layerlens.analyses import options as opts

        known = self.analysis.options
        return opts.code(self.ANALYSIS, run.text, opts.complete(run.resolved, known, ""), known)

    def __repr__(self) -> str:
        name = self._shown_meta.get("model", "") if self.model is None else self.model.name
        return f"{type(self).__name__}({self._given_text!r}, model={name!r})"

    def _picture(self) -> bytes | None:
        if self._result is None:
            return None
        from layerlens.errors import LayerLensError
        from layerlens.export.images import image_bytes

        try:
            return image_bytes(self._result.figure(), "png", dpi=96)
        except LayerLensError:  # the text stands in for a figure that cannot be drawn
            return None

    def _lanes(self) -> set[Lane]:
        return super()._lanes() | ({self._lane} if self._lane is not None else set())

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        if self._run is not None and not self._run.ended:
            self._run.end(error=superseded())
        self._stream = None
        self.model = None


def _readable(model: LensModel | None, text: Any) -> str:
    """Return a text for the prompt field of what was not given as one."""
    if model is None:
        return ""
    try:
        tokens = model.tokens(text)
    except Exception:
        return ""
    return tokens.texts[0] or "".join(tokens.strings[0])
