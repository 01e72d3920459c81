"""What is learned at every point: the same lessons, whatever the states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.folds import Folds
from layerlens.analyses.probing.learner import Learner, Lesson
from layerlens.analyses.probing.strengths import Strengths


@dataclass(frozen=True)
class Learned:
    """Readers of one row at a point.

    Attributes
    ----------
    folds, strengths
        ``[fold]``: the reader that did not see it, and how small its weights were held.
    whole, whole_strength
        That of all examples; None where it was not asked for.
    apart
        ``[fold]``: the reader that saw neither it nor the next one; empty where it was not asked
        for.
    """

    folds: list[Any]
    strengths: list[float]
    whole: Any
    whole_strength: float
    apart: list[Any]


class Plan:
    """Lessons of some rows, which are learned together.

    Parameters
    ----------
    tasks
        The labels of each row.
    folds
        The division of the examples.
    whole
        Rows of which a reader of all examples is wanted.
    apart
        Rows of which readers are wanted that choose a layer.
    strength, learner
        See `layerlens.probe`.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        folds: Folds,
        whole: set[str],
        apart: set[str],
        strength: float | str,
        learner: Learner,
    ) -> None:
        self.tasks, self._learner = tasks, learner
        self._lessons: list[Lesson] = []
        self._places: dict[str, tuple[slice, slice, slice]] = {}
        everything = np.ones(len(folds.number), dtype=np.bool_)
        for row, task in tasks.items():
            self._places[row] = (
                self._add(folds.lessons(task)),
                self._add([Lesson(task, everything)] if row in whole else []),
                self._add(folds.lessons_apart(task) if row in apart else []),
            )
        self._strengths = Strengths(strength, self._lessons, learner.seed)

    def _add(self, lessons: list[Lesson]) -> slice:
        self._lessons += lessons
        return slice(len(self._lessons) - len(lessons), len(self._lessons))

    def learn(self, states: np.ndarray) -> dict[str, Learned]:
        """What each row learns from states ``[n, d]``."""
        strengths = self._strengths.of(states, self._learner)
        readers = self._learner.learn(states, self._lessons, strengths)
        found = {}
        for row, (folds, whole, apart) in self._places.items():
            one = next(iter(readers[whole]), None)
            strength = next(iter(strengths[whole]), float("nan"))
            found[row] = Learned(readers[folds], strengths[folds], one, strength, readers[apart])
        return found
