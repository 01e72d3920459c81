"""How alike two sets of states of the same tokens are: what all such metrics share.

Each compares the states of a sample of tokens (or mean states of a sample of texts) at every two
depths of a model, or of two models.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.clusters import contiguous
from layerlens.metrics.sample import Sample

COMPARISONS: dict[str, type[Comparison]] = {}
"""Name -> metric that compares sets of states; ``ll.compare_models`` takes these."""


def described(name: str, long_name: str) -> dict[str, Output]:
    """The outputs of a comparison: every depth with every other, and runs of alike ones."""
    return {
        name: Output(("point", "point_other"), "1", long_name, interval=False),
        f"{name}_cluster": Output(
            ("point",), "1", f"run of depths alike by {long_name}", dtype="int32", interval=False
        ),
    }


class Comparison(Sample):
    """A metric of the likeness of states at every two depths.

    Parameters
    ----------
    sample, unit
        What is compared; see `Sample`.
    standardize
        Give every dimension of the states a variance of 1 first, against dimensions that outdo
        all others.
    clusters
        How many runs of alike depths to mark; None for as few as will do. See
        :func:`layerlens.metrics.clusters.contiguous`.
    """

    axes = ("point", "point_other")
    units = "1"
    symmetric: ClassVar[bool] = True

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int,
        unit: str,
        standardize: bool,
        clusters: int | None,
        **options: Any,
    ) -> None:
        points = shape.sizes["point"]
        if clusters is not None and not 1 <= clusters <= points:
            raise InputError(f"clusters is {clusters}; expected 1 to {points}, or None.")
        options |= {"standardize": standardize, "clusters": clusters}
        super().__init__(shape, sample=sample, unit=unit, **options)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            COMPARISONS[cls.name] = cls

    @abstractmethod
    def features(self, rows: Tensor) -> Any:
        """What :meth:`likeness` needs of one set of centred states ``[n, d]`` float64."""

    @abstractmethod
    def likeness(self, one: Any, other: Any) -> float:
        """How alike two sets are, from their features."""

    def rows(self, states: Tensor) -> Tensor:
        """States at one depth as they are compared: float64, centred, standardized if asked."""
        rows = states.double()
        rows = rows - rows.mean(0)
        if self.options["standardize"]:
            size = rows.square().mean(0).sqrt()
            rows = rows / torch.where(size > 0, size, 1.0)
        return rows

    def between(self, states: Tensor, others: Tensor | None = None) -> np.ndarray:
        """Every depth of one with every depth of the other: [point, point_other].

        Parameters
        ----------
        states, others
            [n, point, d], row by row of the same tokens; d may differ. None: with itself.
        """
        mine = [self.features(self.rows(states[:, point])) for point in range(states.shape[1])]
        if others is not None:
            points = range(others.shape[1])
            theirs = [self.features(self.rows(others[:, point])) for point in points]
            return np.array([[self.likeness(one, other) for other in theirs] for one in mine])
        return self.within(mine)

    def within(self, mine: Sequence[Any]) -> np.ndarray:
        """Every set with every other of one model, from their features."""
        found = np.empty((len(mine), len(mine)))
        for row, one in enumerate(mine):
            for column in range(row if self.symmetric else 0, len(mine)):
                found[row, column] = self.likeness(one, mine[column])
                if self.symmetric:
                    found[column, row] = found[row, column]
        return found

    def compute(self, states: Tensor) -> Arrays:
        """The matrix of all depths, and runs of alike ones."""
        return self.marked(self.between(states))

    def marked(self, found: np.ndarray) -> Arrays:
        """The matrix and its runs."""
        runs = contiguous(found, self.options["clusters"])
        return {self.name: found, f"{self.name}_cluster": runs}
