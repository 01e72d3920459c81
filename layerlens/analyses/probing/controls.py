"""Labels that say nothing, and are learned with as much effort: what a probe makes of itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from layerlens.analyses.probing.asked import Task
from layerlens.errors import InputError


def shuffled(task: Task, seed: int) -> Task:
    """The same labels dealt out anew: among units where all examples of one have the same label.

    So the states still hold what the examples of a unit have in common, and the labels nothing.
    """
    random = np.random.default_rng(seed)
    units, inverse = np.unique(task.unit, return_inverse=True)
    first = np.array([task.labels[inverse == place][0] for place in range(len(units))])
    if (task.labels == first[inverse]).all():
        return replace(task, labels=random.permutation(first)[inverse])
    return replace(task, labels=random.permutation(task.labels))


def by_type(task: Task, types: np.ndarray | list[Any], seed: int) -> Task:
    """A label for each type of example, drawn as often as labels occur (Hewitt and Liang, 2019).

    Designing and Interpreting Probes with Control Tasks, arXiv 1909.03368. A probe that does well
    on it has learned the types by heart.

    Raises
    ------
    InputError
        Examples have no type.
    """
    given = np.asarray(types)
    if given.dtype.kind in "iu" and (given < 0).any():
        raise InputError(
            "control='types' needs the type of each example, and a mean over tokens has none: give "
            "types=[...], or control='shuffle'."
        )
    known, inverse = np.unique(given, return_inverse=True)
    drawn = np.random.default_rng(seed).choice(task.labels, len(known))
    return replace(task, labels=drawn[inverse])
