"""The features of a dictionary that write nearly the same, and how near chance comes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from layerlens.analyses.features.sae_metrics import CONTROL


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest first.

    Attributes
    ----------
    numbers, cosines
        ``[k]``: of features, and the cosines of their decoder rows with that of the feature.
    by_chance
        ``[k]``: cosines of the rows that are nearest to a random direction.
    """

    numbers: Tensor
    cosines: Tensor
    by_chance: Tensor


def neighbours(rows: Tensor, number: int, k: int) -> Neighbours:
    """Find the decoder rows ``[feature, width]`` that point most the way one of them does.

    Examples
    --------
    >>> rows = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0]])
    >>> neighbours(rows, 0, 2).numbers.tolist()
    [1, 2]
    """
    rows = normalize(rows, dim=1)
    cosines = rows @ rows[number]
    cosines[number] = -torch.inf
    best = cosines.topk(min(k, len(rows) - 1))
    drawn = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(CONTROL))
    chance = (rows @ normalize(drawn, dim=0)).topk(len(best.indices)).values
    return Neighbours(best.indices, best.values, chance)
