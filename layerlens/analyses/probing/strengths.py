"""How small the weights of a probe are held, chosen inside what it is taught and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerlens.analyses.probing.folds import Folds
from layerlens.analyses.probing.learner import Learner, Lesson
from layerlens.analyses.probing.online_code import FLOOR
from layerlens.analyses.probing.readers import probabilities
from layerlens.errors import InputError

GRID = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""What a strength is chosen among."""
INNER = 3
"""Folds of what a probe is taught."""


@dataclass(frozen=True)
class Trial:
    """One part of what a lesson teaches, judged by what the others teach.

    Attributes
    ----------
    number
        Of the lesson.
    lesson
        Without the part.
    judge
        ``[n]`` bool: the part.
    """

    number: int
    lesson: Lesson
    judge: NDArray[np.bool_]


class Strengths:
    """The strength of each of some lessons, whatever the states.

    Parameters
    ----------
    strength
        ``C`` of all, or ``"cv"``: what each lesson teaches is divided again by units, each part is
        judged by probes of every strength that were fitted to the others, and the one of the
        smallest mean surprise (for numbers of the smallest squared error) is taken, the smaller of
        two that do as well. What a lesson does not teach has no part in it.
    lessons
        Which.
    seed
        Of the division.

    Raises
    ------
    InputError
        What is taught in a lesson is too little to divide.
    """

    def __init__(self, strength: float | str, lessons: Sequence[Lesson], seed: int) -> None:
        self._lessons, self._given = lessons, strength
        self._trials = []
        if isinstance(strength, str):
            self._trials = [Trial(number, *part) for number, lesson in enumerate(lessons)
                            for part in _divided(lesson, seed)]  # fmt: skip

    def of(self, states: np.ndarray, learner: Learner) -> list[float]:
        """``C`` of each lesson for these states ``[n, d]``."""
        if not isinstance(self._given, str):
            return [self._given] * len(self._lessons)
        lessons = [trial.lesson for trial in self._trials for _ in GRID]
        readers = iter(learner.learn(states, lessons, [*GRID] * len(self._trials)))
        loss = np.zeros((len(self._lessons), len(GRID)))
        for trial in self._trials:
            for place in range(len(GRID)):
                loss[trial.number, place] += _loss(next(readers), states, trial)
        return [GRID[place] for place in loss.argmin(1)]


def _divided(lesson: Lesson, seed: int) -> Iterator[tuple[Lesson, NDArray[np.bool_]]]:
    """What is taught, without a part of it; and that part."""
    task, taught = lesson.task, lesson.taught
    inside = replace(task, labels=task.labels[taught], unit=task.unit[taught])
    if not task.numbers and len(np.unique(inside.labels)) < 2:
        return  # whatever the strength, there is nothing to learn
    try:
        folds = Folds.of(inside, INNER, seed)
    except InputError as error:
        raise InputError(
            "There is too little in the training folds to choose a strength by: give a number in "
            f"place of strength='cv', or more texts. ({error})"
        ) from error
    number = np.full(len(taught), -1)
    number[taught] = folds.number
    for fold in range(INNER):
        yield Lesson(task, taught & (number != fold)), number == fold


def _loss(reader: Any, states: np.ndarray, trial: Trial) -> float:
    """Surprise, or squared error, summed over what is judged."""
    task, states = trial.lesson.task, states[trial.judge]
    labels = task.labels[trial.judge]
    if task.numbers:
        return float(((reader.predict(states) - labels) ** 2).sum())
    given = probabilities(reader, states, len(task.classes))
    return -float(np.log(np.maximum(given[np.arange(len(labels)), labels], FLOOR)).sum())
