"""Texts of another kind: their labels, and which of them choose, teach or judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.probing.asked import Task, flat_labels, numbered_units
from layerlens.analyses.probing.examples import EACH, Examples, Where
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.text import Tokens


@dataclass(frozen=True)
class Shots:
    """How many examples teach, and how often they are drawn."""

    count: int
    draws: int

    @classmethod
    def asked(cls, n_shot: int | None, draws: int) -> Shots | None:
        """What is asked for, None where it is not.

        Raises
        ------
        InputError
            A number is none.
        """
        if n_shot is None:
            return None
        for name, number in (("n_shot", n_shot), ("draws", draws)):
            if whole(number, name) < 1:
                raise InputError(f"{name} is {number}; expected a number from 1.")
        return cls(n_shot, draws)


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
    shots
        How many of that share teach probes of their own; None where none do.
    """

    texts: Tokens | Texts
    labels: Sequence[Any]
    groups: Sequence[Any] | None
    where: Where
    apart: float
    shots: Shots | None

    @classmethod
    def of(cls, job: Job, given: Any, labels: Sequence[Any] | None, where: Where,
           apart: float, shots: Shots | None) -> Other:  # fmt: skip
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
        return cls(job.tokens(given), own if labels is None else labels, known, where, apart,
                   shots)  # fmt: skip

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
