"""Probes of all layers on texts of another kind, and which layer is best there: not by luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.parts import Variable, with_interval
from layerlens.analyses.probing.asked import Task, flat_labels, numbered_units
from layerlens.analyses.probing.choosing import ended
from layerlens.analyses.probing.examples import EACH, Examples, Where, recorded
from layerlens.analyses.probing.folds import rights
from layerlens.analyses.probing.numbers import mean_between, share_between
from layerlens.analyses.probing.states import Kept
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

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


@dataclass(frozen=True)
class Other:
    """Texts of another kind.

    Attributes
    ----------
    texts
        As the model reads them.
    labels
        As `layerlens.probe` takes them.
    groups
        Of each text, or None.
    where
        Where their states are read.
    apart
        Share of them, by groups, that chooses a layer and is not judged.
    """

    texts: Tokens | Texts
    labels: Sequence[Any]
    groups: Sequence[Any] | None
    where: Where
    apart: float

    @classmethod
    def of(cls, job: Job, given: Any, labels: Sequence[Any] | None, where: Where,
           apart: float) -> Other:  # fmt: skip
        """Look at what is given before anything runs.

        Raises
        ------
        InputError
            They have no labels, or two sorts; the share is none.
        """
        items = list(given.items()) if isinstance(given, Texts) else []
        own = [item.label for item in items]
        lacking = not own or any(label is None for label in own)
        if labels is None and lacking:
            raise InputError(
                "other_texts have no labels: give other_labels=[...], or ll.texts(..., "
                "label=[...])."
            )
        if labels is not None and not all(label is None for label in own):
            raise InputError("other_texts have labels of their own: leave other_labels out.")
        if not 0 < apart < 1:
            raise InputError(f"other_apart is {apart}; expected a share between 0 and 1.")
        groups = [item.group for item in items]
        known = groups if groups and all(group is not None for group in groups) else None
        return cls(job.tokens(given), own if labels is None else labels, known, where, apart)

    def require_known(self, labels: Sequence[Any], where: Where) -> None:
        """Refuse labels that the texts do not have.

        Raises
        ------
        InputError
            Names them, or says that labels are numbers.
        """
        known, here = set(_flat(labels, where)), _flat(self.labels, self.where)
        if all(isinstance(label, float | np.floating) for label in known):
            raise InputError("other_texts are told apart by classes, and these labels are numbers.")
        if foreign := sorted({str(label) for label in here if label not in known}):
            raise InputError(
                f"other_texts have labels {', '.join(foreign[:5])}, which were not learned: give "
                "texts with the same labels."
            )


def _flat(labels: Sequence[Any], where: Where) -> list[Any]:
    """Labels of all examples that have one."""
    lists = (own if where == EACH or isinstance(own, list) else [own] for own in labels)
    return [label for own in lists for label in own if label is not None]


@dataclass(frozen=True)
class Division:
    """The examples of other texts that have a label.

    Attributes
    ----------
    kept
        ``[n]`` bool among all examples.
    labels, unit
        ``[k]`` of those that are kept: classes by number, and text or group.
    judge
        ``[k]`` bool: the part that judges; the other one chooses.
    """

    kept: np.ndarray
    labels: np.ndarray
    unit: np.ndarray
    judge: np.ndarray

    @classmethod
    def of(cls, found: Examples, task: Task, other: Other, seed: int) -> Division:
        """Set units apart.

        Raises
        ------
        InputError
            There is one unit alone.
        """
        flat = flat_labels(other.labels, found, other.where)
        kept = np.array([label is not None for label in flat])
        index = {label: place for place, label in enumerate(task.classes)}
        labels = np.array([index[label] for label in flat if label is not None])
        unit = numbered_units(other.groups, found)[kept]
        known = np.unique(unit)
        if len(known) < 2:
            raise InputError(
                "other_texts hold one text or group with a label: give two or more, some to "
                "choose a layer and others to judge it."
            )
        count = min(max(1, round(other.apart * len(known))), len(known) - 1)
        apart = np.random.default_rng(seed).permutation(known)[:count]
        return cls(kept, labels, unit, ~np.isin(unit, apart))


def transferred(
    job: Job,
    model: LensModel,
    points: Sequence[Point],
    task: Task,
    other: Other,
    rows: Mapping[int, Sequence[Any]],
    limit: int,
    seed: int,
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
