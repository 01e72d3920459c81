"""Whether a model's early positions see later tokens, found by changing one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROUNDINGS = 32
"""Change of the first states, in roundings of their largest entry, that may be rounding alone."""


def reads_ahead(model: LensModel) -> bool:
    """Whether the last position changes the states of the first: a bidirectional model.

    One pass over two rows that differ in their last token; where positions are no tokens, in the
    state before the first block.
    """
    tokens = model.probe(length=6, seed=3).repeated(2)
    changes = []
    if model.feed.ids:
        tokens.ids[1, -1] = (tokens.ids[1, -1] + 1) % model.d_vocab_in
    else:
        last = (tokens.ids.shape[1] - 1,)
        changes = [Change(Site("resid_pre", 0), "scale", 2.0, last, row=1)]
    seen: list[Tensor] = []
    site = Site("resid_post", model.n_layers - 1)
    see = lambda _, value: seen.append(value.float())  # noqa: E731
    forward(model, tokens, [site], see, logits=None, changes=changes)
    one, two = seen[0][:, :-1]
    limit = ROUNDINGS * torch.finfo(model.dtype).eps * one.abs().max()
    return bool((one - two).abs().max() > limit)
