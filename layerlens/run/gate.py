"""Which calls of the model's modules a pass of ours may look at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Decides whether a hook may look: only on the thread that runs the pass.

    It is closed while a value is handled, because handling it may call modules of the
    model (the final norm, the head, a projection), which are not part of the pass.
    """

    def __init__(self) -> None:
        self._owner = threading.get_ident()
        self._closed = 0

    @property
    def ours(self) -> bool:
        """Whether this is the thread of the pass."""
        return threading.get_ident() == self._owner

    @property
    def open(self) -> bool:
        """Whether a hook may look."""
        return not self._closed and self.ours

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep hooks from looking for a while."""
        self._closed += 1
        try:
            yield
        finally:
            self._closed -= 1
