"""Effects of queries and keys through a softmax that is computed anew (AtP*'s QK fix)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.patching.grid import PatchGrid, site_rows
from layerlens.analyses.texts.text_pair import Pair
from layerlens.model.sites import Site
from layerlens.run.base import Base
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


QUERY_KEY = ("q", "k", "rot_q", "rot_k")
"""Kinds of sites whose effects go through a softmax."""


def query_key_effects(
    model: LensModel,
    grid: PatchGrid,
    pair: Pair,
    base: Base,
    source: Base,
    gradients: dict[Site, Tensor],
    positions: Sequence[int],
) -> dict[Site, Tensor]:
    """Change of the attention pattern by each patch, times the gradient with respect to it.

    Kramár et al. (2024), AtP*, section 3.1. One pass gives all layers: every block is given the
    state of the run that is patched and, inside, the other run's queries (or keys). A query
    decides its own row of the pattern, so the rows of that pass are those of single patches; a
    key decides a column of the scores, from which the row with that one score changed follows.

    Parameters
    ----------
    gradients
        By ``pattern`` site, ``[query, head, key]``.
    positions
        Those that are patched, all with a partner.

    Returns
    -------
    dict
        For each site of the grid ``[position, head]`` (key-value heads for keys). Where the
        grid's cells patch all keys at once, the whole effect stands at the first position.
    """
    before = _attention(model, base, grid, [])
    after = _attention(model, base, grid, _held(model, grid, pair, base, source, positions))
    effects = {}
    for site in grid.sites:
        scores, pattern = (Site(kind, site.layer) for kind in ("attn_scores", "pattern"))
        gradient = gradients[pattern]
        old, new = before[pattern].to(gradient), after[pattern].to(gradient)
        query = site.kind in ("q", "rot_q")
        if query or "position" not in grid.axes:
            moved = ((new - old) * gradient).sum(-1)
            effect = moved if query else _at_first(moved, positions)
        else:
            rise = _rise(before[scores].to(gradient), after[scores].to(gradient))
            effect = _column_effects(old, rise, gradient)
        if not query:
            effect = effect.unflatten(1, (grid.n_heads(site.block), -1)).sum(-1)
        effects[site] = effect
    return effects


def _held(
    model: LensModel,
    grid: PatchGrid,
    pair: Pair,
    base: Base,
    source: Base,
    positions: Sequence[int],
) -> list[Change]:
    """Edits that keep every block's state and replace its queries or keys."""
    every = tuple(range(base.length))
    partners = [partner for t in positions if (partner := pair.partner[t]) is not None]
    states = [
        Change(Site("resid_pre", layer), "set", base.state(layer), every)
        for layer in range(model.n_layers)
    ]
    swapped = [
        Change(site, "set", site_rows(source.trace, site)[partners], tuple(positions))
        for site in grid.sites
        if partners
    ]
    return states + swapped


def _attention(
    model: LensModel, base: Base, grid: PatchGrid, changes: Sequence[Change]
) -> dict[Site, Tensor]:
    """Scores and pattern of the grid's layers, ``[query, head, key]``."""
    found: dict[Site, Tensor] = {}
    sites = [Site(kind, s.layer) for s in grid.sites for kind in ("attn_scores", "pattern")]

    def keep(site: Site, values: Tensor) -> None:
        found[site] = values[0].transpose(0, 1).clone()

    forward(model, base.tokens, sites, keep, logits=None, changes=changes)
    return found


def _rise(old: Tensor, new: Tensor) -> Tensor:
    """By how much each score changes; 0 where a key is masked."""
    return torch.where(torch.isfinite(old) & torch.isfinite(new), new - old, 0.0)


def _column_effects(old: Tensor, rise: Tensor, gradient: Tensor) -> Tensor:
    """Effect ``[key, head]`` of changing one column of the scores at a time.

    If the score of key ``j`` rises by ``s``, its weight ``p_j`` becomes ``p_j e^s / Z`` and every
    other weight of the row is divided by ``Z = 1 + p_j (e^s - 1)``.
    """
    rise = rise.clamp(max=80.0)  # e**80 is far past any weight, and still finite
    grown = rise.exp()
    norm = 1 + old * (grown - 1)
    row = (old * gradient).sum(-1, keepdim=True)
    own = old * gradient
    moved = own * (grown / norm - 1) + (1 / norm - 1) * (row - own)
    return moved.sum(0).transpose(0, 1)


def _at_first(moved: Tensor, positions: Sequence[int]) -> Tensor:
    """The whole effect ``[query, head]`` at the first patched position."""
    effect = torch.zeros_like(moved)
    effect[positions[0]] = moved.sum(0)
    return effect
