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
from layerlens.metrics.textmeans import TextMeans, TextState, centred, gram

SKEAN = (
    "Skean et al. (2025), Layer by Layer: Uncovering Hidden Representations in Language Models, "
    "arXiv 2502.02013"
)
NORMALIZED = "Z: states less their mean over the text's tokens, each of length 1"


def renyi(shares: Tensor, alpha: float = 1.0) -> float:
    """Rényi entropy in nats of shares that sum to 1; 0 where there are none.

    ``(1 / (1 - alpha)) log sum_i p_i^alpha``; its limit ``-sum_i p_i log p_i`` for ``alpha`` 1.
    """
    if not len(shares):
        return 0.0
    if alpha == 1:
        return float(torch.special.entr(shares).sum())
    return float((shares**alpha).sum().log()) / (1 - alpha)


class _Entropy(TextMeans):
    """Of the spectrum of each text."""

    def __init__(self, shape: ModelShape, *, alpha: float = 1.0, normalize: bool = True) -> None:
        if not (isinstance(alpha, int | float) and 0 < alpha < math.inf):
            raise InputError(f"alpha is {alpha}; expected a number above 0, 1 for Shannon entropy.")
        super().__init__(shape, alpha=alpha, normalize=normalize)

    def entropy(self, text: TextState) -> float:
        """In nats."""
        found = text.normalized_spectrum if self.options["normalize"] else text.raw_spectrum
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

    def measure(self, text: TextState) -> tuple[float, float]:
        """Entropy, and its share of the logarithm of the smaller side."""
        found = self.entropy(text)
        most = math.log(min(text.rows.shape))
        return found, found / most if most else math.nan


@register
class EffectiveRank(_Entropy):
    """Exponential of the matrix-based entropy."""

    name = "effective_rank"
    question = "How many directions do the tokens of a text use, about?"
    formula = f"mean over texts of exp S, S: matrix_entropy; {NORMALIZED}"
    units = "directions"
    source = "Roy and Vetterli (2007), The effective rank: a measure of effective dimensionality"
    long_name = "effective rank of a text's tokens"

    def measure(self, text: TextState) -> tuple[float]:
        """The exponential of the entropy."""
        return (math.exp(self.entropy(text)),)


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

    def measure(self, text: TextState) -> tuple[float]:
        """From the Gram matrix; NaN where all tokens have one state."""
        rows = centred(text.rows)
        if self.options["standardize"]:
            size = rows.norm(dim=0)
            rows = rows / torch.where(size > 0, size, 1.0)
        squares = rows.square().sum()
        if squares == 0:
            return (math.nan,)
        return (float(squares**2 / gram(rows).square().sum()),)
