"""Lessons, and who learns them: many probes of the same states, together where that is possible."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.logistic import logistic
from layerlens.analyses.probing.readers import Always, Linear, reader_for

TOGETHER = 64
"""Planes that are solved at once."""


@dataclass(frozen=True)
class Lesson:
    """What one probe is fitted to.

    Attributes
    ----------
    task
        The labels of all examples.
    taught
        ``[n]`` bool: the examples that it sees.
    """

    task: Task
    taught: NDArray[np.bool_]

    @property
    def labels(self) -> np.ndarray:
        """Of what is seen."""
        return self.task.labels[self.taught]


@dataclass(frozen=True)
class Learner:
    """A kind of probe.

    Attributes
    ----------
    kind
        See `layerlens.probe`.
    seed
        Of what is drawn.
    """

    kind: str
    seed: int

    def learn(
        self, states: np.ndarray, lessons: Sequence[Lesson], strengths: Sequence[float]
    ) -> list[Any]:
        """A reader for each lesson.

        Parameters
        ----------
        states
            ``[n, d]`` float32.
        strengths
            ``C`` of each; see `layerlens.probe`.
        """
        found: list[Any] = [None] * len(lessons)
        together: dict[int, list[int]] = {}
        for number, (lesson, strength) in enumerate(zip(lessons, strengths, strict=True)):
            known = 2 if lesson.task.numbers else len(np.unique(lesson.labels))
            if known < 2:  # there is nothing to learn
                found[number] = Always(lesson.labels[0])
            elif self.kind == "linear" and not lesson.task.numbers:
                together.setdefault(known, []).append(number)
            else:
                found[number] = self._alone(states, lesson, strength)
        for classes, numbers in together.items():
            step = max(1, TOGETHER // (1 if classes == 2 else classes))
            numbers.sort(key=lambda number: strengths[number])  # these take as many steps
            for begin in range(0, len(numbers), step):
                own = numbers[begin : begin + step]
                given = [lessons[number] for number in own]
                solved = _planes(states, given, np.array([strengths[number] for number in own]))
                for number, reader in zip(own, solved, strict=True):
                    found[number] = reader
        return found

    def _alone(self, states: np.ndarray, lesson: Lesson, strength: float) -> Any:
        """Let scikit-learn solve it; that a solver stopped before its end is no news of states."""
        from sklearn.exceptions import ConvergenceWarning

        reader = reader_for(self.kind, strength, self.seed, numbers=lesson.task.numbers)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return reader.fit(states[lesson.taught], lesson.labels)


def _planes(
    states: np.ndarray, lessons: Sequence[Lesson], strengths: NDArray[np.float64]
) -> list[Linear]:
    """Logistic regressions of lessons that know as many classes each."""
    known = [np.unique(lesson.labels) for lesson in lessons]
    # A label that is not seen may be any: its examples weigh nothing.
    labels = [np.minimum(np.searchsorted(own, lesson.task.labels), len(own) - 1)
              for own, lesson in zip(known, lessons, strict=True)]  # fmt: skip
    taught = np.stack([lesson.taught for lesson in lessons])
    found = logistic(states, np.stack(labels), taught, strengths)
    return [Linear(own, weight, bias)
            for own, weight, bias in zip(known, found.weight, found.bias, strict=True)]  # fmt: skip
