"""One state for each text: that of its last token, or the mean of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.sweeps.clean_pass import Pass
    from layerlens.model.text import Tokens

POOLS = ("last", "mean")


def require_pool(pool: str, skip_first: bool | int, tokens: Tokens) -> None:
    """Refuse a way to pool that is not known, and texts that have nothing to pool.

    Raises
    ------
    InputError
        Says which.
    """
    if pool not in POOLS:
        raise InputError(f"pool is {pool!r}; expected {' or '.join(POOLS)}.")
    if not 0 <= int(skip_first) < min(tokens.lengths):
        raise InputError(
            f"skip_first is {skip_first} and the shortest text has {min(tokens.lengths)} tokens: "
            "leave it out, or give longer texts."
        )


def pooled(one: Pass, pool: str) -> np.ndarray:
    """One state a text, ``[point, text, d_model]`` float64."""
    tokens = one.batch.tokens
    counts = tokens.mask & (tokens.position_ids >= one.batch.skip_first)
    if pool == "last":
        counts &= tokens.position_ids == tokens.position_ids.masked_fill(~counts, -1).amax(
            1, keepdim=True
        )
    weights = counts.double() / counts.sum(1, keepdim=True)
    return np.stack(
        [
            (weights[:, None] @ state.cpu().double().where(counts[..., None], 0))[:, 0].numpy()
            for state in one.states
        ]
    )
