"""A text as strips of coloured tokens, live: one depth at a time, under a slider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets as t

from layerlens.export.strip_meta import with_strip
from layerlens.views.answer import AnswerView

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.result import Result
    from layerlens.views.one_run import Run


class StripView(AnswerView):
    """The text as it is read, each token coloured by its number at the depth of the slider.

    A row for each array over layers and tokens, so that a control lies under what it is for; beside
    them what is known of the depth as a whole, and below them the curves of the answer. For any
    answer that has such an array, see `layerlens.result.strip`.

    Parameters
    ----------
    model, analysis, *texts, start, other, label, **keywords
        As in `GridView`. Traits of its own: ``step``, ``colors``.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> view = ll.StripView(model, "relevance", "cat dog owl cat", rule="cp")
    >>> view.wait().data.relevance.dims
    ('point', 'position')
    """

    PICTURE = (*AnswerView.PICTURE, "step", "colors")

    view = t.Unicode("strip").tag(sync=True)
    step = t.Int(
        -1, min=-1, help="Entry of the slider where no layer is looked at; -1: where it begins."
    ).tag(sync=True)
    colors = t.Enum(
        ("one", "all"),
        "one",
        help="Whether colours reach as far as the numbers of the depth that is drawn, or of all.",
    ).tag(sync=True)

    def _meta_of_blank(self, run: Run, blank: xr.Dataset) -> dict[str, Any]:
        return dict(with_strip(super()._meta_of_blank(run, blank), blank))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        return dict(with_strip(super()._meta_of(result, data, run, about), data))

    def _figure_options(self) -> dict[str, Any]:
        """Return what the figure draws: strips, at more than one depth."""
        base: Mapping[str, Any] = super(AnswerView, self)._figure_options()
        return {**base, "kind": "strip", "reach": self.colors, "position": self.position}
