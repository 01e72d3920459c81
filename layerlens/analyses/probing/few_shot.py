"""Probes that are taught by a few examples of other texts, beside those that saw none of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from layerlens.analyses.contract.parts import Variable, with_interval
from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.learner import Learner, Lesson
from layerlens.analyses.probing.other_texts import Division, Shots
from layerlens.errors import InputError

VARIABLES = with_interval(
    "few_shot_accuracy",
    Variable(("of", "point"), "float64", "1", "share of the other texts told right after a "
             "few of them"),
    "draws",
)  # fmt: skip
"""Uselis and Oh (2025), Intermediate Layer Classifiers for OOD generalization, arXiv 2504.05461."""


@dataclass(frozen=True)
class FewShot:
    """Which examples teach, drawn once for all layers and models.

    Attributes
    ----------
    taught
        ``[draw, n]`` bool among the examples of other texts that have a label; none of them is
        of a text or group that judges.
    dealt
        ``[draw, n]``: the labels, dealt out anew among the examples that teach.
    """

    taught: NDArray[np.bool_]
    dealt: NDArray[np.int64]

    @classmethod
    def of(cls, part: Division, classes: Sequence[object], shots: Shots, seed: int) -> FewShot:
        """Draw as many examples of each class that the other texts have.

        Parameters
        ----------
        part
            What judges them is left alone.
        classes
            The names of the labels.
        shots
            How many examples of each class, and how often they are drawn.

        Raises
        ------
        InputError
            Too few of a class do not judge.
        """
        apart = [np.flatnonzero(~part.judge & (part.labels == label))
                 for label in np.unique(part.labels)]  # fmt: skip
        for label, own in zip(np.unique(part.labels), apart, strict=True):
            if len(own) < shots.count:
                raise InputError(
                    f"n_shot is {shots.count}, and {len(own)} of the other texts that do not judge "
                    f"are {classes[label]!r}: give more of them, a larger other_apart, or less."
                )
        taught = np.zeros((shots.draws, len(part.labels)), dtype=np.bool_)
        dealt = np.tile(part.labels, (shots.draws, 1))
        for draw in range(shots.draws):
            random = np.random.default_rng([seed, draw])
            for own in apart:
                taught[draw, random.choice(own, shots.count, replace=False)] = True
            dealt[draw, taught[draw]] = random.permutation(part.labels[taught[draw]])
        return cls(taught, dealt)

    def accuracy(
        self,
        states: np.ndarray,
        task: Task,
        part: Division,
        learner: Learner,
        strength: float,
        *,
        dealt: bool = False,
    ) -> tuple[float, float, float]:
        """Mean accuracy on what judges, and the 95 % of draws that lie in the middle.

        Parameters
        ----------
        states
            ``[n, d]`` float32.
        strength
            See `layerlens.probe`.
        dealt
            Whether the labels that teach are dealt out anew, which is the control.
        """
        some = self.taught.any(0)  # those that never teach need not be looked at by a solver
        labels = self.dealt if dealt else np.tile(part.labels, (len(self.taught), 1))
        lessons = [
            Lesson(replace(task, labels=own[some], unit=part.unit[some]), taught[some])
            for own, taught in zip(labels, self.taught, strict=True)
        ]
        readers = learner.learn(states[some], lessons, [strength] * len(lessons))
        judged, right = states[part.judge], part.labels[part.judge]
        found = [float((reader.predict(judged) == right).mean()) for reader in readers]
        low, high = np.quantile(found, (0.025, 0.975))
        return float(np.mean(found)), float(low), float(high)
