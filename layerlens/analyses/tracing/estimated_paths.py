"""What gradients say of every sender's path to the receiver before any is patched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.sweeps.estimates import flat
from layerlens.errors import LayerLensError
from layerlens.model.abilities import ABILITIES
from layerlens.run.gradients import GRADIENT_PASSES, derivatives, gradients

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.analyses.tracing.head_edges import Edges
    from layerlens.model.sites import Site


class PathEstimate:
    """First-order effects of the paths of all senders of one pair.

    The sender's way to its value in the other run, times the derivative of the metric by it while
    every head is held (edge attribution patching, Syed et al. 2023), so that only the stream and
    the MLPs carry it on. Where heads receive it is the derivative by what they are given, carried
    back along the same way.

    Parameters
    ----------
    edges, metric
        What is patched, and what is measured.
    direction
        Of the pair.

    Attributes
    ----------
    lack
        Why there is no estimate, in words that go on after a colon; "" where there is one.
    passes
        Passes used.
    """

    def __init__(self, edges: Edges, metric: Metric, direction: str) -> None:
        self._edges, self._metric = edges, metric
        self.passes = 0.0
        words = ABILITIES["gradients"](edges.model)
        self.lack = f"{edges.model.name} {words}" if words else flat(metric.name, direction)

    def changes(self, senders: Sequence[Site]) -> np.ndarray | None:
        """Estimated change of the metric for each sender, [sender] float64; None where none is."""
        if self.lack:
            return None
        try:
            found = self._slopes(list(dict.fromkeys(site.whole for site in senders)))
        except (LayerLensError, RuntimeError) as error:  # without a derivative
            self.lack = str(error).splitlines()[0].rstrip(".")
            return None
        return np.array([self._change(sender, found[sender.whole]) for sender in senders])

    def _slopes(self, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Derivative of the metric by each sender, with every head held on the way."""
        edges = self._edges
        model, tokens = edges.model, edges.base.tokens
        held = edges.held(-1, range(edges.length))
        if not edges.receivers:
            self.passes += GRADIENT_PASSES
            return gradients(model, tokens, sites, self._metric, held)[1]
        read = list(dict.fromkeys(site.whole for site in edges.receivers))
        _, slopes = gradients(model, tokens, read, self._metric)

        def received(values: Mapping[Site, Tensor]) -> Tensor:
            parts = [
                (values[site.whole][0, :, site.head] * slopes[site.whole][:, site.head]).sum()
                for site in edges.receivers
            ]
            return torch.stack(parts).sum()

        before = [change for change in held if change.site.block < edges.end]
        self.passes += 2 * GRADIENT_PASSES
        return derivatives(model, tokens, sites, read, received, before)[1]

    def _change(self, sender: Site, slope: Tensor) -> float:
        here = [place for place, _ in self._edges.positions]
        slope = slope[here].double()
        moved = self._edges.moved(sender).to(slope)
        return float((moved * (slope if sender.head is None else slope[:, sender.head])).sum())
