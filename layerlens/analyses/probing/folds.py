"""One division of the examples for all points, and what probes say of the part they did not see."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.learner import Lesson
from layerlens.analyses.probing.numbers import share_between
from layerlens.analyses.probing.readers import scores_of
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
        if not task.numbers and np.bincount(task.labels).max() < count:
            raise InputError(
                f"No class has {count} examples, one for each fold: give more, or fewer folds."
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

    def lessons(self, task: Task) -> list[Lesson]:
        """For each fold all others."""
        return [Lesson(task, self.number != fold) for fold in range(self.count)]

    def lessons_apart(self, task: Task) -> list[Lesson]:
        """For each fold all others but the next one, which judges: see `elsewhere`."""
        return [Lesson(task, (self.number != fold) & (self.number != self.next(fold)))
                for fold in range(self.count)]  # fmt: skip

    def next(self, fold: int) -> int:
        """The one behind it, and behind the last the first."""
        return (fold + 1) % self.count


@dataclass(frozen=True)
class Judged:
    """What came of a probe on examples that it was not fitted on.

    Attributes
    ----------
    right
        ``[n]``: 1 where it is right; for numbers 1 less its squared error as a share of their
        variance. Its mean is the accuracy.
    numbers
        Measures by name, with ``_low`` and ``_high``.
    """

    right: np.ndarray
    numbers: Numbers


def judged(states: np.ndarray, task: Task, folds: Folds, readers: Sequence[Any]) -> Judged:
    """Let the reader of each fold's lesson say what it makes of that fold."""
    count = len(task.classes)
    given = np.zeros((len(task.labels), max(1, count)))
    predicted = np.empty(len(task.labels))
    for fold, reader in enumerate(readers):
        here = folds.number == fold
        predicted[here] = reader.predict(states[here])
        if not task.numbers:
            given[here] = scores_of(reader, states[here], range(count))
    right = rights(predicted, task.labels, task)
    mean, low, high = share_between(right, task.unit)
    found = {"accuracy": mean, "accuracy_low": low, "accuracy_high": high}
    if not task.numbers:
        found |= {"auc": _auc(given, task.labels), "f1": macro_f1(predicted, task.labels)}
    return Judged(right, found)


def rights(predicted: np.ndarray, labels: np.ndarray, task: Task) -> np.ndarray:
    """``[n]``: 1 where a label is told right; of numbers see `Judged`.

    Raises
    ------
    InputError
        All numbers of the task are the same.
    """
    if not task.numbers:
        return np.asarray(predicted == labels, dtype=np.float64)
    spread = float(task.labels.var())
    if not spread:
        raise InputError("All labels are the same number: there is nothing to predict.")
    found: np.ndarray = 1 - (predicted - labels) ** 2 / spread
    return found


def elsewhere(states: np.ndarray, task: Task, folds: Folds, readers: Sequence[Any]) -> np.ndarray:
    """How well probes do that saw neither a fold nor what they are judged on, ``[fold]``.

    For each fold it is the next one that judges, and all others that teach. A layer that is chosen
    by this for a fold is not chosen by any example of it.
    """
    found = np.zeros(folds.count)
    for fold, reader in enumerate(readers):
        judge = folds.number == folds.next(fold)
        found[fold] = rights(reader.predict(states[judge]), task.labels[judge], task).mean()
    return found


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
