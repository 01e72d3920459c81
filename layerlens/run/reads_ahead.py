"""Whether a model's early positions see later tokens, found by changing one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.model.find import probe_ids
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROUNDINGS = 32
"""Change of the first states, in roundings of their largest entry, that may be rounding alone."""


def reads_ahead(model: LensModel) -> bool:
    """Whether the last token changes the states of the first: a bidirectional model.

    One pass over two rows that differ in their last token.
    """
    rows = probe_ids(model.d_vocab_in, length=6, seed=3).repeat(2, 1)
    rows[1, -1] = (rows[1, -1] + 1) % model.d_vocab_in
    seen: list[Tensor] = []
    site = Site("resid_post", model.n_layers - 1)
    tokens = model.tokens(rows)
    forward(model, tokens, [site], lambda _, value: seen.append(value.float()), logits=None)
    one, two = seen[0][:, :-1]
    limit = ROUNDINGS * torch.finfo(model.dtype).eps * one.abs().max()
    return bool((one - two).abs().max() > limit)
