"""One run of a view: what was asked, how far it is, how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.errors import Cancelled

if TYPE_CHECKING:
    from layerlens.result import Result


class Run:
    """A question put to a model, and what became of it.

    `tokens` and `resolved` are the text and the options as the analysis took them; `task_waits`
    says that the worker has not come to it.

    Parameters
    ----------
    number : int
        Counted from 1 in each view.
    text : object
        What was asked about.
    options : mapping
        Options of the analysis as the user gave them.
    """

    def __init__(self, number: int, text: Any, options: Mapping[str, Any]) -> None:
        self.number = number
        self.text = text
        self.options = dict(options)
        self.tokens: Any = None
        self.resolved = dict(options)
        self.task_waits = True
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.started = time.monotonic()
        self._ended = threading.Event()

    def same_question(self, text: Any, options: Mapping[str, Any]) -> bool:
        """Whether this run answers just that."""
        return bool(self.text == text and self.options == dict(options))

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


def superseded() -> Cancelled:
    """Return the error of a run that nobody waits for any more."""
    return Cancelled("The run was stopped before it began.")
