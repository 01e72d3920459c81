"""Whether a token keeps its state whatever stands around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.homogenisation import ETHAYARAJH
from layerlens.metrics.registry import register
from layerlens.metrics.sample import Sample
from layerlens.metrics.textmeans import unit


@register
class SelfSimilarity(Sample):
    """Likeness of a token's states in different contexts, against that of any two tokens."""

    name = "self_similarity"
    question = "Does a token keep its state whatever stands around it?"
    formula = (
        "mean over token types with several occurrences in the sample of their mean pairwise "
        "cosine, less _baseline, the mean cosine of sampled tokens of different texts; "
        "_standardized: the baseline after every dimension has mean 0 and variance 1"
    )
    units = "1"
    axes = ("point",)
    source = ETHAYARAJH
    outputs: ClassVar[Mapping[str, Output]] = {
        "self_similarity": Output(
            ("point",), "1", "cosine of a token with itself elsewhere, adjusted", interval=False
        ),
        "self_similarity_baseline": Output(
            ("point",), "1", "mean cosine between texts, sampled tokens", interval=False
        ),
        "self_similarity_standardized": Output(
            ("point",), "1", "mean cosine between texts, standardized", interval=False
        ),
    }

    def __init__(self, shape: ModelShape, *, sample: int = 1024) -> None:
        super().__init__(shape, sample=sample)

    def compute(self, states: Tensor) -> Arrays:
        """All three at every point; NaN where no token occurs twice, or there is one text."""
        ids, text = (torch.from_numpy(self.arrays[name]) for name in ("id", "text"))
        types, counts = _types(ids)
        apart = text[:, None] != text
        found = np.full((3, states.shape[1]), np.nan)
        for point in range(states.shape[1]):
            rows = states[:, point].double()
            baseline = _mean_cosine(rows, apart)
            again = _within_types(unit(rows), types, counts)
            spread = rows - rows.mean(0)
            size = spread.square().mean(0).sqrt()
            spread = spread / torch.where(size > 0, size, 1.0)
            found[:, point] = again - baseline, baseline, _mean_cosine(spread, apart)
        return dict(zip(self.outputs, found, strict=True))


def _types(ids: Tensor) -> tuple[Tensor, Tensor]:
    """For each token the number of its type among those in the sample, and occurrences of each."""
    _, types, counts = ids.unique(return_inverse=True, return_counts=True)
    return types, counts


def _mean_cosine(rows: Tensor, pairs: Tensor) -> float:
    """Mean cosine over the pairs marked; NaN where there are none."""
    rows = unit(rows)
    return float((rows @ rows.T)[pairs].mean())


def _within_types(rows: Tensor, types: Tensor, counts: Tensor) -> float:
    """Mean over types that occur several times of their mean pairwise cosine."""
    sums = rows.new_zeros(len(counts), rows.shape[1]).index_add_(0, types, rows)
    pairs = (counts * (counts - 1)).double()
    real = counts > 1
    return float(((sums.square().sum(-1) - counts)[real] / pairs[real]).mean())
