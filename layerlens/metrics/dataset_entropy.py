"""How many directions the texts of a corpus use: entropy of their mean states."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.entropy import SKEAN, renyi
from layerlens.metrics.registry import register
from layerlens.metrics.sample import Sample
from layerlens.metrics.textmeans import centred, gram, shares, unit


@register
class DatasetEntropy(Sample):
    """Matrix-based entropy of the mean states of texts."""

    name = "dataset_entropy"
    question = "Over how many directions do different texts spread?"
    formula = (
        "entropy as matrix_entropy of Z, the mean states of (a sample of) texts less their mean, "
        "each of length 1; _share: over log min(texts, d_model); _rank: exp of the entropy"
    )
    units = "nats"
    axes = ("point",)
    source = SKEAN
    outputs: ClassVar[Mapping[str, Output]] = {
        "dataset_entropy": Output(("point",), "nats", "entropy of the texts", interval=False),
        "dataset_entropy_share": Output(
            ("point",), "1", "entropy of the texts, share of what is possible", interval=False
        ),
        "dataset_entropy_rank": Output(
            ("point",), "directions", "effective rank of the texts", interval=False
        ),
    }
    unit = "text"
    fewest = 2

    def __init__(
        self,
        shape: ModelShape,
        *,
        sample: int = 512,
        alpha: float = 1.0,
        normalize: bool = True,
    ) -> None:
        if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
            raise InputError(f"alpha is {alpha}; expected a number above 0, 1 for Shannon entropy.")
        super().__init__(shape, sample=sample, alpha=alpha, normalize=normalize)

    def compute(self, states: Tensor) -> Arrays:
        """Entropy, its share, its exponential at every point."""
        found = []
        for point in range(states.shape[1]):
            rows = states[:, point].double()
            if self.options["normalize"]:
                rows = unit(centred(rows))
            found.append(float(renyi(shares(gram(rows)), self.options["alpha"])))
        entropy = np.array(found)
        most = math.log(min(len(states), states.shape[2]))
        share = entropy / most if most else np.full_like(entropy, np.nan)
        values = (entropy, share, np.exp(entropy))
        return dict(zip(self.outputs, values, strict=True))
