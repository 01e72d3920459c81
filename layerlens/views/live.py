"""A view of one analysis: it runs on the model's lane, streams and can be stopped."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from layerlens.analyses.contract.provenance import fed_picture
from layerlens.errors import Cancelled, InputError
from layerlens.export.pack import WIRE, Wire
from layerlens.model.required import require_model
from layerlens.model.together import running_together
from layerlens.views.base import Reply, sentence
from layerlens.views.frames import Stream
from layerlens.views.listen import RunListener
from layerlens.views.of_result import IDLE, ResultView
from layerlens.views.one_run import Run, superseded
from layerlens.views.worker import Lane, Task, desk, lane_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.parts import Variable
    from layerlens.model.lensmodel import LensModel
    from layerlens.result import Result

RESTING = ("waiting", "done", "cancelled", "error")


class LiveView(ResultView):
    """Base of views that answer their question themselves.

    Setting a part of the question, from Python or from the front end, starts a run that replaces
    the present one.
    """

    _lane: Lane | None = None

    def __init__(self, model: LensModel, inputs: Mapping[str, Any], keywords: Any) -> None:
        self.analysis.require_kind(model)
        self._open(model, inputs, keywords)
        self._ask()

    @classmethod
    def _waiting(
        cls, model: LensModel, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> Self:
        """Return a view that asks nothing until a part of its question is set."""
        require_model(model)
        view = cls.__new__(cls)
        view._open(model, inputs, keywords)
        return view

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        self._lock = threading.RLock()
        if model is not None:
            self._lane = lane_of(model)
        super()._open(model, inputs, keywords)
        self.observe(self._question_changed, [*self.INPUTS, *self.ASKS, "options"])
        self.status = dict(IDLE)
        self._ready = True

    def _listen(self) -> None:
        super()._listen()
        self._messages["run"] = self._on_run
        self._messages["cancel"] = self._on_cancel
        if self._lane is not None:
            self._answers["search"] = (self._search, desk())

    # What a subclass knows of its analysis

    def _attrs_of(self, run: Run) -> dict[str, Any]:
        """Return what is known of a result's attributes while it is being made."""
        model = self.model
        if model is None:
            return {}
        return {
            **model.facts(),
            "notes": [note for found in run.tokens.values() for note in found.notes],
            "code": self.code_of(run),
            **fed_picture(model, run.tokens),
            **self.analysis.about.shown(),
        }

    def _meta_before(
        self, run: Run, attrs: Mapping[str, Any], coords: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the ``meta`` trait of a run that has only declared its axes.

        `attrs` are what is known of the result's attributes, `coords` its coordinates.
        """
        raise NotImplementedError

    def _meta_after(self, meta: dict[str, Any], result: Result) -> dict[str, Any]:
        """Return `meta` of a run with what only its result says."""
        notes = json.loads(result.data.attrs["notes"])
        return {**meta, "notes": notes, "checks": result.checks.records(), "code": result.code}

    def _resolved(self, run: Run) -> dict[str, Any]:
        """Return the options as the analysis takes them."""
        return dict(run.options)

    # Asking

    def _again(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """Ask again, with new texts or options; inputs of None stay as they are."""
        if self._lane is None:
            raise InputError(f"This {type(self).__name__} is frozen: it has no model to ask.")
        options = dict(options)
        asked = {name: options.pop(name) for name in self.ASKS if name in options}
        given = {name: value for name, value in inputs.items() if value is not None}
        with self._lock:
            self._ready = False
            try:
                for name, shown in self._take({**given, **asked}).items():
                    setattr(self, name, shown)
                self.options = {**self.options, **options}
            finally:
                self._ready = True
            self._ask(again=True)
        return self

    def _question_changed(self, change: Any) -> None:
        if self._ready:
            self._ask()

    def _ask(self, *, again: bool = False) -> None:
        """Put the present question into the lane; one that is being answered is not put twice."""
        if self._lane is None or self._closed:
            return
        with self._lock:
            inputs, options = self._question()
            old = self._run
            if old is not None and not again and old.same_question(inputs, options):
                return
            number = 1 if old is None else old.number + 1
            run = self._run = Run(number, inputs, options, self._asked())
            self._tell(run, "queued")
            self._leave()
            self._lane.put(self._task(run))
        if old is not None and not old.ended and old.task_waits:
            old.end(error=superseded())

    def _leave(self) -> None:
        """Stop what the last run does on other lanes; the lane of the model sees to its own."""

    def _task(self, run: Run) -> Task:
        return self._task_of(run, lambda view, task: view._compute(run, task))

    def _task_of(self, run: Run, answer: Callable[[Any, Task], None]) -> Task:
        """Return the task that answers a run, or a part of it, with ``answer(view, task)``."""
        # Only weakly: what waits in the lane must not keep a closed widget alive.
        held = weakref.ref(self)

        def work(task: Task) -> None:
            run.task_waits = False
            view = held()
            if view is not None and not task.cancelled:
                answer(view, task)
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
        listener = self._listener(run, task)
        beside = run.options.values()
        try:
            with running_together(self.model, beside, tick=listener.tick):  # queued until then
                self._work(self.model, run, listener)
        except Cancelled as stop:
            self._stopped(run, stop, listener)

    def _work(self, model: LensModel, run: Run, listener: RunListener) -> None:
        self._tell(run, "running")
        run.resolved = self._resolved(run)
        try:
            result = self._answer(model, run, listener)
        except BaseException as error:
            if not isinstance(error, Cancelled):  # what a stopped run has brought may stay
                self._take_back(listener)
            raise
        self._finished(run, result, listener)

    def _wires(self, variables: Mapping[str, Variable]) -> Mapping[str, Wire]:
        """Return how the arrays of a run travel; those that are not named stay."""
        return WIRE

    def _listener(self, run: Run, task: Task) -> RunListener:
        return RunListener(self, run, task)

    def _answer(self, model: LensModel, run: Run, listener: RunListener) -> Result:
        return self.analysis.run(model, run.inputs, run.resolved, listener)

    def _finished(self, run: Run, result: Result, listener: RunListener) -> None:
        if run is not self._run or listener.stream is None:
            run.end(error=superseded())
            return
        self._show_run(run, listener.stream, listener.meta)
        listener.stream.finish()
        self._result, self._partial = result, None
        self._keep_run(run, self._meta_after(listener.meta, result), listener.stream)
        self._tell(run, "done")
        run.end(result=result)

    def _stopped(self, run: Run, stop: Cancelled, listener: RunListener) -> None:
        if run is self._run:
            if self._last[1] is not None and not self._worth(listener):
                self._take_back(listener)
            elif listener.stream is not None and listener.stream is self._stream:
                self._partial = stop.partial  # type: ignore[assignment]
                listener.stream.finish()
                self._keep_run(run, listener.meta, listener.stream)
            self._tell(run, "cancelled")
        run.end(error=stop)

    def _worth(self, listener: RunListener) -> bool:
        """Whether what a stopped run has brought is worth more than the last picture."""
        return listener.done > 0

    def _keep_run(self, run: Run, meta: dict[str, Any], stream: Stream) -> None:
        meta = run.signed(meta)
        self._last = run, stream, meta
        self._keep(meta, stream)

    def _take_back(self, listener: RunListener) -> None:
        """Show the last picture again in place of one that a run has only begun."""
        if listener.stream is not None and self._stream is listener.stream:
            self._pictured, stream, meta = self._last
            self._restore(stream, meta)

    def _show_run(self, run: Run, stream: Stream, meta: dict[str, Any]) -> None:
        """Let a run's picture replace the last one; called with each of its parts."""
        self._pictured = run
        self._show_stream(stream, run.signed(meta))

    def _tell(self, run: Run, state: str, **more: Any) -> None:
        """Set the status, unless a newer run has taken over."""

        def show() -> None:
            if run is self._run:
                last = self.status if self.status.get("run") == run.number else IDLE
                common = {"state": state, "run": run.number, "message": ""}
                self.status = {**last, **common, "seconds": round(run.seconds, 3), **more}
                if state in RESTING:
                    self._renew()

        self._say(show)

    # Messages of the front end

    def _on_run(self, message: dict[str, Any]) -> None:
        with self._lock:
            names = [*self.INPUTS, *self.ASKS, "options"]
            asked = {name: message[name] for name in names if name in message}
            old = self._run
            busy = old is not None and not old.ended
            changed = any(getattr(self, name) != value for name, value in asked.items())
            self._ready = False
            try:
                for name, value in asked.items():
                    setattr(self, name, value)
            finally:
                self._ready = True
            self._ask(again=changed or not busy)

    def _search(self, params: dict[str, Any], task: Task) -> Reply:
        if self.model is None:
            return [], []
        limit = max(1, min(int(params.get("limit") or 50), 500))
        found = self.model.search_tokens(str(params.get("query", "")), limit)
        return [{"id": int(i), "text": text} for i, text in found], []

    def _on_cancel(self, message: dict[str, Any]) -> None:
        run = self._run
        # A "Cancel" that comes late names a run that is over; it must not hit the next one.
        if run is not None and message.get("run") in (None, run.number):
            self.cancel()

    def cancel(self) -> None:
        """Cancel the present run; what it has finished stays in the picture."""
        run = self._run
        if self._lane is None or run is None or run.ended:
            return
        if self._drop():
            self._tell(run, "cancelled")
            run.end(error=superseded())

    def _drop(self) -> bool:
        """Stop what runs; return whether it had not begun, and never will."""
        return self._lane is not None and bool(self._lane.cancel(self._owner, "run"))

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
            self._agree(run)
            if run.wait(0.05) and run is self._run:
                return run.outcome()
            if deadline is not None and time.monotonic() >= deadline and not run.ended:
                raise TimeoutError(f"The run is not finished after {timeout} seconds; it goes on.")
        return self._result

    def _agree(self, run: Run) -> None:
        """Let a run begin, whatever it takes."""
        run.agreed = True

    def _settle(self) -> None:
        while (run := self._run) is not None and not run.paused and not run.wait(0.05):
            pass

    async def done(self) -> Result | None:
        """Wait as `wait` does, while the kernel goes on: ``result = await view.done()``."""
        while (run := self._run) is not None:
            self._agree(run)
            if run.ended and run is self._run:
                return run.outcome()
            await asyncio.sleep(0.02)
        return self._result

    # Elsewhere

    def code_of(self, run: Run) -> str:
        """Return the call that answers the question of a run."""
        from layerlens.analyses.contract import options as opts

        known = self.analysis.options
        return opts.code(self.ANALYSIS, run.inputs, opts.complete(run.resolved, known, ""), known)

    def _lanes(self) -> set[Lane]:
        return super()._lanes() | ({self._lane} if self._lane is not None else set())

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        if self._run is not None and not self._run.ended:
            self._run.end(error=superseded())
        self.model = None
