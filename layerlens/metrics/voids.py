"""Voids: layers that, for a token, add too little to the norm of its state."""

from __future__ import annotations

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import TokenMean
from layerlens.metrics.registry import register


@register
class Voids(TokenMean):
    """Share of tokens for which a layer is void by the rule of L2 Adaptive Computation.

    Parameters
    ----------
    alpha
        Share of the range of earlier gains that a layer's gain has to reach, 0 to 1.
    """

    name = "voids"
    question = "For how many tokens does a layer add hardly anything to the norm of the state?"
    formula = (
        "share of tokens with d_l < alpha * (max_j<l d_j - min_j<l d_j), d_l = ||post_l|| - "
        "||pre_l||; the first layer is void when d_0 < 0"
    )
    units = "1"
    source = "Shemiranifar (2025), Void in Language Models, arXiv 2505.14467"
    parts = ("pre", "post")
    long_name = "share of tokens for which the layer is void"

    def __init__(self, shape: ModelShape, *, alpha: float = 0.8) -> None:
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha is {alpha}; expected a number from 0 to 1.")
        super().__init__(shape, alpha=alpha)
        self._rule = VoidRule(alpha)

    def start(self, batch: Batch) -> None:
        """Begin at the first layer."""
        self._rule = VoidRule(self.options["alpha"])

    def measure(self, layer: Layer) -> Tensor:
        """1 for each token for which the layer is void, else 0."""
        return self._rule(layer.norm("post") - layer.norm("pre")).double()


class VoidRule:
    """Says layer after layer for which tokens it is void.

    Parameters
    ----------
    alpha
        As in `Voids`.

    Attributes
    ----------
    threshold
        [n], what the last layer's gains had to reach; 0 for the first layer.

    Examples
    --------
    >>> rule = VoidRule(0.8)
    >>> [bool(rule(torch.tensor([gain]))) for gain in (2.0, 1.0, 7.0, 1.0)]
    [False, False, False, True]
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.threshold = torch.zeros(0)
        self._least: Tensor | None = None
        self._most: Tensor | None = None

    def __call__(self, gain: Tensor) -> Tensor:
        """Whether the next layer, with this gain of the norm [n], is void: [n] bool."""
        if self._least is None or self._most is None:
            self._least = self._most = gain
            self.threshold = torch.zeros_like(gain)
            return gain < 0
        self.threshold = self.alpha * (self._most - self._least)
        void = gain < self.threshold
        self._least = torch.minimum(self._least, gain)
        self._most = torch.maximum(self._most, gain)
        return void
