"""Attribution patching: the effect of every patch at once, from one pass each way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import Metric
from layerlens.analyses.patching.grid import Part, PatchGrid, site_rows
from layerlens.analyses.patching.softmax_effects import query_key_effects
from layerlens.analyses.texts.text_pair import Pair
from layerlens.model.sites import Site
from layerlens.run.base import Base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.gradients import gradients

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

IN_THE_BLOCK = ("attn_out", "mlp_out", "z", "q", "k", "v", "rot_q", "rot_k", "pattern", "mlp_post")
"""Sites whose effect is gone where what their block writes is held."""


class Attribution:
    """Estimates of what patching does to one run.

    The effect of replacing an activation ``a`` by ``a'`` is estimated by ``(a' - a) . dm/da``
    (Nanda 2023; Syed et al. 2023), with the gradient taken in the run that is patched.

    Parameters
    ----------
    model, grid, pair
        What is patched.
    base, source
        The run that is patched and the one that activations are taken from, with the grid's
        sites recorded.
    metric
        Must have a gradient.
    tick
        Called between passes; may raise.

    Attributes
    ----------
    passes
        Passes used; a backward pass counts as two.
    """

    def __init__(
        self,
        model: LensModel,
        grid: PatchGrid,
        pair: Pair,
        base: Base,
        source: Base,
        metric: Metric,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._model, self._grid, self._pair = model, grid, pair
        self._base, self._source, self._metric = base, source, metric
        self._tick = tick
        self._paired = [t for t, partner in enumerate(pair.partner) if partner is not None]
        self._partners = [partner for partner in pair.partner if partner is not None]
        self.passes = 0.0

    def gradients(
        self,
        sites: Iterable[Site],
        changes: Sequence[Change] = (),
        held: Sequence[Change] = (),
    ) -> dict[Site, Tensor]:
        """Gradient of the metric at each site in the run that is patched, float32 or wider."""
        self._tick()
        tokens = self._base.tokens
        _, found = gradients(self._model, tokens, sites, self._metric, changes, held=held)
        self.passes += 3
        work = torch.promote_types(torch.float32, self._model.dtype)
        return {site: gradient.to(work) for site, gradient in found.items()}

    def along_path(self, steps: int) -> dict[Site, Tensor]:
        """Mean gradient over runs whose embeddings lie between those of the two texts.

        The midpoint rule (Sundararajan et al. 2017, integrated gradients; Hanna et al. 2024 for
        edges of a circuit): with ``steps`` 1 still the run half way. With enough steps the
        effects of the embeddings add up to the difference between the two runs.
        """
        site = self._model.anatomy.entry
        here = site_rows(self._base.trace, site)[self._paired]
        there = site_rows(self._source.trace, site)[self._partners]
        total: dict[Site, Tensor] = {}
        for step in range(steps):
            share = (step + 0.5) / steps
            value = here + share * (there - here)
            change = Change(site, "set", value, tuple(self._paired))
            for name, gradient in self.gradients(self._grid.sites, [change]).items():
                total[name] = total.get(name, 0) + gradient / steps
        return total

    def without_layer(self, layer: int, writes: Base) -> dict[Site, Tensor]:
        """Gradients that do not flow through what one block writes (AtP*'s GradDrop).

        Parameters
        ----------
        writes
            The run that is patched, with ``attn_out`` and ``mlp_out`` of the block recorded.
        """
        every = tuple(range(self._base.length))
        held = [
            Change(site, "set", site_rows(writes.trace, site), every)
            for site in block_writes(self._model, layer)
        ]
        return self.gradients(self._grid.sites, held=held)

    def effects(self, found: dict[Site, Tensor]) -> dict[Site, Tensor]:
        """Effect of each part of each site, ``[position]``, or with an axis of heads or neurons.

        Summed over the width of a head (of a key for ``pattern``), or of the whole site.
        """
        effects = {}
        for site, gradient in found.items():
            product = torch.zeros_like(gradient)
            moved = site_rows(self._source.trace, site)[self._partners].to(gradient)
            moved = moved - site_rows(self._base.trace, site)[self._paired].to(gradient)
            product[self._paired] = moved * gradient[self._paired]
            effects[site] = product if self._grid.by == "neuron" else product.sum(-1)
        return effects

    def small_step(
        self, site: Site, share: float, measure: Callable[[Sequence[Cell]], np.ndarray]
    ) -> float:
        """Rise of the metric for the whole site's way to the other run, from a small step.

        Parameters
        ----------
        share
            Of the way, taken forwards and backwards.
        measure
            Metric of some cells.
        """
        way = site_rows(self._source.trace, site)[self._partners]
        way = way - site_rows(self._base.trace, site)[self._paired]
        cells = [
            Cell((Change(site, "add", sign * share * way, tuple(self._paired)),))
            for sign in (1, -1)
        ]
        ahead, back = measure(cells)
        self.passes += 2
        return float(ahead - back) / (2 * share)

    def query_key(self, positions: Sequence[int]) -> dict[Site, Tensor]:
        """Effects of queries or keys with the softmax computed anew (AtP*'s QK fix).

        The gradient with respect to the scores vanishes where the softmax is saturated, though
        a patch may well move it; with respect to the pattern it does not.
        """
        sites = [Site("pattern", site.layer) for site in self._grid.sites]
        found = self.gradients(sites)
        self._tick()
        self.passes += 2
        return query_key_effects(
            self._model, self._grid, self._pair, self._base, self._source, found, positions
        )


def block_writes(model: LensModel, layer: int) -> list[Site]:
    """What a block adds to the stream: sites that exist in it."""
    taps = model.anatomy.blocks[layer].taps
    return [Site(kind, layer) for kind in ("attn_out", "mlp_out") if kind in taps]


def part_effect(
    grid: PatchGrid, effects: dict[Site, Tensor], part: Part, live: Sequence[int]
) -> float:
    """Effect of one part of the grid, at the positions where it can have one."""
    layer = None if grid.kind == "embed" else part.layer
    values = effects[Site(grid.kind, layer)][list(live)]
    if grid.by == "neuron":
        return float(values[:, part.neuron].sum())
    if part.head is not None:
        return float(values[:, part.head].sum())
    if grid.heads is not None:
        values = values[:, [head for head in grid.heads if head < values.shape[1]]]
    return float(values.sum())
