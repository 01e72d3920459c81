"""Everything a view says to the front end, in order, one thread at a time.

A widget's traits are not safe for two threads: while a message of the front end is taken in,
ipywidgets defers and may roll back every change of that object. So the worker never waits for
that to end (a callback of the user may well wait for the worker): it leaves what it wanted to do
in the outbox, and the thread that is inside the widget does it on its way out.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Action = Callable[[], None]


class Outbox:
    """Actions on a widget, done in the order they were given and never at the same time."""

    def __init__(self) -> None:
        self._actions: deque[Action] = deque()
        self._busy = threading.Lock()

    def put(self, action: Action) -> None:
        """Do `action` now, or as soon as who is inside the widget has left it."""
        self._actions.append(action)
        self._drain()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Hold back actions while a message of the front end is being taken in."""
        mine = self._busy.acquire(timeout=5.0)
        try:
            yield
        finally:
            if mine:
                self._busy.release()
            self._drain()

    def _drain(self) -> None:
        # Looked at again after the release: another thread may have added meanwhile.
        while self._actions and self._busy.acquire(blocking=False):
            try:
                while self._actions:
                    self._do(self._actions.popleft())
            finally:
                self._busy.release()

    @staticmethod
    def _do(action: Action) -> None:
        try:
            action()
        except Exception:
            logging.getLogger("layerlens").exception("A view could not tell the front end.")
