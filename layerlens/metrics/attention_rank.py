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
from layerlens.metrics.one_thread import one_thread
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
        self._even: tuple[Tensor, Tensor] | None = None

    def measure(self, pattern: Tensor, layer: Layer, rows: list[int]) -> Measured:
        """Ranks of the texts' patterns, each of which counts as one."""
        skip, most = layer.batch.skip_first, self.options["longest"]
        pattern = pattern[..., : max(most - skip, 1), :most]
        seen = visible(pattern)
        found = ranks(self._counted(pattern, skip))
        return {
            "attention_rank": (found[0], 1),
            "attention_rank_effective": (found[1], 1),
            "attention_rank_stable": (found[2], 1),
            "attention_rank_effective_chance": (self._chance(seen, skip), 1),
        }

    def _counted(self, pattern: Tensor, skip: int) -> Tensor:
        """A pattern [..., query, key] without what is not asked for."""
        if self.options["diagonal"]:
            return pattern
        return pattern.tril(skip - 1) + pattern.triu(skip + 1)

    def _chance(self, seen: Tensor, skip: int) -> Tensor:
        """Effective rank of even attention: once for all layers that see the same keys."""
        if self._even is None or not torch.equal(self._even[0], seen):
            self._even = seen, ranks(self._counted(even(seen), skip))[1]
        return self._even[1]


def ranks(pattern: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rank, effective rank and stable rank of matrices [..., query, key]: float64 on the CPU.

    The rank is that of ``torch.linalg.matrix_rank`` in float32; a matrix of zeros has none.

    Singular values are roots of the eigenvalues of the smaller Gram matrix in float64, whose
    rounding moves one at the threshold of the rank, ``size * 1e-7 s_1``, by ``1e-9 s_1 / size``.
    """
    rows = pattern.cpu().double()
    if rows.shape[-2] > rows.shape[-1]:
        rows = rows.mT
    with one_thread():
        squares = torch.linalg.eigvalsh(rows @ rows.mT)
    size = max(pattern.shape[-2:])
    noise = size * torch.finfo(squares.dtype).eps * squares[..., -1:]
    singular = squares.where(squares > noise, 0.0).sqrt()
    largest = singular[..., -1:]
    rounding = largest * size * torch.finfo(torch.float32).eps
    rank = (singular > rounding).sum(-1).double()
    share = singular / singular.sum(-1, keepdim=True)
    effective = torch.special.entr(share).sum(-1).exp()
    stable = (singular / largest).square().sum(-1)
    nothing = rank == 0
    return rank, effective.where(~nothing, 0.0), stable.where(~nothing, 0.0)
