"""How far blocks stretch the state of a text's last token (BLOOD)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from layerlens.analyses.sweeps.jacobian_rows import RowJacobians
from layerlens.metrics.batch import split

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Stretch:
    """Squared Frobenius norms of the Jacobians of all blocks at the last tokens of texts.

    Jelenić et al. (2024), Out-of-Distribution Detection by Leveraging Between-Layer Transformation
    Smoothness, arXiv 2310.02832, from products with one random vector instead of two.

    Parameters
    ----------
    draws
        Sign vectors for each block; all texts have the same ones, so that what differs between
        them is the text.
    seed
        Of these.
    tick
        Called before each product; may raise to stop.

    Attributes
    ----------
    signs
        ``[layer, draw, d_model]``.
    replayed
        How far states after a block run alone are from those of the pass, of the largest.
    """

    def __init__(self, model: LensModel, draws: int, seed: int, tick: Callable[[], None]) -> None:
        self.model, self.tick = model, tick
        random = np.random.default_rng((seed, 3))
        shape = (model.n_layers, draws, model.d_model)
        self.signs = torch.from_numpy(random.choice((-1.0, 1.0), shape))
        self.replayed = 0.0

    def of(
        self, tokens: Tokens, batch_size: int | None, rows: Sequence[int] | None = None
    ) -> np.ndarray:
        """``[layer, text]`` float64 of all texts, or of these."""
        if rows is not None:
            tokens = _chosen(tokens, list(rows))
        found = np.empty((self.model.n_layers, len(tokens.ids)))
        for part, numbers in split(tokens, batch_size):
            places = torch.arange(part.mask.shape[1]).expand_as(part.mask)
            last = places.masked_fill(~part.mask, -1).amax(1).tolist()
            with self.model.running(gradients=True):
                jacobians = RowJacobians(self.model, part, last, self.tick)
                for layer, signs in enumerate(self.signs):
                    norms = jacobians.squared_norms(layer, signs)
                    found[layer, list(numbers)] = norms.numpy()
            self.replayed = max(self.replayed, jacobians.replayed)
        return found


def scores_by_depth(stretched: np.ndarray) -> dict[str, np.ndarray]:
    """The scores that squared norms ``[layer, text]`` give, by name: ``[point, text]``.

    ``blood`` is that of the block before a point; ``blood_mean`` the mean of those from the second
    block on, so that the last point has BLOOD_M. NaN where there is no such block.

    Examples
    --------
    >>> found = scores_by_depth(np.array([[9.0], [2.0], [4.0]]))
    >>> found["blood"][:, 0].tolist(), found["blood_mean"][:, 0].tolist()
    ([nan, 9.0, 2.0, 4.0], [nan, nan, 2.0, 3.0])
    """
    layers, texts = stretched.shape
    counts = np.arange(1, layers)[:, None]
    nothing = np.full((1, texts), np.nan)
    later = stretched[1:].cumsum(0) / counts
    mean = np.concatenate([nothing, nothing, later])
    return {"blood": np.concatenate([nothing, stretched]), "blood_mean": mean}


def _chosen(tokens: Tokens, rows: list[int]) -> Tokens:
    """Some texts of many."""
    return replace(tokens.chosen(rows), single=False)
