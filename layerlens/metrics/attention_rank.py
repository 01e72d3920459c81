"""How many different mixtures of tokens a head makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.attention_several import (
    CONTROL,
    HEADS,
    LAYERS,
    Measured,
    SeveralMeans,
    even,
    visible,
)
from layerlens.metrics.base import ModelShape, Output
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register
from layerlens.model.integers import whole


@register
class AttentionRank(SeveralMeans):
    """Rank of a head's pattern: how many different mixtures of tokens it hands on.

    The plain rank counts every singular value that is not rounding, and says little of soft
    patterns, which nearly all have full rank; the effective rank weighs them, and so does the
    stable rank. All grow with the length of the text: compare texts of one length.

    Parameters
    ----------
    diagonal
        Keep each token's attention to itself. Without it, as published, a causal pattern does
        not have full rank for that alone.
    longest
        Of longer texts, so many tokens from the beginning: the time grows with the third power.
    """

    name = "attention_rank"
    question = "Do a head's queries get different mixtures of tokens, or all the same?"
    formula = (
        "number of singular values s of the pattern above s_1 * size * eps; effective: exp of the "
        "entropy of s / sum s; stable: sum s^2 / s_1^2; _chance: with the same attention for every "
        "key that can be seen"
    )
    units = "1"
    source = (
        "Luo et al. (2024), gamma-MoD, arXiv 2410.13859 (rank without the diagonal); Roy and "
        "Vetterli (2007), The Effective Rank; Rudelson and Vershynin (2007) (stable rank)"
    )
    outputs: ClassVar[Mapping[str, Output]] = {
        "attention_rank": Output(HEADS, units, "rank of a head's pattern"),
        "attention_rank_effective": Output(HEADS, units, "effective rank of a head's pattern"),
        "attention_rank_stable": Output(HEADS, units, "stable rank of a head's pattern"),
        "attention_rank_effective_chance": Output(
            LAYERS, units, f"effective rank {CONTROL}", interval=False
        ),
    }

    def __init__(self, shape: ModelShape, *, diagonal: bool = False, longest: int = 256) -> None:
        longest = whole(longest, "longest")
        if longest < 2:
            raise InputError(f"longest is {longest}; expected 2 tokens or more.")
        super().__init__(shape, diagonal=bool(diagonal), longest=longest)

    def measure(self, pattern: Tensor, layer: Layer, row: int) -> Measured:
        """Ranks of a text's patterns, which count as one."""
        skip, most = layer.batch.skip_first, self.options["longest"]
        pattern = pattern[:, : max(most - skip, 1), :most]
        control = even(visible(pattern))
        if not self.options["diagonal"]:
            own = torch.ones_like(control, dtype=torch.bool).tril(skip).triu(skip)
            pattern, control = pattern.masked_fill(own, 0), control.masked_fill(own, 0)
        found = ranks(pattern)
        return {
            "attention_rank": (found[0], 1),
            "attention_rank_effective": (found[1], 1),
            "attention_rank_stable": (found[2], 1),
            "attention_rank_effective_chance": (ranks(control)[1], 1),
        }


def ranks(pattern: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank, effective rank and stable rank of matrices [..., query, key]: float64 on the CPU.

    The rank is that of ``torch.linalg.matrix_rank`` in float32; a matrix of zeros has none.
    """
    singular = torch.linalg.svdvals(pattern.cpu())
    largest, size = singular[..., :1], max(pattern.shape[-2:])
    rounding = largest * size * torch.finfo(singular.dtype).eps
    rank = (singular > rounding).sum(-1).double()
    values = singular.double()
    share = values / values.sum(-1, keepdim=True)
    effective = torch.special.entr(share).sum(-1).exp()
    stable = values.square().sum(-1) / values[..., 0].square()
    nothing = rank == 0
    return rank, effective.where(~nothing, 0.0), stable.where(~nothing, 0.0)
