"""Texts that were written run again as a whole, without a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.model.sites import Site
from layerlens.run.editing import editing
from layerlens.run.edits import Edit
from layerlens.run.forward import model_inputs
from layerlens.run.reading import reading

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def states_again(
    model: LensModel,
    tokens: Tokens,
    texts: Sequence[Sequence[int]],
    edits: tuple[Edit, ...],
    sites: Sequence[Site],
    steps: Sequence[int],
    tick: Callable[[], None] = lambda: None,
) -> dict[Site, Tensor]:
    """States that tokens were written from, ``[text * step, d_model]`` for each site.

    Parameters
    ----------
    tokens
        The prompts, padded on the left.
    texts
        Ids that were written after each.
    edits
        What was changed meanwhile.
    steps
        Which of the written tokens, counted from 0; all but the last one is fed.
    tick
        Called at each site; may raise to stop.
    """
    length, fed = tokens.ids.shape[1], max(steps)
    pad = int(tokens.ids[0, 0])
    after = torch.full((len(tokens.ids), fed), pad)
    for row, text in enumerate(texts):
        known = text[:fed]
        after[row, : len(known)] = torch.tensor(known, dtype=after.dtype)
    whole = replace(
        tokens,
        ids=torch.cat([tokens.ids, after], 1),
        mask=torch.cat([tokens.mask, torch.ones_like(after, dtype=torch.bool)], 1),
    )
    columns = [length - 1 + step for step in steps]
    states: dict[Site, Tensor] = {}

    def read(site: Site, value: Tensor) -> None:
        tick()
        states[site] = value[:, columns].flatten(0, 1)

    with editing(model, edits, tokens), reading(model, sites, len(tokens.ids), read):
        model.hf(**model_inputs(model, whole, "last"))
    return states
