"""Which layer is chosen, without a look at what it is judged by; how far layers lie apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.parts import Variable, with_interval
from layerlens.analyses.probing.asked import Task
from layerlens.analyses.probing.folds import Folds
from layerlens.analyses.probing.numbers import (
    chosen_elsewhere,
    concept_depth,
    mean_between,
    share_between,
)

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.analyses.lenses.points import Point

_OVER = "texts or groups"
VARIABLES = {
    **with_interval(
        "selected_accuracy",
        Variable((), "float64", "1", "accuracy of layers chosen without the fold"),
        _OVER,
    ),
    "selected_layer": Variable((), "int32", "layer", "the layer that most folds chose", -2),
    **with_interval(
        "difference_to_last",
        Variable(("of", "point"), "float64", "1", "accuracy above that of the last point",
                 signed=True),
        _OVER,
    ),
    **with_interval(
        "difference_to_selected",
        Variable(("point",), "float64", "1", "accuracy above that of layers chosen without the "
                 "fold", signed=True),
        _OVER,
    ),
    "jumping_point": Variable((), "float64", "1", "depth at which accuracy first jumps"),
    "converging_point": Variable((), "float64", "1", "depth from which on accuracy stands still"),
    "converging_point_literal": Variable(
        (), "float64", "1", "last depth at which accuracy stands still, as published"
    ),
}  # fmt: skip


def ended(name: str, values: tuple[float, float, float]) -> dict[str, np.ndarray]:
    """A number and both ends of its interval, under their names."""
    return {f"{name}{end}": np.array(value)
            for end, value in zip(("", "_low", "_high"), values, strict=True)}  # fmt: skip


def choose(
    job: Job,
    points: Sequence[Point],
    task: Task,
    folds: Folds,
    right: Sequence[np.ndarray],
    elsewhere: Sequence[np.ndarray],
) -> None:
    """Let the folds choose a layer, hold each to it, and say at which depth accuracy rises.

    Parameters
    ----------
    right
        ``[n]`` at each point: how right the probe is of each example, which it did not see.
    elsewhere
        ``[fold]`` at each point: how well it does where neither a fold nor what teaches is judged.
    """
    answered, chosen = chosen_elsewhere(np.stack(right), folds.number, np.stack(elsewhere))
    layers = [points[place].layer for place in chosen]
    blocks = [i for i, point in enumerate(points) if point.layer >= 0]
    rises = [float(right[place].mean()) for place in blocks]
    found: dict[str, Any] = concept_depth(rises) if len(blocks) > 1 else {}
    arrays = {name: np.array(value) for name, value in found.items()}
    arrays |= ended("selected_accuracy", share_between(answered, task.unit))
    arrays["selected_layer"] = np.array(Counter(layers).most_common(1)[0][0], dtype=np.int32)
    job.emit({}, arrays)
    for place, own in enumerate(right):
        apart = mean_between(own - answered, task.unit)
        job.emit({"point": place}, ended("difference_to_selected", apart))


def differences(job: Job, row: int, unit: np.ndarray, right: Sequence[np.ndarray]) -> None:
    """Hold each point of one row to its last: the paired bootstrap over units.

    Parameters
    ----------
    row
        Its number.
    unit
        ``[n]``: the unit of each example.
    right
        As `choose` has it.
    """
    for place, own in enumerate(right):
        found = ended("difference_to_last", mean_between(own - right[-1], unit))
        job.emit({"of": row, "point": place}, found)
