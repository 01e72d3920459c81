"""Questions that a reader answers before the figure does, in a notebook or on a page."""

from layerlens.course.answers import answers, check
from layerlens.course.prediction import Prediction, predict

__all__ = ["Prediction", "answers", "check", "predict"]
