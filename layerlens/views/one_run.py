"""One run of a view: what was asked, how far it is, how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.errors import Cancelled

if TYPE_CHECKING:
    from layerlens.model.text import Tokens
    from layerlens.result import Result


class Run:
    """A question put to a model, and what became of it.

    `tokens` (by input) and `resolved` are the texts and the options as the analysis took them;
    `task_waits` says that the worker has not come to it, `long` that it is expected to take long,
    `paused` that it waits for somebody who has heard what it will take, `agreed` that somebody
    has.

    Parameters
    ----------
    number : int
        Counted from 1 in each view.
    inputs : mapping
        What was asked about, by the analysis's names.
    options : mapping
        Options of the analysis as the user gave them.
    asked : mapping
        The question as the fields of the view show it: ``{"inputs": ..., "options": ...}``.
    """

    def __init__(
        self,
        number: int,
        inputs: Mapping[str, Any],
        options: Mapping[str, Any],
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        self.number = number
        self.asked = dict(asked or {})
        self.inputs = dict(inputs)
        self.options = dict(options)
        self.tokens: dict[str, Tokens] = {}
        self.resolved = dict(options)
        self.task_waits = True
        self.long = False
        self.paused = False
        self.agreed = False
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.started = time.monotonic()
        self._ended = threading.Event()

    def signed(self, meta: Mapping[str, Any]) -> dict[str, Any]:
        """Return the ``meta`` of a picture, saying which question it answers."""
        return {**meta, "asked": self.asked}

    def same_question(self, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
        """Whether this run answers just that."""
        if self.options != dict(options) or self.inputs.keys() != inputs.keys():
            return False
        return all(same_text(given, inputs[name]) for name, given in self.inputs.items())

    @property
    def ended(self) -> bool:
        """Whether the run is over, one way or another."""
        return self._ended.is_set()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.started

    def end(self, result: Result | None = None, error: BaseException | None = None) -> None:
        """Note how it ended; whoever waits goes on."""
        self.result = result
        # A traceback would keep the frames, and with them the widget and the model, alive.
        self.error = None if error is None else error.with_traceback(None)
        self._ended.set()

    def wait(self, timeout: float) -> bool:
        """Wait for the end, at most `timeout` seconds; return whether it came."""
        return self._ended.wait(timeout)

    def outcome(self) -> Result | None:
        """Return the result, or raise what ended the run."""
        if self.error is not None:
            raise self.error
        return self.result


def same_text(one: Any, other: Any) -> bool:
    """Return whether two texts are the same; what holds tensors is only the same as itself."""
    return one is other or (isinstance(one, str | list | int) and bool(one == other))


def superseded() -> Cancelled:
    """Return the error of a run that nobody waits for any more."""
    return Cancelled("The run was cancelled before it began.")
