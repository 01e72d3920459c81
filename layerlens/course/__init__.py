"""Questions that a reader answers before the figure does, in a notebook or on a page.

Names are resolved on first use, so that a server without torch can copy chapters.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerlens.course.given import answers, check
    from layerlens.course.prediction import Prediction, predict

__all__ = ["Prediction", "answers", "check", "predict"]

_PLACES = {
    "Prediction": "layerlens.course.prediction",
    "answers": "layerlens.course.given",
    "check": "layerlens.course.given",
    "predict": "layerlens.course.prediction",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'layerlens.course' has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value
