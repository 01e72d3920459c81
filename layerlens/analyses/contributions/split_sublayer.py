"""Split what one sublayer adds to a logit into heads, source positions or neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.frozen_norm import freeze
from layerlens.errors import ModelError
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.run.forward import through_scales

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

UNIT_SITES = {
    "component": (),
    "head": ("z",),
    "source": ("z", "v", "pattern"),
    "neuron": ("mlp_post",),
}
"""For each unit, the kinds of sites that it is split by, beside what the sublayers add."""

_OUTPUT = {"z": "attn_out", "mlp_post": "mlp_out"}


def unit_sites(model: LensModel, unit: str) -> list[Site]:
    """Sites that a split into units needs, in the blocks that have them all.

    Raises
    ------
    ModelError
        If no block has them, with the reason.
    """
    kinds = UNIT_SITES[unit]
    available = set(model.anatomy.available())
    layers = [
        layer
        for layer in range(model.n_layers)
        if all(Site(kind, layer) in available for kind in kinds)
    ]
    if kinds and not layers:
        why = {
            "head": "no block's heads can be told apart in what its attention adds",
            "source": "no block has heads whose pattern can be read",
            "neuron": "no block has a dense MLP whose hidden units can be read",
        }[unit]
        raise ModelError(
            f"{model.name} cannot be split by {unit}: {why}; unit='component' works here."
        )
    return [Site(kind, layer) for layer in layers for kind in kinds]


def split_sublayer(
    model: LensModel, site: Site, inside: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """Pull directions back through the projection that ends a sublayer.

    Where a norm stands behind the projection (sandwich norms), its statistics are held.

    Parameters
    ----------
    site
        ``z`` or ``mlp_post`` of a layer.
    inside
        Its value at the position, flat: what the projection is given.
    directions
        ``[target, d_model]`` float64, for what the sublayer adds to the stream.

    Returns
    -------
    pulled
        ``[target, width]`` float64; times ``inside`` it is each unit's part of the logits.
    constant
        ``[target]`` float64: the part of the biases.
    """
    block = model.anatomy.blocks[site.block]
    tap, path = block.taps[_OUTPUT[site.kind]], block.taps[site.kind].module
    directions = through_scales(model, tap, directions)
    constant = torch.zeros(len(directions), dtype=torch.float64)
    if is_norm(model.hf.get_submodule(tap.module)):
        with model.running():
            written: Tensor = model.hf.get_submodule(path)(inside.unsqueeze(0))[0]
        norm = freeze(model, tap.module, written)
        constant = constant + norm.constant(directions)
        directions = norm.pull(directions)
    projection = freeze(model, path, inside)
    return projection.pull(directions), constant + projection.constant(directions)


def by_head(z: Tensor, pulled: Tensor) -> Tensor:
    """Parts of the heads, ``[target, head]``.

    Parameters
    ----------
    z
        ``[head, width]`` at the position.
    pulled
        ``[target, head * width]``.
    """
    wide: Tensor = pulled.unflatten(-1, z.shape)
    return (wide * z.cpu().double()).sum(-1)


def by_source(v: Tensor, pattern: Tensor, pulled: Tensor) -> Tensor:
    """Parts of the positions that the heads look at, ``[target, head, source]``.

    Parameters
    ----------
    v
        ``[source, key-value head, width]``.
    pattern
        ``[head, source]`` of the position.
    pulled
        ``[target, head * width]``.

    Raises
    ------
    ModelError
        If values are not as wide as what the heads hand on.
    """
    heads, width = pattern.shape[0], v.shape[-1]
    if pulled.shape[-1] != heads * width:
        raise ModelError(
            f"The values are {width} wide and the heads' outputs {pulled.shape[-1] // heads}: what "
            "a head hands on is not a sum over positions here; use unit='head'."
        )
    values = v.cpu().double().repeat_interleave(heads // v.shape[1], dim=1)
    wide = pulled.unflatten(-1, (heads, width))
    return torch.einsum("hs,shw,thw->ths", pattern.cpu().double(), values, wide)
