"""The massive entries of a layer's states, as many others, and what takes their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.batch import Batch
from layerlens.metrics.massive import massive_entries


class Entries:
    """Massive entries of the states of a batch after one layer.

    Parameters
    ----------
    state
        ``[batch, position, d_model]``.
    rule
        What makes an entry massive; see `layerlens.metrics.massive.massive_entries`.

    Attributes
    ----------
    massive
        bool, of the shape of ``state``; False at padding.
    texts
        [batch] int64, how many of each text.
    """

    def __init__(self, state: Tensor, batch: Batch, rule: dict[str, Any]) -> None:
        self._mask = batch.tokens.mask.to(state.device)
        self._numbers = batch.numbers
        self.massive = torch.zeros_like(state, dtype=torch.bool)
        for row, real in enumerate(self._mask):
            self.massive[row, real] = massive_entries(state[row, real], **rule)
        self.texts = self.massive.sum((1, 2)).cpu()

    @property
    def others(self) -> Tensor:
        """All other entries of real tokens, bool of the shape of the state."""
        return self._mask.unsqueeze(-1) & ~self.massive

    def drawn(self, layer: int, draw: int, seed: int) -> Tensor:
        """As many other entries of each text, at random: bool of the shape of the state.

        They depend on the number of the text, not on the batch that it is in.
        """
        found = torch.zeros_like(self.massive)
        for row, (count, others) in enumerate(zip(self.texts.tolist(), self.others, strict=True)):
            if not count:
                continue
            real = self._mask[row].nonzero()[:, 0]
            free = others[real].flatten().nonzero()[:, 0].cpu().numpy()
            key = (seed, int(self._numbers[row]), layer, draw)
            chosen = np.random.default_rng(key).choice(free, count, replace=False)
            at, dimension = np.divmod(chosen, found.shape[-1])
            found[row, real[at], dimension] = True
        return found


class DimensionMeans:
    """Means of the massive entries of each dimension, and of all others, over all texts.

    Parameters
    ----------
    layers, width
        How many layers are looked at, and of how many dimensions.
    """

    def __init__(self, layers: int, width: int) -> None:
        self._sums = {which: np.zeros((layers, width)) for which in ("massive", "others")}
        self._counts = {which: np.zeros((layers, width)) for which in ("massive", "others")}

    def add(self, place: int, state: Tensor, entries: Entries) -> None:
        """Count the states of a batch after one layer."""
        for which, mask in (("massive", entries.massive), ("others", entries.others)):
            own = state.masked_fill(~mask, 0).sum((0, 1), dtype=torch.float32)
            self._sums[which][place] += own.cpu().double().numpy()
            self._counts[which][place] += mask.sum((0, 1)).cpu().numpy()

    def of(self, which: str, place: int, like: Tensor) -> Tensor:
        """``[d_model]``; 0 where there is no such entry."""
        sums, counts = self._sums[which][place], self._counts[which][place]
        return torch.from_numpy(sums / np.maximum(counts, 1)).to(like.device, like.dtype)

    def alone(self) -> bool:
        """Whether every massive entry is the only one of its layer and dimension."""
        return bool((self._counts["massive"] <= 1).all())
