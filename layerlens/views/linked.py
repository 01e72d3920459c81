"""Traits of several widgets that stay the same, in the kernel and in the browser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ipywidgets as w
import traitlets as t

from layerlens.views.base import View

End = tuple[View, str]


def linked(first: End, *others: End) -> list[Any]:
    """Keep traits of several widgets the same, in the kernel and in the browser.

    The browser links the widgets themselves, so a slider never waits for the kernel and a saved
    notebook works without one. What arrives from there is passed on in the kernel alone, so that
    nothing goes back: an echo would undo what was done meanwhile.

    Parameters
    ----------
    first, *others : (View, trait)
        The first one's value is what all begin with.

    Returns
    -------
    list
        Objects with ``close``.
    """
    kernel = _Kernel((first, *others))
    return [kernel, *(_page(first, other) for other in others)]


def _page(first: End, other: End) -> Any:
    """Link two traits in the browser."""
    return w.jslink(first, other)


class _Kernel:
    """Keeps traits the same in the kernel."""

    def __init__(self, ends: Iterable[End]) -> None:
        self._ends = tuple(ends)
        self._busy = False
        (widget, name), *others = self._ends
        for other, trait in others:
            if getattr(other, trait) != getattr(widget, name):
                setattr(other, trait, getattr(widget, name))
        for widget, name in self._ends:
            widget.observe(self._changed, name)

    def _changed(self, change: Any) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            from_page = bool(change.owner._property_lock)
            for widget, name in self._ends:
                if widget is not change.owner:
                    _set(widget, name, change.new, quietly=from_page)
        finally:
            self._busy = False

    def close(self) -> None:
        """Let go."""
        for widget, name in self._ends:
            widget.unobserve(self._changed, name)


def _set(widget: View, name: str, value: Any, *, quietly: bool) -> None:
    if getattr(widget, name) == value:
        return
    try:
        if quietly:
            widget.take(name, value)
        else:
            setattr(widget, name, value)
    except t.TraitError:  # a value that this one cannot have stays with those that can
        return
