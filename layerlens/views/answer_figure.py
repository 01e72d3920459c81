"""Which figure draws what a view of an answer has on screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerlens.views.answer import AnswerView

_CELLS = ("grid", "heads", "matrix")


def figure_options(
    view: AnswerView, arrays: Sequence[Mapping[str, Any]], of_analysis: str
) -> dict[str, Any]:
    """Return the options of the figure: of the array that is large, else of the whole answer.

    Parameters
    ----------
    view
        Whose picture it is.
    arrays
        Of its meta.
    of_analysis
        The kind of figure that the analysis itself has.
    """
    shown = [array for array in arrays if array["name"] not in view.hidden]
    large = next((array for array in shown if array["name"] == view.focus), None)
    cells = [array for array in shown if array["kind"] in _CELLS and array["dtype"] != "token"]
    if large is None and of_analysis in ("grid", "patch") and cells:
        large = cells[0]
    if large is None:
        if of_analysis == "curves":
            return {"kind": "curves", "scale": view.scale}
        layer = view.layer if view.layer >= 0 else None
        return {"kind": "metrics", "scale": view.scale, "hidden": view.hidden, "layer": layer}
    if large["kind"] not in _CELLS:
        return {"kind": "curves", "variable": large["name"], "scale": view.scale}
    return {"kind": "grid", "variable": large["name"], **_cut(view, large)}


def _cut(view: AnswerView, array: Mapping[str, Any]) -> dict[str, Any]:
    third = view.third if view.third in array["dims"] and array["third"] else array["third"]
    axes = view._shown_meta["axes"]
    if not third:
        return {}
    axis = axes[third]
    entry = min(view.entry, axis["size"] - 1)
    label = axis["numbers"][entry] if axis["numbers"] else axis["labels"][entry]
    return {"at": {third: label}}
