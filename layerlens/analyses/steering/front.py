"""Differences of paired prompts position by position, from their front (ActAdd)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

PAD = " "
"""What shorter prompts are filled up with, at their end."""


@dataclass(frozen=True)
class Front:
    """What is added along the front of a text.

    Attributes
    ----------
    difference
        ``[layer, position, width]`` float64: states of the positive prompts minus those of the
        negative ones, mean over pairs.
    ratio
        ``[layer, position]``: its length over the mean length of the states there.
    passes
        Passes used.
    """

    difference: np.ndarray
    ratio: np.ndarray
    passes: int

    @property
    def length(self) -> int:
        """Positions from the front on."""
        return len(self.difference[0])


def find_front(
    job: Job, model: LensModel, sites: Sequence[Site], positive: Tokens, negative: Tokens
) -> Front:
    """Run all prompts at one length, the shorter ones filled up with spaces at their end.

    Raises
    ------
    InputError
        The prompts differ in length, and a space is not one token of this model.
    """
    length = max(*positive.lengths, *negative.lengths)
    sides = [
        np.stack([_states(job, model, sites, one) for one in _padded(job, model, tokens, length)])
        for tokens in (positive, negative)
    ]
    difference = (sides[0] - sides[1]).mean(0)
    size = np.linalg.norm(np.concatenate(sides), axis=-1).mean(0)
    long = np.linalg.norm(difference, axis=-1)
    ratio = np.divide(long, size, out=np.full_like(size, np.nan), where=size > 0)
    return Front(difference, ratio, sum(map(len, sides)))


def _padded(job: Job, model: LensModel, tokens: Tokens, length: int) -> list[Tokens]:
    rows = []
    for row in range(len(tokens.ids)):
        one = row_of(tokens, row)
        missing = length - one.ids.shape[1]
        if missing:
            one = job.tokens([*one.ids[0].tolist(), *[_space(model)] * missing])
        rows.append(one)
    return rows


def _space(model: LensModel) -> int:
    try:
        return model.token_id(PAD)
    except InputError as error:
        raise InputError(
            "The prompts differ in length, and this model has no token for a space to fill them "
            "up with: give prompts of as many tokens each."
        ) from error


def _states(job: Job, model: LensModel, sites: Sequence[Site], tokens: Tokens) -> np.ndarray:
    """States ``[layer, position, width]`` float64 of one prompt."""
    found: dict[Site, np.ndarray] = {}

    def keep(site: Site, value: Tensor) -> None:
        job.tick()
        found[site] = value[0].double().cpu().numpy()

    forward(model, tokens, sites, keep, logits=None)
    return np.stack([found[site] for site in sites])
