"""How one layer mixes positions, as a matrix: by its weights alone, or by what they move."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from layerlens.analyses.attention.handed_over import HandedOver
from layerlens.analyses.contributions.frozen_norm import freeze_rows

Mixing = Callable[[HandedOver, Tensor], Tensor]
"""From a block's vectors and a pattern ``[head, query, key]`` to ``[query, key]`` float64."""


def shares(values: Tensor) -> Tensor:
    """Rows of numbers from 0, divided by their sums; a row of zeros stays its own position's."""
    total = values.sum(-1, keepdim=True)
    return torch.where(total > 0, values / total, torch.eye(len(values), dtype=values.dtype))


def mean_of_heads(pattern: Tensor, residual: float) -> Tensor:
    """Rollout's matrix: the mean of the heads, and the share of the residual connection.

    Parameters
    ----------
    pattern
        ``[head, query, key]``; where a learnt sink that is no token takes a share, rows are made
        to sum to 1 again.
    residual
        Share of a position's own state.
    """
    mean = shares(pattern.cpu().double().mean(0))
    return residual * torch.eye(len(mean), dtype=mean.dtype) + (1 - residual) * mean


def lengths(handed: HandedOver, pattern: Tensor) -> Tensor:
    """Share of each vector's length (Kobayashi et al. 2021), rows summing to 1."""
    found = [vectors.norm(dim=-1).cpu().double() for _, vectors in handed.vectors(pattern)]
    return shares(torch.cat(found))


def nearness(handed: HandedOver, pattern: Tensor) -> Tensor:
    """How much nearer each vector brings the sum to zero in L1 (ALTI, Ferrando et al. 2022)."""
    found = []
    for here, vectors in handed.vectors(pattern):
        whole = (vectors.sum(1) + handed.constant[here]).unsqueeze(1)
        far = whole.abs().sum(-1) - (whole - vectors).abs().sum(-1)
        found.append(far.clamp(min=0).cpu().double())
    return shares(torch.cat(found))


def whole_encoder(handed: HandedOver, pattern: Tensor) -> Tensor:
    """Lengths behind both norms of a post-norm block, rows as they are (GlobEnc).

    The MLP itself is left out, its residual connection and the norm behind it are not
    (Modarressi et al. 2022).
    """
    path = handed.model.anatomy.blocks[handed.layer].post_norm
    assert path is not None  # `token_attribution` refuses other models
    summed = handed.raw["resid_mid"] + handed.raw["mlp_out"]
    norms = freeze_rows(handed.model, path, summed)
    found = []
    for here, vectors in handed.vectors(pattern):
        found.append(norms.at(here).push(vectors).norm(dim=-1).cpu().double())
    return torch.cat(found)


MIXINGS: dict[str, Mixing] = {"norm": lengths, "alti": nearness, "globenc": whole_encoder}
"""Methods that look at what is moved."""
