"""Probes of all layers on texts of another kind, and which layer is best there: not by luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.parts import Variable, with_interval
from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.choosing import ended
from layerlens.analyses.probing.examples import recorded
from layerlens.analyses.probing.folds import rights
from layerlens.analyses.probing.numbers import mean_between, share_between
from layerlens.analyses.probing.other_texts import Division, Other
from layerlens.analyses.probing.states import Kept

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel

_OVER = "texts or groups"
CHOICE = "choice"
CHOICES = ("other texts set apart", "folds of the texts", "last point")
"""Who chooses the layer that is judged on the rest of the other texts."""
VARIABLES = {
    **with_interval(
        "transfer_accuracy",
        Variable(("of", "point"), "float64", "1", "share of the other texts that are told right"),
        _OVER,
    ),
    "transfer_normalised": Variable(
        ("point",), "float64", "1", "accuracy on the other texts over that on the texts' own folds"
    ),
    **with_interval(
        "transfer_choice_accuracy",
        Variable((CHOICE,), "float64", "1", "accuracy on the other texts of a layer chosen by"),
        _OVER,
    ),
    "transfer_choice_layer": Variable((CHOICE,), "int32", "layer", "the layer chosen by", -2),
    **with_interval(
        "transfer_choice_difference",
        Variable((CHOICE,), "float64", "1", "accuracy on the other texts above that of the last "
                 "point, of a layer chosen by", signed=True),
        _OVER,
    ),
}  # fmt: skip
"""Uselis and Oh (2025), Intermediate Layer Classifiers for OOD generalization, arXiv 2504.05461;
what they call penultimate is the last point."""


def transferred(
    job: Job,
    model: LensModel,
    points: Sequence[Point],
    task: Task,
    other: Other,
    rows: Mapping[int, Sequence[Any]],
    limit: int,
    seed: int,
    also: Callable[[int, np.ndarray, Division], None] = lambda place, states, part: None,
) -> tuple[dict[int, list[np.ndarray]], Division]:
    """Try what was learned on other texts, and say how often it is right of those that judge.

    Parameters
    ----------
    task
        What was learned.
    rows
        A reader for each point, by the number of the row that they are of.
    limit, seed
        Bytes of states; of the division.
    also
        Is given each point, the states there and who judges.

    Returns
    -------
    told, part
        For each row at each point ``[k]``: 1 where an example is told right; and who judges.
    """
    found = recorded(model, other.texts, points, other.where, limit, job.tick)
    part = Division.of(found, task, other, seed)
    told: dict[int, list[np.ndarray]] = {row: [] for row in rows}
    for place, states in enumerate(Kept(found.states, part.kept)):
        job.tick()
        for row, readers in rows.items():
            right = rights(readers[place].predict(states), part.labels, task)
            told[row].append(right)
            share = share_between(right[part.judge], part.unit[part.judge])
            job.emit({"of": row, "point": place}, ended("transfer_accuracy", share))
        also(place, states, part)
    return told, part


def choose_for(
    job: Job,
    points: Sequence[Point],
    part: Division,
    told: Sequence[np.ndarray],
    inside: np.ndarray,
) -> None:
    """Let a layer be chosen in three ways, none of which sees the part that judges.

    Parameters
    ----------
    told
        ``[k]`` at each point: 1 where the probe tells an example of the other texts right.
    inside
        ``[point]``: accuracy on the folds of the texts that it was learned from.
    """
    judge, unit = part.judge, part.unit[part.judge]
    apart = np.array([right[~judge].mean() for right in told])
    # Of those that do as well the better one inside, and of those the later.
    chosen = (int(np.lexsort((inside, apart))[-1]), int(np.lexsort((inside,))[-1]), len(points) - 1)
    outside = np.array([right[judge].mean() for right in told])
    layers = np.array([points[place].layer for place in chosen], dtype=np.int32)
    job.emit({}, {"transfer_normalised": outside / np.maximum(inside, 1e-30),
                  "transfer_choice_layer": layers})  # fmt: skip
    for number, place in enumerate(chosen):
        own, last = told[place][judge], told[-1][judge]
        found = ended("transfer_choice_accuracy", share_between(own, unit))
        found |= ended("transfer_choice_difference", mean_between(own - last, unit))
        job.emit({CHOICE: number}, found)


def guessed(task: Task, part: Division) -> float:
    """Share of what judges that is of the class that is commonest among what was learned."""
    commonest = np.bincount(task.labels).argmax()
    return float((part.labels[part.judge] == commonest).mean())
