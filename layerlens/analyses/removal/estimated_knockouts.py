"""What gradients say of blocked attention before any is blocked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.sweeps.estimates import flat
from layerlens.errors import LayerLensError
from layerlens.model.abilities import ABILITIES
from layerlens.model.sites import Site
from layerlens.run.gradients import GRADIENT_PASSES, gradients

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.analyses.removal.blocked_keys import Look
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.base import Base


SINK_ROUNDINGS = 16
"""By how many roundings a row may miss 1 before a sink is taken to have the rest."""


class KnockoutEstimate:
    """First-order effects of hiding positions from one query, in one text.

    What is left of the query's row is known exactly in each layer (the softmax shares it out), so
    the pattern's change there times the metric's derivative by the pattern is summed over heads
    and layers, as AtP* does for keys (Kramár et al. 2024). What it leaves out: that blocked layers
    change what later ones look at, and the bend of what follows.

    Parameters
    ----------
    model, base, metric
        The run, and what is measured.
    query
        The position that is blocked from looking.
    looks
        What its heads look at, layer by layer.

    Attributes
    ----------
    lack
        Why there is no estimate, in words that go on after a colon; "" where there is one.
    passes
        Passes used.
    """

    def __init__(
        self, model: LensModel, base: Base, metric: Metric, query: int, looks: Mapping[int, Look]
    ) -> None:
        self.passes = 0.0
        words = ABILITIES["gradients"](model)
        self.lack = f"{model.name} {words}" if words else flat(metric.name, "noise")
        if self.lack:
            return
        sites = {layer: Site("pattern", layer) for layer in looks}
        try:
            _, found = gradients(model, base.tokens, sites.values(), metric, rows=[query])
        except (LayerLensError, RuntimeError) as error:  # without a derivative
            self.lack = str(error).splitlines()[0].rstrip(".")
            return
        self.passes = GRADIENT_PASSES
        self._slopes = {layer: found[site][0].cpu().double() for layer, site in sites.items()}
        self._looks = looks

    def change(self, keys: Sequence[int], layers: Sequence[int]) -> float:
        """Estimated change of the metric where these keys are blocked in these layers."""
        return float(np.sum([self._of_layer(list(keys), layer) for layer in layers]))

    def _of_layer(self, keys: list[int], layer: int) -> float:
        old = self._looks[layer].pattern
        return float(((without(old, keys) - old) * self._slopes[layer]).sum())


def without(pattern: Tensor, keys: list[int]) -> Tensor:
    """Rows ``[head, key]`` as the softmax leaves them where some keys are blocked.

    What the blocked keys had is shared out among the others, and a sink where there is one.
    """
    left = pattern.double()
    sink = 1 - left.sum(-1, keepdim=True)
    sink = sink.where(sink > SINK_ROUNDINGS * torch.finfo(pattern.dtype).eps, 0.0)
    left[:, keys] = 0
    return left / (left.sum(-1, keepdim=True) + sink).clamp(min=torch.finfo(left.dtype).tiny)
