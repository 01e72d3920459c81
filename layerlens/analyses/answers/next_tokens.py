"""The next token under several conditions, side by side: what a cell of an intervention opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Table
from layerlens.model.sites import Site
from layerlens.run.base import Base
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROWS = 8
"""Of the best tokens of each condition, and of those that changed most."""


def chances(model: LensModel, final: Tensor) -> np.ndarray:
    """Probabilities ``[vocabulary]`` float32 of a state ``[d_model]`` after the last block."""
    found: np.ndarray = model.unembed(final).float().softmax(-1).cpu().numpy()
    return found


def final_with(model: LensModel, base: Base, changes: Sequence[Change]) -> Tensor:
    """State ``[d_model]`` where a run is answered, with changes made to it, by a plain pass."""
    last = Site("resid_post", model.n_layers - 1)
    held: list[Tensor] = []

    def keep(site: Site, value: Tensor) -> None:
        held.append(value[0, base.at].clone())

    forward(model, base.tokens, [last], keep, logits=None, changes=[*base.changes, *changes])
    return held[0]


def chances_with(model: LensModel, base: Base, changes: Sequence[Change]) -> np.ndarray:
    """Probabilities of the same state."""
    return chances(model, final_with(model, base, changes))


def next_token_table(
    model: LensModel, conditions: Mapping[str, np.ndarray], also: Sequence[int] = ()
) -> Table:
    """Put probabilities of the next token beside each other.

    Parameters
    ----------
    conditions
        What was done, to probabilities ``[vocabulary]``; how the last one differs from the one
        before it says which tokens are shown first.
    also
        Tokens that are shown in any case.

    Returns
    -------
    Table
        A row a token: its text, its probability under each condition, and the last change.
    """
    *_, before, after = conditions.values()
    rows = []
    for token in moved_most(before, after, ROWS, also):
        values = [float(found[token]) for found in conditions.values()]
        rows.append([model.token_string(token), *values, values[-1] - values[-2]])
    return Table(["token", *conditions, "change"], rows)


def moved_most(
    before: np.ndarray, after: np.ndarray, count: int, also: Sequence[int] = ()
) -> list[int]:
    """Return the tokens to show of two distributions.

    Parameters
    ----------
    before, after
        ``[vocabulary]`` probabilities.
    count
        How many of the best of each, and of those that changed most.
    also
        Token ids that are shown in any case.

    Returns
    -------
    list of int
        The largest change first; of equal ones the likeliest.
    """
    change = torch.from_numpy(after) - torch.from_numpy(before)
    count = min(count, len(before))
    best = [torch.from_numpy(each).topk(count).indices for each in (before, after)]
    most = change.abs().topk(count).indices
    ids = {int(i) for i in torch.cat([*best, most])} | {int(i) for i in also}
    return sorted(ids, key=lambda i: (-abs(float(change[i])), -float(after[i]), i))
