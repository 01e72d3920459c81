"""The things that read a state: planes, differences of means, and what scikit-learn has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

KINDS = ("linear", "mean_difference", "mlp")
HIDDEN = 64
"""Units of the hidden layer of an MLP."""
STEPS = 500
"""Most steps of an MLP."""

Floats = NDArray[np.float64]


class Reader(Protocol):
    """What scikit-learn's classifiers and regressions have in common."""

    def fit(self, x: Any, y: Any) -> Any:
        """Learn from states ``[n, d]`` and labels ``[n]``."""

    def predict(self, x: Any) -> Any:
        """Labels ``[n]`` of states."""


class Linear:
    """One plane for two classes, else one for each; what is furthest on its own side is told.

    Parameters
    ----------
    classes
        ``[class]`` in order.
    weight, bias
        ``[class or 1, d]`` and ``[class or 1]``, in the states' own units.
    """

    def __init__(self, classes: Any, weight: Floats, bias: Floats) -> None:
        self.classes_, self.coef_, self.intercept_ = np.asarray(classes), weight, bias

    def decision_function(self, x: Any) -> Floats:
        """Score ``[n]`` of the second class, or ``[n, class]`` of each of several."""
        scores: Floats = x @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.coef_) == 1 else scores

    def predict(self, x: Any) -> Any:
        """Labels ``[n]``."""
        scores = self.decision_function(x)
        best = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)
        return self.classes_[best]

    def predict_proba(self, x: Any) -> Floats:
        """Probability ``[n, class]`` of each class."""
        scores = self.decision_function(x)
        scores = np.stack([np.zeros_like(scores), scores], 1) if scores.ndim == 1 else scores
        powers = np.exp(scores - scores.max(1, keepdims=True))
        found: Floats = powers / powers.sum(1, keepdims=True)
        return found


class MeanDifference(Linear):
    """The class whose mean is nearest, which is linear in a state.

    For two classes its direction is the difference of their means, the one that steering adds
    (Marks and Tegmark, 2023, The Geometry of Truth).
    """

    def __init__(self) -> None:
        """Nothing is known before `fit`."""

    def fit(self, x: Any, y: Any) -> MeanDifference:
        """Learn the mean state of each class."""
        self.classes_ = np.unique(y)
        means = np.stack([x[y == label].mean(0) for label in self.classes_]).astype(np.float64)
        if len(means) == 2:
            self.coef_ = (means[1] - means[0])[None]
            self.intercept_ = -(self.coef_ @ (means[0] + means[1]) / 2)
        else:
            self.coef_, self.intercept_ = means, -(means**2).sum(1) / 2
        return self


class Always:
    """The one class that there was to learn from."""

    def __init__(self, label: Any) -> None:
        self.classes_ = np.array([label])

    def predict(self, x: Any) -> Any:
        """Labels ``[n]``."""
        return np.repeat(self.classes_, len(x))

    def predict_proba(self, x: Any) -> Floats:
        """``[n, 1]``: 1."""
        return np.ones((len(x), 1))


def reader_for(kind: str, strength: float, seed: int, *, numbers: bool) -> Any:
    """Something that learns by itself, behind a standardisation that it learns too.

    Parameters
    ----------
    kind
        ``"mean_difference"``, ``"mlp"``, or ``"linear"`` for numbers.
    strength
        ``C`` of a regression: the larger, the less its weights are held small.
    seed
        Of what is drawn.
    numbers
        Whether labels are numbers to be predicted and not classes.
    """
    from sklearn.linear_model import Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "mean_difference":
        return MeanDifference()
    if kind == "linear":
        return make_pipeline(StandardScaler(), Ridge(alpha=1 / strength))
    made = MLPRegressor if numbers else MLPClassifier
    inner = made((HIDDEN,), alpha=1 / strength, max_iter=STEPS, random_state=seed)
    return make_pipeline(StandardScaler(), inner)


def probabilities(reader: Any, x: Any, classes: int) -> Floats:
    """``[n, class]``: what a reader gives each class; 0 for one that it never saw."""
    found = np.zeros((len(x), classes))
    found[:, reader.classes_] = reader.predict_proba(x)
    return found


def scores_of(reader: Any, x: Any, classes: Sequence[Any]) -> Floats:
    """Scores ``[n, class]`` of states, larger for the likelier class, in the order of `classes`."""
    if hasattr(reader, "decision_function"):
        found = np.asarray(reader.decision_function(x), dtype=np.float64)
        found = np.stack([-found, found], 1) if found.ndim == 1 else found
    else:
        found = np.asarray(reader.predict_proba(x), dtype=np.float64)
    known = list(reader.classes_)
    whole = np.full((len(x), len(classes)), -np.inf)
    whole[:, [list(classes).index(label) for label in known]] = found
    return whole


def plane_of(reader: Any) -> tuple[Floats, Floats] | None:
    """Weight ``[class or 1, d]`` and bias of a linear reader, in the states' own units.

    A standardisation before it is folded in. None where it is not linear.
    """
    if isinstance(reader, Linear):
        return reader.coef_, reader.intercept_
    scaler, inner = reader
    if not hasattr(inner, "coef_"):
        return None
    weight = np.atleast_2d(np.asarray(inner.coef_, dtype=np.float64)) / scaler.scale_
    bias = np.atleast_1d(np.asarray(inner.intercept_, dtype=np.float64))
    return weight, bias - weight @ scaler.mean_
