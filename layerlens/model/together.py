"""Several models held at once, without two threads that wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from layerlens.model.lensmodel import LensModel

PATIENCE = 0.1  # seconds between two looks at whether someone wants to stop


@contextmanager
def running_together(
    model: LensModel,
    beside: Iterable[Any] = (),
    *,
    tick: Callable[[], None],
    gradients: bool = False,
) -> Iterator[None]:
    """As ``model.running``, with the locks of other models held too.

    All locks are taken in one order, whichever model is the first: of two threads that need the
    same two models, one begins and the other waits for both.

    Parameters
    ----------
    model
        The one that runs.
    beside
        Where the others are, alone or in lists, among things that are no models: the options of
        a call.
    tick
        Called while a model is busy; may raise to stop the waiting.
    gradients
        As in ``model.running``.
    """
    held = {id(each): each for each in _models(beside)} | {id(model): model}
    with ExitStack() as stack:
        for number in sorted(held):
            lock = held[number].lock
            while not lock.acquire(timeout=PATIENCE):
                tick()
            stack.callback(lock.release)
        if model.remote is None:  # else nothing runs here
            stack.enter_context(model.running(gradients=gradients))
        yield


def _models(given: Iterable[Any]) -> Iterator[LensModel]:
    for each in given:
        if isinstance(each, LensModel):
            yield each
        elif isinstance(each, list | tuple):
            yield from _models(each)
