"""How the variance of the residual stream grows with depth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import StateMean
from layerlens.metrics.registry import register

BINS_AN_OCTAVE = 64
"""Of the histogram of log2 variances: the median is found to half of 1.1 %."""

OCTAVES = (-40, 40)
FIRST_FITTED = 2
"""Points from here on are fitted: the embedding and the first block follow no law of growth."""


@register
class VarianceGrowth(StateMean):
    """Variance of the state's entries, and the laws of growth that fit it best.

    Parameters
    ----------
    fit
        Which curve is fitted: the ``"median"`` over tokens, which a few sink tokens cannot
        lead, or the ``"mean"``.
    """

    name = "variance_growth"
    question = "Does the variance of the stream grow so fast that deep blocks hardly count?"
    formula = (
        "mean over tokens of Var_j h_j; rate: slope of log variance over the number of blocks; "
        "power: slope over its logarithm; both from 2 blocks on"
    )
    units = "activation^2"
    source = "Sun et al. (2025), The Curse of Depth in Large Language Models, arXiv 2502.05795"
    outputs: ClassVar[Mapping[str, Output]] = {
        "variance_growth": Output(("point",), units, "variance of the state's entries"),
        "variance_growth_median": Output(
            ("point",), units, "median over tokens of the variance", interval=False
        ),
        "variance_growth_rate": Output(
            (), "1/layer", "exponential growth of the variance", interval=False
        ),
        "variance_growth_rate_r2": Output((), "1", "R2 of exponential growth", interval=False),
        "variance_growth_power": Output((), "1", "power of growth of the variance", interval=False),
        "variance_growth_power_r2": Output((), "1", "R2 of growth by a power", interval=False),
    }

    def __init__(self, shape: ModelShape, *, fit: Literal["median", "mean"] = "median") -> None:
        if fit not in ("median", "mean"):
            raise InputError(f"fit is 'median' or 'mean', not {fit!r}.")
        super().__init__(shape, fit=fit)
        bins = (OCTAVES[1] - OCTAVES[0]) * BINS_AN_OCTAVE
        self.zeros("histogram", shape.n_layers + 1, bins, dtype="int64")

    def measure(self, layer: Layer, part: str) -> Tensor:
        """Population variance of the entries of each token's state."""
        state = layer.rows(part)
        centred = state - state.mean(-1, keepdim=True)  # three times as fast as Tensor.var
        total: Tensor = torch.linalg.vecdot(centred, centred)
        return total / state.shape[-1]

    def add(self, cell: tuple[int | slice, ...], values: Tensor, batch: Batch) -> None:
        """Count the variances for the mean and for the median."""
        super().add(cell, values, batch)
        bins = self.arrays["histogram"].shape[1]
        place = (values.cpu().double().log2() - OCTAVES[0]) * BINS_AN_OCTAVE
        place = place.floor().nan_to_num(0, bins - 1, 0).clamp(0, bins - 1).long()
        self.arrays["histogram"][cell] += torch.bincount(place, minlength=bins).numpy()

    def value(self, intervals: bool = True) -> Arrays:
        """Variances, their medians and both fits."""
        found = super().value(intervals)
        median = medians(self.arrays["histogram"])
        fitted = median if self.options["fit"] == "median" else found[self.name]
        rate, rate_r2 = growth(fitted, np.arange(len(fitted), dtype=float))
        with np.errstate(divide="ignore"):
            power, power_r2 = growth(fitted, np.log(np.arange(len(fitted))))
        more = {
            "median": median,
            "rate": rate,
            "rate_r2": rate_r2,
            "power": power,
            "power_r2": power_r2,
        }
        return found | {f"{self.name}_{name}": np.asarray(value) for name, value in more.items()}


def medians(histogram: np.ndarray) -> np.ndarray:
    """Medians [point] of variances counted in bins of their logarithm, ``[point, bin]``."""
    total = histogram.sum(1)
    middle = np.argmax(histogram.cumsum(1) * 2 >= total[:, None], axis=1)
    values = 2.0 ** (OCTAVES[0] + (middle + 0.5) / BINS_AN_OCTAVE)
    return np.where(total > 0, values, np.nan)


def growth(variance: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """Slope and R2 of the straight line through log variance over x, from `FIRST_FITTED` on.

    NaN with fewer than three points.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(variance[FIRST_FITTED:])
    x = x[FIRST_FITTED:]
    if len(y) < 3 or not np.isfinite(y).all():
        return float("nan"), float("nan")
    slope, offset = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - slope * x - offset) ** 2).sum())
    return float(slope), 1 - rest / spread if spread > 0 else 1.0
