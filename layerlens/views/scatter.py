"""A scatter with a slider, live: marks in a plane, coloured by label, one picture a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets as t

from layerlens.export.scatter_meta import with_scatter
from layerlens.views.answer import AnswerView

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.analyses.contract.contract import About
    from layerlens.result import Result
    from layerlens.views.one_run import Run


class ScatterView(AnswerView):
    """Marks in a plane, with a slider through the layers; below it the curves of the answer.

    Colours and shapes are labels, a press on one hides it. Moving from layer to layer the marks
    glide, so that each can be followed. Where an answer has two arrays over the same axes they are
    the coordinates, see `layerlens.result.scatter`.

    Parameters
    ----------
    model, analysis, *texts, start, other, label, **keywords
        As in `GridView`. Traits of its own: ``step``, ``item``, ``hidden_labels``, ``fitted``,
        ``axes``.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]
    >>> labels = [text[:3] for text in texts]
    >>> view = ll.ScatterView(model, "state_map", texts, labels=labels, position="mean")
    >>> view.wait().data.sizes["item"]
    9
    """

    PICTURE = (*AnswerView.PICTURE, "step", "item", "hidden_labels", "fitted", "axes")

    view = t.Unicode("scatter").tag(sync=True)
    step = t.Int(
        -1, min=-1, help="Entry of the slider where no layer is looked at; -1: the last."
    ).tag(sync=True)
    item = t.Int(-1, min=-1, help="Mark that is looked at; -1: none.").tag(sync=True)
    hidden_labels = t.List(t.Unicode(), help="Labels that are not drawn.").tag(sync=True)
    fitted = t.Bool(True, help="Whether marks that axes were fitted on are drawn.").tag(sync=True)
    axes = t.Enum(
        ("all", "one"), "all", help="Whether axes hold all layers, or the one that is drawn."
    ).tag(sync=True)

    def _meta_of_blank(self, run: Run, blank: xr.Dataset) -> dict[str, Any]:
        return dict(with_scatter(super()._meta_of_blank(run, blank), blank))

    def _meta_of(
        self, result: Result, data: xr.Dataset, run: int, about: About | None
    ) -> dict[str, Any]:
        return dict(with_scatter(super()._meta_of(result, data, run, about), data))

    def _figure_options(self) -> dict[str, Any]:
        """Return what the figure draws: what is on screen, at more than one layer."""
        base: Mapping[str, Any] = super(AnswerView, self)._figure_options()
        return {
            **base,
            "hidden_labels": list(self.hidden_labels),
            "fitted": self.fitted,
            "axes": self.axes,
            "item": self.item,
        }
