"""The tokens that features raise and lower, through the final norm and the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.token_scores import bends, write_scores

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

WRITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Sites whose activations are in the stream, or are added to it as they are."""
ROWS = 64
"""Features whose logits are held together."""


def why_no_effects(model: LensModel, site: str) -> str | None:
    """Say why features of a site have no effect on logits of their own; None where they have."""
    if site not in WRITES:
        return f"what is decoded at {site} is not added to the stream as it is"
    if path := bends(model):
        return f"{path} leads from the last state to the logits and is not linear"
    return None


def logit_effects(
    model: LensModel, rows: Tensor, k: int, tick: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """The tokens that directions raise most, and those that they lower most.

    Through the final norm without its statistics, and measured from the mean over the vocabulary.

    Parameters
    ----------
    rows
        ``[feature, d_model]``.

    Returns
    -------
    tuple of Tensor
        Tokens and scores ``[feature, 2, k]``: the most raised first, then the most lowered first.
    """
    tokens, scores = [], []
    for some in rows.split(ROWS):
        tick()
        found = write_scores(model, some.T.to(model.device)).float().cpu()
        ends = [found.topk(k, largest=largest) for largest in (True, False)]
        tokens.append(torch.stack([end.indices for end in ends], 1))
        scores.append(torch.stack([end.values for end in ends], 1))
    return torch.cat(tokens), torch.cat(scores)
