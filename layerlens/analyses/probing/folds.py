"""Probes of one task at one point after the other, each judged on what it was not fitted on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.numbers import share_between
from layerlens.analyses.probing.online_code import compression
from layerlens.analyses.probing.readers import reader_for, scores_of
from layerlens.errors import InputError

Numbers = dict[str, float]


@dataclass(frozen=True)
class Folds:
    """One division of the examples for all points, so that these can be compared.

    Attributes
    ----------
    number
        ``[n]``: the fold that each example is judged in.
    count
        How many there are.
    """

    number: np.ndarray
    count: int

    @classmethod
    def of(cls, task: Task, count: int, seed: int) -> Folds:
        """Divide by units, with about as much of each class in every fold.

        Raises
        ------
        InputError
            There are too few units, or of a class.
        """
        from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

        units = len(np.unique(task.unit))
        if units < count:
            raise InputError(
                f"There are {units} texts or groups for {count} folds: give more, or fewer folds."
            )
        made = GroupKFold if task.numbers else StratifiedGroupKFold
        divided = made(count, shuffle=True, random_state=seed)
        number = np.empty(len(task.labels), dtype=np.int64)
        with warnings.catch_warnings():
            # A class with fewer units than folds: it is missing in some, which is no error.
            warnings.simplefilter("ignore", UserWarning)
            parts = divided.split(np.zeros(len(number)), task.labels, task.unit)
            for fold, (taught, judged) in enumerate(parts):
                number[judged] = fold
                if not task.numbers and len(np.unique(task.labels[taught])) < 2:
                    raise InputError(
                        "A fold has one class alone to learn from: give more texts or groups of "
                        "each class, or fewer folds."
                    )
        return cls(number, count)


@dataclass(frozen=True)
class Judged:
    """What came of a probe on examples that it was not fitted on.

    Attributes
    ----------
    right
        ``[n]``: 1 where it is right; for numbers its squared error.
    numbers
        Measures by name, with ``_low`` and ``_high``.
    """

    right: np.ndarray
    numbers: Numbers


def judged(
    states: np.ndarray, task: Task, folds: Folds, kind: str, strength: float, seed: int
) -> Judged:
    """Fit a probe for each fold on the others, and judge all examples."""
    count = len(task.classes)
    given = np.zeros((len(task.labels), max(1, count)))
    predicted = np.empty(len(task.labels))
    for fold in range(folds.count):
        here = folds.number == fold
        reader = fit(reader_for(kind, strength, seed, numbers=task.numbers), states[~here],
                     task.labels[~here])  # fmt: skip
        predicted[here] = reader.predict(states[here])
        if not task.numbers:
            given[here] = scores_of(reader, states[here], range(count))
    if task.numbers:
        return _regressed(predicted, task)
    right = (predicted == task.labels).astype(np.float64)
    mean, low, high = share_between(right, task.unit)
    found = {"accuracy": mean, "accuracy_low": low, "accuracy_high": high,
             "auc": _auc(given, task.labels), "f1": macro_f1(predicted, task.labels)}  # fmt: skip
    return Judged(right, found)


def elsewhere(
    states: np.ndarray, task: Task, folds: Folds, kind: str, strength: float, seed: int
) -> np.ndarray:
    """How well probes do that saw neither a fold nor what they are judged on, ``[fold]``.

    For each fold it is the next one that judges, and all others that teach. A layer that is chosen
    by this for a fold is not chosen by any example of it.
    """
    found = np.zeros(folds.count)
    for fold in range(folds.count):
        judge = folds.number == (fold + 1) % folds.count
        taught = ~judge & (folds.number != fold)
        given = task.labels[taught]
        if not task.numbers and len(np.unique(given)) < 2:  # there is nothing to learn
            predicted = np.full(judge.sum(), given[0])
        else:
            reader = reader_for(kind, strength, seed, numbers=task.numbers)
            predicted = fit(reader, states[taught], given).predict(states[judge])
        wrong = ((predicted - task.labels[judge]) ** 2 if task.numbers
                 else predicted != task.labels[judge])  # fmt: skip
        found[fold] = -float(np.mean(wrong))
    return found


def fit(reader: Any, states: np.ndarray, labels: np.ndarray) -> Any:
    """Let something learn; that a solver stopped before its end is no news of the states."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return reader.fit(states, labels)


def sent(states: np.ndarray, task: Task, kind: str, strength: float, seed: int) -> float:
    """Compression of the labels by the online code, mean over three orders."""

    def make() -> Any:
        return reader_for(kind, strength, seed, numbers=False)

    found = []
    for number in range(3):
        order = np.random.default_rng((seed, number)).permutation(len(task.labels))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(compression(states, task.labels, order, make, range(len(task.classes))))
    return float(np.mean(found))


def _regressed(predicted: np.ndarray, task: Task) -> Judged:
    """Share of the variance that is explained, and its interval over units."""
    spread = float(((task.labels - task.labels.mean()) ** 2).mean())
    if not spread:
        raise InputError("All labels are the same number: there is nothing to predict.")
    error = (predicted - task.labels) ** 2
    mean, low, high = share_between(error / spread, task.unit)
    found = {"accuracy": 1 - mean, "accuracy_low": 1 - high, "accuracy_high": 1 - low}
    return Judged(error, found | {"auc": float("nan"), "f1": float("nan")})


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Area under the curve, mean over one class against the others; NaN where one is missing."""
    from sklearn.metrics import roc_auc_score

    finite = np.where(np.isfinite(scores), scores, -1e300)
    own = [
        roc_auc_score(labels == place, finite[:, place])
        for place in range(scores.shape[1])
        if 0 < (labels == place).sum() < len(labels)
    ]
    return float(np.mean(own)) if own else float("nan")


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of each class, their mean."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, average="macro", zero_division=0))
