"""How many directions the tokens of a text use: entropy and rank of their Gram matrix.

The published code clamps negative entries of the Gram matrix to zero before the
eigendecomposition, after which it is no Gram matrix any more; here it is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape, Output
from layerlens.metrics.registry import register
from layerlens.metrics.textmeans import TextMeans, TextStates, gram

SKEAN = (
    "Skean et al. (2025), Layer by Layer: Uncovering Hidden Representations in Language Models, "
    "arXiv 2502.02013"
)
NORMALIZED = "Z: states less their mean over the text's tokens, each of length 1"


def renyi(shares: Tensor, alpha: float = 1.0) -> Tensor:
    """Rényi entropies in nats of shares [..., n] that sum to 1; 0 where all are 0.

    ``(1 / (1 - alpha)) log sum_i p_i^alpha``; its limit ``-sum_i p_i log p_i`` for ``alpha`` 1.
    """
    if alpha == 1:
        entropy: Tensor = torch.special.entr(shares).sum(-1)
        return entropy
    total = (shares**alpha).sum(-1)
    return total.where(total > 0, 1.0).log() / (1 - alpha)


class _Entropy(TextMeans):
    """Of the spectrum of each text."""

    def __init__(self, shape: ModelShape, *, alpha: float = 1.0, normalize: bool = True) -> None:
        if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
            raise InputError(f"alpha is {alpha}; expected a number above 0, 1 for Shannon entropy.")
        super().__init__(shape, alpha=alpha, normalize=normalize)

    def entropy(self, texts: TextStates) -> Tensor:
        """In nats: [text]."""
        found = texts.normalized_shares if self.options["normalize"] else texts.raw_shares
        return renyi(found, self.options["alpha"])


@register
class MatrixEntropy(_Entropy):
    """Matrix-based entropy of the tokens of a text."""

    name = "matrix_entropy"
    question = "Over how many directions do the tokens of a text spread?"
    formula = (
        "mean over texts of S = log(sum_i p_i^alpha) / (1 - alpha) (alpha 1: -sum_i p_i log p_i), "
        f"p: eigenvalues of Z Z^T over their sum; {NORMALIZED} (normalize=False: as they are); "
        "_share: S / log min(tokens, d_model)"
    )
    units = "nats"
    source = SKEAN
    outputs: ClassVar[Mapping[str, Output]] = {
        "matrix_entropy": Output(("point",), "nats", "matrix-based entropy of a text's tokens"),
        "matrix_entropy_share": Output(
            ("point",), "1", "matrix-based entropy, share of what is possible"
        ),
    }

    def measure(self, texts: TextStates) -> tuple[Tensor, Tensor]:
        """Entropy, and its share of the logarithm of the smaller side."""
        found = self.entropy(texts)
        most = math.log(min(texts.rows.shape[-2:]))
        return found, found / most if most else torch.full_like(found, math.nan)


@register
class EffectiveRank(_Entropy):
    """Exponential of the matrix-based entropy."""

    name = "effective_rank"
    question = "How many directions do the tokens of a text use, about?"
    formula = f"mean over texts of exp S, S: matrix_entropy; {NORMALIZED}"
    units = "directions"
    source = "Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality"
    long_name = "effective rank of a text's tokens"

    def measure(self, texts: TextStates) -> tuple[Tensor]:
        """The exponential of the entropy."""
        return (self.entropy(texts).exp(),)


@register
class ParticipationRatio(TextMeans):
    """Participation ratio of the tokens of a text."""

    name = "participation_ratio"
    question = "How many directions carry the variance of a text's tokens?"
    formula = (
        "mean over texts of (tr C)^2 / tr(C^2), C: covariance of the text's states "
        "(standardize=True: their correlation); n tokens of isotropic states in d dimensions "
        "give about d / (1 + d / n)"
    )
    units = "directions"
    source = "Gao et al. (2017), A theory of multineuronal dimensionality, dynamics and measurement"
    long_name = "participation ratio of a text's tokens"

    def __init__(self, shape: ModelShape, *, standardize: bool = False) -> None:
        super().__init__(shape, standardize=standardize)

    def measure(self, texts: TextStates) -> tuple[Tensor]:
        """From the Gram matrix; NaN where all tokens have one state."""
        squares, kernel = texts.centred_size.square().sum(-1), texts.centred_gram
        if self.options["standardize"]:
            size = texts.centred.norm(dim=-2, keepdim=True)
            rows = texts.centred / size.where(size > 0, 1.0)
            squares, kernel = rows.square().sum((-2, -1)), gram(rows)
        return (squares**2 / kernel.square().sum((-2, -1)),)
