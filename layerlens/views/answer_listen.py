"""From any analysis, while it runs, to its view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.parts import Coords, Parts, Variable
from layerlens.errors import InputError
from layerlens.views.listen import RunListener

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.model.text import Tokens
    from layerlens.views.answer_second import SecondView


class AnswerListener(RunListener):
    """What any analysis calls while it runs for a view."""

    own: Parts | None = None
    """What the analysis has declared."""

    _blank: Parts | None = None
    _view: SecondView

    def on_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """Keep what is fed; whether several texts give one answer is known when axes are."""
        self._run.tokens = dict(tokens)

    def on_declare(
        self,
        sizes: Mapping[str, int],
        coords: Mapping[str, tuple[tuple[str, ...], Any]],
        variables: Mapping[str, Variable],
    ) -> None:
        """Prepare meta and frames.

        Raises
        ------
        InputError
            Each of several texts gets an answer of its own.
        """
        if "batch" in sizes:
            kind = type(self._view).__name__
            raise InputError(
                f"{kind} shows the answer of one text and got {sizes['batch']}: give one of them, "
                f"or call ll.{self._view.ANALYSIS} for all."
            )
        self.own = Parts(variables, sizes, coords, batched=False)
        both = self._view.both(self.own, variables)
        shown = {name: variable for name, variable in both.items() if not variable.hidden}
        self._blank = Parts(shown, sizes, coords, batched=False)
        super().on_declare(sizes, coords, shown)

    def on_shorten(self, axis: str, length: int) -> None:
        """Keep no room for what did not come."""
        super().on_shorten(axis, length)
        if self._blank is not None:
            self._blank.shorten(axis, length)

    def on_label(self, coords: Coords) -> None:
        """Rename what is shown already."""
        if self._blank is None:
            return
        self._blank.coords.update(coords)
        shown, self._meta = self._meta is not None, None
        if shown and self.stream is not None and self._run is self._view._run:
            self._view._show_meta(self.stream, self._run.signed(self.meta))

    def blank(self, attrs: Mapping[str, Any]) -> xr.Dataset:
        """Return the answer as it will be, without numbers.

        Raises
        ------
        RuntimeError
            The analysis has not declared its axes.
        """
        if self._blank is None:
            raise RuntimeError("a part came before the axes were declared")
        return self._blank.dataset(attrs)

    @property
    def meta(self) -> dict[str, Any]:
        """What the view shows around the numbers; made with the first of them."""
        if self._meta is None:
            attrs = self._view._attrs_of(self._run) | self._notes
            self._meta = self._view._meta_of_blank(self._run, self.blank(attrs))
        return self._meta
