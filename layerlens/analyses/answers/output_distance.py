"""How far the output of a disturbed run is from that of the clean one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

BUFFER_BYTES = 64_000_000
"""What the logits of one chunk may take."""


class Ends(NamedTuple):
    """What runs predict where the text is answered; ``[row]`` each.

    Parameters
    ----------
    kl
        Divergence of the clean run's prediction from the row's, nats.
    probability
        Of the answer.
    on_top
        Whether the answer is the most probable token.
    """

    kl: Tensor
    probability: Tensor
    on_top: Tensor


def rows_at_once(model: LensModel) -> int:
    """How many rows go through the head at once: logits, probabilities and their difference."""
    return max(1, BUFFER_BYTES // (3 * 4 * model.d_vocab))


def distances(
    model: LensModel,
    clean: Tensor,
    rows: Tensor,
    positions: list[int],
    tick: Callable[[], None],
) -> Tensor:
    """Euclidean distance of the probabilities of all tokens, at most the square root of 2.

    Parameters
    ----------
    clean
        ``[position, d_model]``, states after the last block.
    rows
        ``[row, position, d_model]``.

    Returns
    -------
    Tensor
        ``[row, measured position]`` float32.
    """
    found = torch.empty(len(rows), len(positions))
    room = rows_at_once(model)
    for start in range(0, len(positions), room):
        tick()
        here = positions[start : start + room]
        reference = model.unembed(clean[here]).softmax(-1)
        for first in range(0, len(rows), max(1, room // len(here))):
            some = rows[first : first + max(1, room // len(here)), here]
            off = (model.unembed(some).softmax(-1) - reference).norm(dim=-1)
            found[first : first + len(some), start : start + len(here)] = off.cpu()
    return found


def ends(model: LensModel, clean: Tensor, rows: Tensor, answer: int | None) -> Ends:
    """Compare predictions where the text is answered.

    Parameters
    ----------
    clean
        ``[d_model]``.
    rows
        ``[row, d_model]``.
    answer
        Token id; None: the clean run's own.
    """
    reference = model.unembed(clean).log_softmax(-1)
    token = int(reference.argmax()) if answer is None else answer
    parts = []
    for some in rows.split(rows_at_once(model)):
        logp = model.unembed(some).log_softmax(-1)
        off = reference - logp
        # A token that both exclude (a logit of minus infinity) adds nothing.
        terms = torch.where(reference.exp() == 0, 0.0, reference.exp() * off)
        kl = terms.sum(-1, dtype=torch.float64).clamp(min=0)
        parts.append(Ends(kl, logp[:, token].exp(), logp[:, token] == logp.amax(-1)))
    return Ends(*(torch.cat(list(column)).cpu() for column in zip(*parts, strict=True)))
