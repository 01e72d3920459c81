"""Who hears of a running analysis: a live view, a progress bar, a test."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import numpy as np

    from layerlens.analyses.contract.parts import Coords, Variable, Where
    from layerlens.model.text import Tokens
    from layerlens.result import Check

BAR_DELAY_SECONDS = 1.0


class Listener(Protocol):
    """What :meth:`Analysis.run` calls, on the thread that computes."""

    def on_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """Hear what will be fed, by the name of each text, before anything runs."""

    def on_note(self, notes: Mapping[str, Any]) -> None:
        """Hear of attributes of the result."""

    def on_declare(
        self,
        sizes: Mapping[str, int],
        coords: Mapping[str, tuple[tuple[str, ...], Any]],
        variables: Mapping[str, Variable],
    ) -> None:
        """Axis lengths, coordinates and arrays are known; parts will follow."""

    def on_emit(self, where: Where, arrays: Mapping[str, np.ndarray]) -> None:
        """Hear of a finished part; the arrays are not used again by who sent them."""

    def on_shorten(self, axis: str, length: int) -> None:
        """Hear that an axis ended sooner than was declared."""

    def on_label(self, coords: Coords) -> None:
        """Hear of coordinates that were not known, or other ones, before."""

    def on_progress(self, done: int, total: int, what: str) -> None:
        """``done`` of ``total`` steps, or tokens of a corpus; 0 where the total is not known."""

    def on_check(self, check: Check) -> None:
        """Something was verified."""

    def cancelled(self) -> bool:
        """Asked at every step; True stops the analysis."""


class Silent:
    """A listener that does nothing and never cancels; also the base of others."""

    def on_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """Ignore."""

    def on_note(self, notes: Mapping[str, Any]) -> None:
        """Ignore."""

    def on_declare(
        self,
        sizes: Mapping[str, int],
        coords: Mapping[str, tuple[tuple[str, ...], Any]],
        variables: Mapping[str, Variable],
    ) -> None:
        """Ignore."""

    def on_emit(self, where: Where, arrays: Mapping[str, np.ndarray]) -> None:
        """Ignore."""

    def on_shorten(self, axis: str, length: int) -> None:
        """Ignore."""

    def on_label(self, coords: Coords) -> None:
        """Ignore."""

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Ignore."""

    def on_check(self, check: Check) -> None:
        """Ignore."""

    def cancelled(self) -> bool:
        """Never."""
        return False


class Bar(Silent):
    """A progress bar that appears only when the call lasts longer than about a second."""

    def __init__(self, title: str, unit: str = "step") -> None:
        self._title = title
        self._unit = unit
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Move the bar."""
        if self._bar is None:
            from layerlens.analyses.contract.cell_bar import bar_class

            self._bar = bar_class()(
                total=total or None,
                # What was done before says nothing of the speed from here on.
                initial=done,
                desc=self._title,
                delay=BAR_DELAY_SECONDS,
                leave=False,
                unit=self._unit,
                unit_scale=self._unit != "step",
            )
        self._bar.total = total or None
        if what:
            self._bar.set_postfix_str(what, refresh=False)
        self._bar.update(done - self._bar.n)
