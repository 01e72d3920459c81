"""Where in the model an inserted token pulls: its pooled states, and the attention it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.embedding.pooling import pooled
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Layers:
    """Pooled states and attention of texts, layer by layer; states are dropped at once.

    Parameters
    ----------
    how
        How states become one vector.
    tick
        Called before every pass.

    Attributes
    ----------
    attends
        Whether every layer has a pattern that can be read.
    """

    def __init__(self, model: LensModel, how: str, tick: Callable[[], None]) -> None:
        self._model, self._how, self._tick = model, how, tick
        self.attends = all(block.attention for block in model.anatomy.blocks)

    def vectors(self, tokens: Tokens) -> Tensor:
        """``[layer, text, d]`` float32 of length 1: the states after each block, pooled."""
        return self._read(tokens, None)[0]

    def with_attention(self, tokens: Tokens, inserted: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and ``[layer, text]``: the share of attention that inserted tokens take.

        Parameters
        ----------
        inserted
            ``[text, position]`` bool. The share is the mean over heads and over the queries that
            are not inserted.
        """
        return self._read(tokens, inserted)

    def _read(self, tokens: Tokens, inserted: Tensor | None) -> tuple[Tensor, Tensor]:
        self._tick()
        n_layers = self._model.n_layers
        vectors: list[Tensor] = []
        shares = torch.full((n_layers, len(tokens.ids)), float("nan"))

        def see(site: Site, value: Tensor) -> None:
            if site.kind == "resid_post":
                states = pooled(value, tokens.mask, self._how)
                vectors.append(torch.nn.functional.normalize(states, dim=-1).cpu())
            elif inserted is not None:
                shares[site.layer or 0] = _taken(value.cpu().float(), tokens.mask, inserted)

        sites = [Site("resid_post", layer) for layer in range(n_layers)]
        if inserted is not None and self.attends:
            sites += [Site("pattern", layer) for layer in range(n_layers)]
        forward(self._model, tokens, sites, see, logits=None)
        return torch.stack(vectors), shares


def _taken(pattern: Tensor, mask: Tensor, inserted: Tensor) -> Tensor:
    """``[text]``: what a text's own queries give to inserted tokens, of ``[text, head, q, k]``."""
    taken = (pattern * inserted[:, None, None]).sum(-1).mean(1)
    asking = mask & ~inserted
    return (taken * asking).sum(-1) / asking.sum(-1)
