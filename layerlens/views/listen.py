"""From a running analysis to its view: meta first, then frames, and a status line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import Cancelled, InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.parts import Coords, Variable
    from layerlens.model.text import Tokens
    from layerlens.result import Check
    from layerlens.views.frames import Stream
    from layerlens.views.live import LiveView
    from layerlens.views.one_run import Run
    from layerlens.views.worker import Task

SECONDS_BETWEEN_STATUS = 0.1


class RunListener:
    """What an analysis calls, on the worker's thread, while it runs for a view."""

    def __init__(self, view: LiveView, run: Run, task: Task) -> None:
        self.stream: Stream | None = None
        self.done = 0
        self.emitted: set[str] = set()
        self._meta: dict[str, Any] | None = None
        self._coords: dict[str, Any] = {}
        self._view = view
        self._run = run
        self._task = task
        self._notes: dict[str, Any] = {}
        self._progress: dict[str, Any] = {}
        self._told = 0.0

    def on_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """Keep what is fed; a view shows one text, or one pair of them.

        Raises
        ------
        InputError
            Several texts were given.
        """
        self._run.tokens = dict(tokens)
        for found in tokens.values():
            if not found.single:
                kind = type(self._view)
                raise InputError(
                    f"{kind.__name__} shows one text and got {len(found.ids)}; "
                    f"give one of them, or call ll.{kind.ANALYSIS} for all."
                )

    def on_note(self, notes: Mapping[str, Any]) -> None:
        """Keep what the analysis says of itself."""
        self._notes |= notes

    def on_declare(
        self,
        sizes: Mapping[str, int],
        coords: Mapping[str, tuple[tuple[str, ...], Any]],
        variables: Mapping[str, Variable],
    ) -> None:
        """Prepare meta and frames; they replace the last picture with the first finished part."""
        view, model = self._view, self._view.model
        if model is None:
            return
        self._coords = {name: value for name, (_, value) in coords.items()}
        stream = view.STREAM(
            self._run.number,
            variables,
            max(model.d_vocab, model.d_vocab_in),
            model.token_string,
            view._send_frame,
            view._wires(variables),
        )
        stream.declare(sizes, coords)
        self.stream = stream

    @property
    def meta(self) -> dict[str, Any]:
        """What the view shows around the numbers; made with the first of them."""
        if self._meta is None:
            attrs = self._view._attrs_of(self._run) | self._notes
            self._meta = self._view._meta_before(self._run, attrs, self._coords)
        return self._meta

    def on_emit(self, where: Mapping[str, int | slice], arrays: Mapping[str, np.ndarray]) -> None:
        """Pass a finished part on."""
        if self.stream is None or self._run is not self._view._run:
            return
        self._view._show_run(self._run, self.stream, self.meta)
        self.stream.put(where, arrays)
        self.emitted |= {name for name, array in arrays.items() if not np.isnan(array).all()}

    def on_shorten(self, axis: str, length: int) -> None:
        """Keep no room for what did not come."""
        if self.stream is not None:
            self.stream.shorten(axis, length)

    def on_label(self, coords: Coords) -> None:
        """Wait: the picture of a finished run has its coordinates."""

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Move the status line, at most ten times a second."""
        self.done = done
        self._progress = {"done": done, "total": total, "what": what}
        self._tell_progress(at_once=done >= total)

    def _tell_progress(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._progress and (at_once or now - self._told >= SECONDS_BETWEEN_STATUS):
            self._told = now
            self._view._tell(self._run, "running", **self._progress)
            self._progress = {}

    def on_check(self, check: Check) -> None:
        """Wait: checks are shown all together when the run ends."""

    def tick(self) -> None:
        """Stop here when someone asked for it, before the analysis has begun."""
        if self.cancelled():
            raise Cancelled("The run was stopped while it waited for a model.")

    def cancelled(self) -> bool:
        """Whether someone asked to stop; asked often, so what is late leaves here too."""
        if not self._task.cancelled:
            self._tell_progress()
        if self.stream is not None and not self._task.cancelled:
            self.stream.poke()
        return self._task.cancelled
