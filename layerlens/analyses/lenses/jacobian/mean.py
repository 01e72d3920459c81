"""The mean of Jacobians over prompts, and how far half of the prompts would be from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor


class JacobianMean:
    """Sums over prompts, at each point.

    Parameters
    ----------
    labels
        Of the points.
    rows, width
        Shape of each matrix.

    Attributes
    ----------
    prompts
        How many were taken in.
    """

    def __init__(self, labels: Sequence[str], rows: int, width: int) -> None:
        self.labels = list(labels)
        self.prompts = 0
        self._sums = {label: torch.zeros(rows, width) for label in labels}
        self._squares = dict.fromkeys(labels, 0.0)

    def add(self, start: int, found: Tensor) -> None:
        """Take in some rows of one prompt.

        Parameters
        ----------
        start
            Number of the first of these rows.
        found
            ``[point, n, width]``.
        """
        for label, rows in zip(self.labels, found, strict=True):
            self._sums[label][start : start + len(rows)] += rows
            self._squares[label] += float(rows.double().square().sum())

    def ended(self) -> None:
        """All rows of a prompt were taken in."""
        self.prompts += 1

    def take_over(
        self, prompts: int, means: Mapping[str, Tensor], error: Mapping[str, float]
    ) -> None:
        """Go on from what an earlier call had.

        Parameters
        ----------
        means
            By label.
        error
            ``halves_error`` by label; not there after a single prompt.
        """
        self.prompts = prompts
        for label in self.labels:
            self._sums[label] = means[label].float() * prompts
            square = _square(means[label])
            spread = (prompts - 1) * square * (error.get(label, 0.0) / 2) ** 2
            self._squares[label] = prompts * (square + spread)

    def means(self) -> dict[str, Tensor]:
        """Label to ``[rows, width]`` float32."""
        return {label: total / self.prompts for label, total in self._sums.items()}

    def halves(self, means: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """How alike two halves of the prompts are, ``[point]``; NaN where there is only one prompt.

        With ``m`` the mean of all and ``v`` the variance of that mean (from the spread over
        prompts), the squared distance of two halves is ``4 v`` and their product
        ``|m|^2 - v`` when averaged over all ways to halve the prompts: no half is ever formed.
        """
        cosine, error = np.full((2, len(self.labels)), np.nan)
        for place, label in enumerate(self.labels if self.prompts > 1 else ()):
            square = _square(means[label])
            spread = self._squares[label] / self.prompts - square
            variance = max(0.0, spread) / (self.prompts - 1)
            if square:
                error[place] = 2 * (variance / square) ** 0.5
                cosine[place] = (square - variance) / (square + variance)
        return {"halves_cosine": cosine, "halves_error": error}


def _square(matrix: Tensor) -> float:
    return float(matrix.double().square().sum())
