"""A question as one file that asks it with no kernel and no network."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from layerlens.export.html import html_bytes
from layerlens.views.live import LiveView

if TYPE_CHECKING:
    from ipywidgets import Widget

    from layerlens.course.prediction import Prediction


def content(prediction: Prediction) -> bytes:
    """Return the page of a prediction whose truth is known."""
    traits = {
        **{name: getattr(prediction, name) for name in ("view", "title", "theme", "question")},
        "answer": prediction.answer,
        "truth": prediction.known(),
        "figure": _embedded(prediction.figure),
    }
    return html_bytes(traits, b"", prediction.asked.ask)


def _embedded(figure: Widget | None) -> dict[str, Any] | None:
    """Return what `js/src/wire/frozen.ts` makes a view from."""
    if figure is None:
        return None
    if isinstance(figure, LiveView):
        figure.wait()  # a page holds what is there when it is written
    traits, packed = figure._frozen()
    frozen = {name: value for name, value in traits.items() if name != "snapshot"}
    return {"traits": {**frozen, "live": False}, "packed": base64.b64encode(packed).decode("ascii")}
