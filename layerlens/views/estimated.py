"""A view that says what a run will take, and begins one that takes long only when it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import traitlets as t

from layerlens.errors import LayerLensError
from layerlens.views.base import READ_ONLY
from layerlens.views.live import LiveView
from layerlens.views.one_run import Run, superseded
from layerlens.views.worker import Task

if TYPE_CHECKING:
    from layerlens.analyses.contract.estimate import Estimate

LONG = 10.0
"""Seconds; what is expected to take longer waits until somebody says that it may."""


class EstimatedView(LiveView):
    """Base of views of analyses that may take minutes."""

    KERNEL_ONLY = LiveView.KERNEL_ONLY | {"estimate"}

    estimate = t.Dict(
        help="What the question takes: {'seconds': float, 'passes': float, 'words': str}."
    ).tag(**READ_ONLY)

    def _compute(self, run: Run, task: Task) -> None:
        found = self._estimated(run)
        if found is not None:
            words = sentence_of(found)
            self._post(estimate={"seconds": found.seconds, "passes": found.passes, "words": words})
            run.long = found.seconds > LONG
            if run.long and self._pauses(run):
                self._tell(run, "waiting", message=words)
                return
        super()._compute(run, task)

    def _estimated(self, run: Run) -> Estimate | None:
        """Return what a run will take; None where that cannot be told: the run will say why."""
        if self.model is None:
            return None
        try:
            return self.analysis.estimate(self.model, *run.inputs.values(), **self._resolved(run))
        except LayerLensError:
            return None

    def _resolved(self, run: Run) -> dict[str, Any]:
        """Return the options; a long sweep is estimated first, where that can be.

        A short one is done before anybody has looked at an estimate, which would cost as much.
        """
        options = super()._resolved(run)
        if run.long and "estimate_first" in self.analysis.options:
            options.setdefault("estimate_first", True)
        return options

    def _pauses(self, run: Run) -> bool:
        with self._lock:
            if run is self._run:
                run.paused = run.task_waits = not run.agreed
                return run.paused
        run.end(error=superseded())
        return True

    def _agree(self, run: Run) -> None:
        """Let a run begin, whatever it takes."""
        with self._lock:
            run.agreed, paused = True, run.paused
            run.paused = False
            if paused and run is self._run and self._lane is not None:
                self._tell(run, "queued")
                self._lane.put(self._task(run))

    def _on_run(self, message: dict[str, Any]) -> None:
        """Begin what waits; a message that asks something else asks that, which may wait too."""
        run = self._run
        super()._on_run(message)
        if run is not None and run is self._run:
            self._agree(run)

    def _drop(self) -> bool:
        run = self._run
        with self._lock:
            paused = run is not None and run.paused
            if run is not None:
                run.paused = False
        return super()._drop() or paused


def sentence_of(found: Estimate) -> str:
    """Return what a run will take, as one sentence."""
    passes = f"{found.passes:,.0f}" if found.passes >= 10 else f"{found.passes:.2g}"
    over = f" over {found.tokens:,} token{'s' * (found.tokens != 1)}" if found.tokens else ""
    return f"About {_duration(found.seconds)}: {passes} passes{over}."


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 5400 else f"{seconds / 3600:.2g} h"
