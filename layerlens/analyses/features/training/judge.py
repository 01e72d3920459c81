"""How much a dictionary explains of activations that it was not learned from, beside a control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import Dictionary

ROWS = 512
"""Activations whose features are held at once."""
COMPONENT_ROWS = 1 << 14
"""Activations that the principal components are found from, at most."""


class Measured(NamedTuple):
    """What was found on the activations set apart.

    Attributes
    ----------
    explained
        ``[layer]``: ``1 - sum |x - y|^2 / sum |x - mean|^2``.
    l0
        Features on for an activation.
    density
        ``[m]``: share of the activations that each feature is on for; ``[layer, m]`` where each
        layer has a dictionary of its own.
    """

    explained: np.ndarray
    l0: float
    density: Tensor


class Judge:
    """Activations set apart.

    Parameters
    ----------
    x
        ``[n, layer, width]`` float32: what is read.
    y
        What has to be written; None where it is the same.
    """

    def __init__(self, x: Tensor, y: Tensor | None = None) -> None:
        self.x, self.y = x, x if y is None else y
        mean = self.y.mean(0)
        parts = self.y.split(ROWS)
        self._spread = sum((part - mean).square().sum((0, 2)).double() for part in parts)
        self.shares: np.ndarray | None = None
        """``[component]``: variance that so many components explain, and one more."""

    def measure(self, dictionaries: Sequence[Dictionary]) -> Measured:
        """Measure a dictionary of all layers, or one of each."""
        left = torch.zeros(self.x.shape[1], dtype=torch.float64)
        on = torch.zeros(len(dictionaries), dictionaries[0].features, dtype=torch.int64)
        for layer in range(self.x.shape[1]):
            own = min(layer, len(dictionaries) - 1)
            parts = self.x[:, layer].split(ROWS), self.y[:, layer].split(ROWS)
            for read, wanted in zip(*parts, strict=True):
                y, features = dictionaries[own].reconstruct(read)
                left[layer] += (wanted - y).square().sum()
                on[own] += (features > 0).sum(0)
        number = self.x.shape[0] * self.x.shape[1]
        explained = (1 - left / self._spread).numpy()
        density = on.double() * len(dictionaries) / number
        l0 = float(on.sum()) / number
        return Measured(explained, l0, density if len(dictionaries) > 1 else density[0])

    def most_on(self, dictionaries: Sequence[Dictionary]) -> int:
        """The most features that are on for any activation."""
        most = 0
        for layer in range(self.x.shape[1]):
            own = dictionaries[min(layer, len(dictionaries) - 1)]
            for part in self.x[:, layer].split(ROWS):
                most = max(most, int((own.encode(part) > 0).sum(-1).max()))
        return most

    def unexplained(self, dictionaries: Sequence[Dictionary]) -> float:
        """Share of the variance of the first activations that a saved dictionary leaves over.

        In the units in which it was learned.
        """
        [dictionary] = dictionaries
        x = self.first()
        y = dictionary.normalised(x)[0]
        found = dictionary.decode(dictionary.encode(x))
        return float((y - found).square().sum() / (y - y.mean(0)).square().sum())

    def first(self) -> Tensor:
        """The first activations, as they are learned from."""
        return self.x.flatten(0, 1)[:ROWS]

    def see(self, x: Tensor) -> None:
        """Find the principal components of the first activations ``[n, width]`` that are seen."""
        if self.shares is not None:
            return
        first = x[:COMPONENT_ROWS]
        mean = first.mean(0, dtype=torch.float64)
        products = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
        for part in first.split(ROWS):
            centred = part - mean
            products.addmm_(centred.T, centred)
        vectors = torch.linalg.eigh(products)[1].flip(1)
        layers = range(self.x.shape[1])
        shares = [self._shares_of_components(layer, mean, vectors) for layer in layers]
        self.shares = torch.stack(shares).mean(0).numpy()

    def _shares_of_components(self, layer: int, mean: Tensor, vectors: Tensor) -> Tensor:
        """``[component]``: variance of a layer that so many components explain, and one more."""
        along, whole = vectors.new_zeros(len(vectors)), vectors.new_zeros(())
        for part in self.x[:, layer].split(ROWS):
            centred = part - mean
            along += (centred @ vectors).square().sum(0)
            whole += centred.square().sum()
        found: Tensor = 1 - (whole - along.cumsum(0)) / self._spread[layer]
        return found

    def components(self, l0: float) -> float:
        """Variance that as many principal components explain as features are on."""
        if self.shares is None:
            raise RuntimeError("see() comes before components()")
        number = min(round(l0), len(self.shares))
        return float(self.shares[number - 1]) if number else 0.0

    def controls(self, l0: float, layers: Sequence[int]) -> dict[str, float]:
        """What the dictionary has to beat on the layers that were read, by name."""
        del layers  # principal components are of all of them
        return {"control": self.components(l0)}
