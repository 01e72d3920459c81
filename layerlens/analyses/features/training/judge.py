"""How much a dictionary explains of activations that it was not learned from, beside a control."""

from __future__ import annotations

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
        ``[m]``: share of the activations that each feature is on for.
    """

    explained: np.ndarray
    l0: float
    density: Tensor


class Judge:
    """Activations set apart.

    Parameters
    ----------
    x
        ``[n, layer, width]`` float32.
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._spread = (x - x.mean(0)).square().sum((0, 2)).double()
        self.shares: np.ndarray | None = None
        """``[component]``: variance that so many components explain, and one more."""

    def measure(self, dictionary: Dictionary) -> Measured:
        """Measure a dictionary."""
        left = torch.zeros(self.x.shape[1], dtype=torch.float64)
        on = torch.zeros(dictionary.features, dtype=torch.int64)
        for layer in range(self.x.shape[1]):
            for part in self.x[:, layer].split(ROWS):
                y, features = dictionary.reconstruct(part)
                left[layer] += (part - y).square().sum()
                on += (features > 0).sum(0)
        number = self.x.shape[0] * self.x.shape[1]
        explained = (1 - left / self._spread).numpy()
        return Measured(explained, float(on.sum()) / number, on.double() / number)

    def most_on(self, dictionary: Dictionary) -> int:
        """The most features that are on for any activation."""
        parts = self.x.flatten(0, 1).split(ROWS)
        return max(int((dictionary.encode(part) > 0).sum(-1).max()) for part in parts)

    def see(self, x: Tensor) -> None:
        """Find the principal components of the first activations ``[n, width]`` that are seen."""
        if self.shares is not None:
            return
        x = x[:COMPONENT_ROWS].double()
        mean = x.mean(0)
        _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
        shares = []
        for layer in range(self.x.shape[1]):
            centred = self.x[:, layer].double() - mean
            along = (centred @ vectors.flip(1)).square().sum(0).cumsum(0)
            shares.append(1 - (centred.square().sum() - along) / self._spread[layer])
        self.shares = torch.stack(shares).mean(0).numpy()

    def components(self, l0: float) -> float:
        """Variance that as many principal components explain as features are on."""
        if self.shares is None:
            raise RuntimeError("see() comes before components()")
        number = min(round(l0), len(self.shares))
        return float(self.shares[number - 1]) if number else 0.0
