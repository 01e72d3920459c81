"""Whether a probe is what it says: the lowest point of its loss, or of a ridge its plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.logistic import TOLERANCE
from layerlens.analyses.probing.readers import Linear, MeanDifference, plane_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job

FOLDED = 1e-4
"""How far a ridge may be from its plane in the states' own units, as a share."""


def left_over(states: np.ndarray, task: Task, reader: Any, strength: float) -> float | None:
    """How far a reader of all examples is from what it should be; None where nothing says so.

    Of a logistic regression it is the largest gradient of its mean loss over standardised states,
    by the formula, in float64; of a ridge what it says against what its plane says, as a share.
    """
    if isinstance(reader, MeanDifference) or plane_of(reader) is None:
        return None
    if isinstance(reader, Linear):
        return _gradient(states.astype(np.float64), task, reader, strength)
    weight, bias = plane_of(reader) or (np.zeros(0), np.zeros(0))
    given = states[:64] @ weight.T + bias
    own = np.asarray(reader.predict(states[:64])).reshape(given.shape)
    return float(np.abs(given - own).max() / max(np.abs(own).max(), 1e-30))


def _gradient(states: np.ndarray, task: Task, reader: Linear, strength: float) -> float:
    mean, scale = states.mean(0), states.std(0)
    scale[scale == 0] = 1
    wrong = reader.predict_proba(states) - (task.labels[:, None] == reader.classes_)
    wrong = wrong[:, -len(reader.coef_) :]  # of two classes one has a plane
    found = ((states - mean) / scale).T @ wrong + (reader.coef_ * scale).T / strength
    return float(np.abs(np.vstack([found, wrong.sum(0)])).max() / len(states))


def check_solved(job: Job, left: Sequence[float | None], task: Task) -> None:
    """Report the worst of all points."""
    known = [value for value in left if value is not None]
    if known and task.numbers:
        words = "what a probe says of a state against its weights in the states' own units"
        job.check("planes", max(known), FOLDED, words)
    elif known:
        words = "largest gradient that is left of a probe's mean loss, by its formula"
        job.check("solved", max(known), 2 * TOLERANCE, words)
