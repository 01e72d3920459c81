"""On how many dimensions the states lie: by distances to neighbours, and by their variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.cka import hsic
from layerlens.metrics.registry import register
from layerlens.metrics.sample import Sample

SAME = 1e-5
"""States nearer than this share of the root mean square distance count as one."""
DISCARDED = 0.1
"""Share of the largest ratios that the fit leaves out."""


def squared_distances(rows: Tensor) -> Tensor:
    """Of all pairs: [n, n] float64, infinite on the diagonal."""
    rows = rows - rows.mean(0)
    square = rows.square().sum(-1)
    found = (square[:, None] + square - 2 * rows @ rows.T).clamp(min=0)
    return found.fill_diagonal_(torch.inf)


def distinct(squared: Tensor) -> Tensor:
    """Indices of states without those that an earlier one equals up to rounding."""
    n = len(squared)
    finite = squared.isfinite()
    mean = float(squared[finite].mean()) if finite.any() else 0.0
    same = (squared <= SAME**2 * mean).tril(-1)
    return (~same.any(-1)).nonzero()[:, 0] if n else torch.empty(0, dtype=torch.int64)


def two_nn(squared: Tensor, estimator: str = "fit") -> float:
    """Intrinsic dimension from the distances to the two nearest neighbours.

    With ``mu`` the ratio of these, ``P(mu > x) = x^-d``. ``fit``: slope through the origin of
    ``-log(1 - i / N)`` over the sorted ``log mu_i``, the largest tenth left out. ``mle``:
    ``(N - 1) / sum log mu``.

    Parameters
    ----------
    squared
        [n, n] squared distances, infinite on the diagonal.

    Returns
    -------
    float
        NaN for fewer than four distinct states.
    """
    kept = distinct(squared)
    if len(kept) < 4:
        return math.nan
    nearest = squared[kept][:, kept].topk(2, dim=-1, largest=False).values
    logs = (nearest[:, 1].log() - nearest[:, 0].log()).sort().values / 2
    n = len(logs)
    if estimator == "mle":
        return (n - 1) / float(logs.sum())
    logs = logs[: int(n * (1 - DISCARDED))]
    heights = -torch.log1p(-torch.arange(1, len(logs) + 1, dtype=torch.float64) / n)
    return float((logs * heights).sum() / logs.square().sum())


def participation(rows: Tensor) -> float:
    """Participation ratio ``(tr C)^2 / tr C^2`` of the covariance, without the bias of few rows.

    ``tr C^2`` is estimated by HSIC_1 of the rows with themselves, whose expectation it is. NaN
    where that is not above 0.
    """
    n = len(rows)
    rows = rows - rows.mean(0)
    trace = float(rows.square().sum()) / (n - 1)
    squared = float(hsic(rows[None], rows[None])[0, 0])
    return trace**2 / squared if squared > 1e-12 * trace**2 else math.nan


def _parts(squared: Tensor, n: int, estimator: str) -> float:
    """Mean estimate of ``n`` disjoint parts of the sample."""
    size = len(squared) // n
    cuts = [slice(number * size, (number + 1) * size) for number in range(n)]
    found = np.array([two_nn(squared[cut, cut], estimator) for cut in cuts])
    return float(found.mean())


@register
class IntrinsicDimension(Sample):
    """Intrinsic dimension by two nearest neighbours."""

    name = "intrinsic_dimension"
    question = "On how many dimensions do the states lie, however curved?"
    formula = (
        "TwoNN: P(r2 / r1 > x) = x^-d of the two nearest neighbours of sampled tokens, fitted "
        "without the largest tenth (estimator 'mle': (N - 1) / sum log(r2 / r1)); equal states "
        "count once; _half, _quarter: mean over parts of the sample, the same if d does not "
        "depend on scale; _linear: participation ratio (tr C)^2 / tr(C^2) of the same sample, "
        "tr(C^2) without bias; too low above d of about 10"
    )
    units = "dimensions"
    axes = ("point",)
    source = "Facco et al. (2017), Estimating the intrinsic dimension of datasets, Sci. Rep. 7"
    outputs: ClassVar[Mapping[str, Output]] = {
        "intrinsic_dimension": Output(
            ("point",), "dimensions", "intrinsic dimension", interval=False
        ),
        "intrinsic_dimension_half": Output(
            ("point",), "dimensions", "intrinsic dimension of half the sample", interval=False
        ),
        "intrinsic_dimension_quarter": Output(
            ("point",), "dimensions", "intrinsic dimension of a quarter", interval=False
        ),
        "intrinsic_dimension_linear": Output(
            ("point",), "dimensions", "participation ratio of the sample", interval=False
        ),
    }

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 1024,
        unit: str = "token",
        estimator: str = "fit",
    ) -> None:
        if estimator not in ("fit", "mle"):
            raise InputError(f"estimator is {estimator!r}; expected 'fit' or 'mle'.")
        super().__init__(shape, sample=sample, unit=unit, estimator=estimator)

    def compute(self, states: Tensor) -> Arrays:
        """All four at every point."""
        rows = []
        for point in range(states.shape[1]):
            here = states[:, point].double()
            squared = squared_distances(here)
            parts = [_parts(squared, n, self.options["estimator"]) for n in (1, 2, 4)]
            rows.append([*parts, participation(here)])
        return dict(zip(self.outputs, np.array(rows).T, strict=True))
