"""Which layers deserve more bits: by what they do to the state, and by their weights alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, WeightMetric
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import TokenMean
from layerlens.metrics.registry import register
from layerlens.model.matrices import matrices, require_matrices

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

SOURCE = "Dumitru et al. (2024), Layer-Wise Quantization, arXiv 2406.17415"


@register
class LayerInputModification(TokenMean):
    """LIM score: minus the cosine of what a layer is given and what it gives."""

    name = "lim"
    question = "Which layers change their input most, and deserve more bits? (higher: more)"
    formula = "- mean over tokens of cos(pre, post), which is block_influence - 1"
    units = "1"
    source = SOURCE
    parts = ("pre", "post")
    long_name = "LIM score (minus the cosine of input and output)"

    def measure(self, layer: Layer) -> Tensor:
        """Minus the cosine of each token's states."""
        return -layer.cosine("pre", "post")


@register
class ZScoreDistribution(WeightMetric):
    """ZD score: the share of a layer's weights that lie far above their mean.

    Parameters
    ----------
    two_sided
        Count weights far below their mean too.
    pool
        Mean and deviation of all weights of the ``"layer"`` together, or of each ``"module"``
        (then the mean of the modules' shares). The published text leaves both open.
    """

    name = "zd"
    question = "Which layers have few large weights, and deserve more bits? (lower: more)"
    formula = "share of linear weights with (w - mean) / std > 1"
    units = "1"
    axes = ("layer",)
    source = SOURCE
    long_name = "ZD score (share of weights with z > 1)"

    def __init__(
        self,
        shape: ModelShape,
        *,
        two_sided: bool = False,
        pool: Literal["layer", "module"] = "layer",
    ) -> None:
        if pool not in ("layer", "module"):
            raise InputError(f"pool is 'layer' or 'module', not {pool!r}.")
        super().__init__(shape, two_sided=two_sided, pool=pool)

    def compute(self, model: LensModel, tick: Callable[[], None] = lambda: None) -> Arrays:
        """The share of each layer; NaN for one without matrices."""
        found = np.full(model.n_layers, np.nan)
        with torch.inference_mode():
            for layer in range(model.n_layers):
                tick()
                weights = [matrix.weight for matrix in matrices(model, layer)]
                if not weights:
                    continue
                groups = [weights] if self.options["pool"] == "layer" else [[w] for w in weights]
                found[layer] = np.mean([self._share(group) for group in groups])
        return {self.name: found}

    def _share(self, weights: list[Tensor]) -> float:
        """The share of these weights, taken together, with a large z."""
        size = sum(weight.numel() for weight in weights)
        mean = sum(float(weight.sum(dtype=torch.float64)) for weight in weights) / size
        square = sum(float(_off(weight, mean).square().sum()) for weight in weights)
        std = (square / size) ** 0.5
        if std == 0:
            return 0.0  # equal weights: none lies above their mean
        return sum(self._count(_off(weight, mean), std) for weight in weights) / size

    def _count(self, off: Tensor, std: float) -> int:
        far = off.abs() if self.options["two_sided"] else off
        return int((far > std).sum())

    @classmethod
    def missing(cls, model: LensModel) -> str | None:
        """Weights that are quantised have no such distribution."""
        try:
            require_matrices(model)
        except InputError as error:
            return str(error)
        return None


def _off(weight: Tensor, mean: float) -> Tensor:
    """How far weights are from a mean, float64."""
    # Apple's devices have no float64.
    return (weight if weight.device.type != "mps" else weight.cpu()).double() - mean
