"""How alike the tokens of one text become, and those of different texts are anyway."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output
from layerlens.metrics.batch import GROUPS, Batch, accumulate
from layerlens.metrics.bootstrap import DRAWS, ends, resamples
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register
from layerlens.metrics.textmeans import TextMeans, TextStates, texts_of

DONG = "Dong, Cordonnier and Loukas (2021), Attention is not all you need, arXiv 2103.03404"
ETHAYARAJH = (
    "Ethayarajh (2019), How Contextual are Contextualized Word Representations?, arXiv 1909.00512"
)


@register
class Homogenisation(TextMeans):
    """How alike the tokens of a text are."""

    name = "homogenisation"
    question = "Do the tokens of a text become alike?"
    formula = (
        "mean over texts of (|sum_i u_i|^2 - n) / (n (n - 1)), u: states of length 1, n tokens; "
        "_residual: mean over texts of |Z - mean Z| / |Z|, Frobenius norms (0: all the same)"
    )
    units = "1"
    source = DONG
    outputs: ClassVar[Mapping[str, Output]] = {
        "homogenisation": Output(("point",), "1", "mean cosine between tokens of a text"),
        "homogenisation_residual": Output(
            ("point",), "1", "share of a text's states that is not their mean"
        ),
    }

    def measure(self, texts: TextStates) -> tuple[Tensor, Tensor]:
        """Mean cosine of two tokens (NaN for less than two), and the residual ratio."""
        n = (texts.size > 0).sum(-1)
        pairs = (n * (n - 1)).double().where(n > 1, math.nan)
        cosine = (texts.direction_sum.square().sum(-1) - n) / pairs
        return cosine, texts.moved_size.norm(dim=-1) / texts.size.norm(dim=-1)


@register
class Anisotropy(LayerMetric):
    """Mean cosine between tokens of different texts, over all pairs."""

    name = "anisotropy"
    question = "Do all states point into one direction, whatever the text?"
    formula = (
        "mean cos(h_i, h_j) over all pairs of tokens of different texts; _within: over all pairs "
        "of tokens of the same text; _adjusted: _within less anisotropy"
    )
    units = "1"
    axes = ("point",)
    parts = ("pre", "post")
    source = ETHAYARAJH
    outputs: ClassVar[Mapping[str, Output]] = {
        "anisotropy": Output(("point",), "1", "mean cosine between tokens of different texts"),
        "anisotropy_within": Output(("point",), "1", "mean cosine between tokens of a text"),
        "anisotropy_adjusted": Output(
            ("point",), "1", "mean cosine between tokens of a text, less that between texts"
        ),
    }

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        points = shape.sizes["point"]
        self.zeros("sum", GROUPS, points, shape.d_model)
        # Of each text: tokens, tokens squared, squared length of the sum of its unit vectors.
        for name in ("tokens", "pairs", "square"):
            self.zeros(name, GROUPS, points)

    def update(self, layer: Layer) -> None:
        """Add the unit vectors after a layer, and before the first one those there too."""
        if layer.number == 0:
            self._add(layer, "pre", 0)
        self._add(layer, "post", layer.number + 1)

    def _add(self, layer: Layer, part: str, point: int) -> None:
        batch: Batch = layer.batch
        sums = torch.zeros(len(batch), self.shape.d_model, dtype=torch.float64)
        tokens = sums.new_zeros(len(batch))
        for rows, texts in texts_of(layer, part):
            sums[rows] = texts.direction_sum
            tokens[rows] = (texts.size > 0).sum(-1).double()
        cell = (point,)
        accumulate(self.arrays["sum"], batch.groups, cell, sums)
        accumulate(self.arrays["tokens"], batch.groups, cell, tokens)
        accumulate(self.arrays["pairs"], batch.groups, cell, tokens.square())
        accumulate(self.arrays["square"], batch.groups, cell, sums.square().sum(-1))

    def value(self, intervals: bool = True) -> Arrays:
        """Over all pairs; intervals by resampling texts, a text never being paired with itself."""
        ones = np.ones((1, GROUPS))
        if not intervals:
            # What the texts of all groups sum up to serves for all pairs at once.
            total = np.square(self.arrays["sum"].sum(0)).sum(-1)
            return self._shown(self._means(ones, total[None])[:, 0])
        found = self._shown(self._means(ones, self._crossed(ones))[:, 0])
        n = int(self.arrays["tokens"].any(1).sum())
        low, high = np.full((2, 3, self.shape.sizes["point"]), np.nan)
        if n > 1:
            draws = self._draws(n)
            means = self._means(draws, self._crossed(draws))
            low, high = _ends(means)
        for ending, end in (("low", low), ("high", high)):
            found |= {f"{name}_{ending}": e for name, e in self._shown(end).items()}
        return found

    def _shown(self, means: np.ndarray) -> Arrays:
        return dict(zip(self.outputs, means, strict=True))

    def _draws(self, n: int) -> np.ndarray:
        """How often each group is drawn: [DRAWS, GROUPS]."""
        used = self.arrays["tokens"].any(1)
        draws = np.zeros((DRAWS, GROUPS))
        draws[:, used] = resamples(n)
        return draws

    def _crossed(self, draws: np.ndarray) -> np.ndarray:
        """Sum of the cosines of all pairs of tokens, groups drawn so often: [draws, point].

        A group drawn twice is not paired with its copy, whose texts are the same.
        """
        sums = self.arrays["sum"]
        found = np.empty((len(draws), sums.shape[1]))
        for point in range(sums.shape[1]):
            cross = sums[:, point] @ sums[:, point].T
            own = np.diagonal(cross)
            found[:, point] = ((draws @ cross) * draws).sum(-1) - (draws**2 - draws) @ own
        return found

    def _means(self, draws: np.ndarray, crossed: np.ndarray) -> np.ndarray:
        """The three outputs, [3, draws, point], from sums over all pairs of tokens."""
        tokens, pairs, square = (self.arrays[name] for name in ("tokens", "pairs", "square"))
        texts = {"tokens": draws @ tokens, "pairs": draws @ pairs, "square": draws @ square}
        all_pairs = texts["tokens"] ** 2 - (draws**2 - draws) @ tokens**2
        with np.errstate(divide="ignore", invalid="ignore"):
            between = (crossed - texts["square"]) / _counted(all_pairs - texts["pairs"])
            within = (texts["square"] - texts["tokens"]) / _counted(
                texts["pairs"] - texts["tokens"]
            )
        return np.stack([between, within, within - between])


def _counted(pairs: np.ndarray) -> np.ndarray:
    """Numbers of pairs, NaN where there are none."""
    return np.where(pairs > 0, pairs, np.nan)


def _ends(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval over draws ``[3, draws, point]``; NaN where fewer than two have any."""
    cells = means.transpose(1, 0, 2)
    shape = cells.shape[1:]
    flat = cells.reshape(len(cells), -1)
    low, high = ends(flat, np.isfinite(flat).sum(0) > 1)
    return low.reshape(shape), high.reshape(shape)
