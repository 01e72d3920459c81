"""A second model beside a view's own, which works on a lane of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layerlens.views.live import LiveView
from layerlens.views.one_run import Run, superseded
from layerlens.views.worker import Lane, Task


class SecondLaneView(LiveView):
    """Base of views whose run goes on with a second model when the first is done."""

    _second_lane: Lane | None = None

    def _go_on(self, run: Run, answer: Callable[[Any, Task], None]) -> None:
        """Let a run go on with ``answer(view, task)``, unless a newer one has taken over.

        On its own model's lane, so that no thread ever waits for a model while it holds one.
        """
        with self._lock:
            if run is not self._run or self._second_lane is None:
                run.end(error=superseded())
                return
            run.task_waits = True
            self._second_lane.put(self._task_of(run, answer))

    def _leave(self) -> None:
        super()._leave()
        if self._second_lane is not None:
            self._second_lane.cancel(self._owner, "run")

    def _drop(self) -> bool:
        dropped = super()._drop()
        if self._second_lane is None or not self._second_lane.cancel(self._owner, "run"):
            return dropped
        if self._stream is not None:
            self._stream.finish()
        return True

    def _lanes(self) -> set[Lane]:
        return super()._lanes() | ({self._second_lane} if self._second_lane is not None else set())
