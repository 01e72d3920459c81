"""What gradients say of the removal of every part before any is removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.removal.removable_parts import Units
from layerlens.analyses.removal.replacements import Output
from layerlens.analyses.sweeps.estimates import flat
from layerlens.errors import LayerLensError
from layerlens.model.abilities import ABILITIES
from layerlens.model.sites import Site
from layerlens.run.gradients import GRADIENT_PASSES, gradients

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.run.base import Base


class RemovalEstimate:
    """First-order effects of putting something in place of each part's output, in one text.

    The effect of replacing an output ``a`` by ``a'`` is estimated by ``(a' - a) . dm/da``, with
    the gradient taken in the run as it is, summed over the positions where the part is removed
    (attribution patching, Nanda 2023; Syed et al. 2023, towards the replacement).

    Parameters
    ----------
    units
        What is removed.
    base
        The run, with the units' sites recorded.
    metric
        What is measured.
    where
        Positions where parts are removed.

    Attributes
    ----------
    lack
        Why there is no estimate, in words that go on after a colon; "" where there is one.
    passes
        Passes used.
    """

    def __init__(self, units: Units, base: Base, metric: Metric, where: Sequence[int]) -> None:
        self._units, self._base, self._where = units, base, list(where)
        self.passes = 0.0
        words = ABILITIES["gradients"](units.model)
        # An ablated run is compared with the very run that the gradient is taken in.
        self.lack = f"{units.model.name} {words}" if words else flat(metric.name, "noise")
        if self.lack:
            return
        sites = [Site(units.kind, layer) for layer in units.layers]
        try:
            _, self._found = gradients(units.model, base.tokens, sites, metric)
        except (LayerLensError, RuntimeError) as error:  # without a derivative
            self.lack = str(error).splitlines()[0].rstrip(".")
        self.passes = GRADIENT_PASSES

    def changes(self, output: Output) -> np.ndarray:
        """Estimated change of the metric for each unit, [unit] float64, in the units' order."""
        found = {layer: self._of_layer(layer, output(layer)) for layer in self._units.layers}
        return np.array([found[unit.layer][unit.index or 0] for unit in self._units])

    def _of_layer(self, layer: int, new: torch.Tensor | float) -> np.ndarray:
        units, columns = self._units, self._where
        gradient = self._found[Site(units.kind, layer)][columns].double()
        own = units.output(self._base.trace, layer)[columns].to(gradient)
        moved = (new.to(gradient) if isinstance(new, torch.Tensor) else new) - own
        product = moved * gradient
        if units.unit == "neuron":
            product = product.sum(0)
        elif units.unit == "head":
            product = product.sum((0, 2))
        else:
            product = product.sum()[None]
        values: np.ndarray = product.cpu().numpy()
        return values
