"""At which positions layers are left out, at which the effect is measured, and how it is summed."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from layerlens.analyses.depth.layer_subsets import Window
from layerlens.errors import InputError
from layerlens.model.integers import is_whole, whole, wholes

EFFECTS = ("all", "future", "direct")
REDUCTIONS = ("max", "mean", "p95")

CUT_STEP = 8
"""Cuts fall on positions 8, 16, ... up to five before the end, as in the published code."""


def windows(
    length: int, effect: str, cuts: int | Sequence[int], keep_first: bool, seed: int
) -> list[Window]:
    """The windows of a text of this length.

    Parameters
    ----------
    effect
        ``all`` and ``direct``: left out and measured at every position. ``future``: for each
        cut, left out before it and measured from it on.
    cuts
        How many cuts to draw without replacement, or the cuts themselves.
    keep_first
        Whether nothing is left out, or measured, at the first position.

    Raises
    ------
    InputError
        The text is too short, or a cut does not fit.
    """
    start = 1 if keep_first else 0
    shortest = start + (2 if effect == "future" else 1)
    if length < shortest:
        raise InputError(
            f"The text has {length} tokens; leaving out layers with effect={effect!r} and "
            f"keep_first={keep_first} needs at least {shortest}."
        )
    if effect != "future":
        every = tuple(range(start, length))
        return [Window(every, every)]
    return [
        Window(tuple(range(start, cut)), tuple(range(cut, length)))
        for cut in _cuts(length, cuts, start + 1, seed)
    ]


def _cuts(length: int, cuts: int | Sequence[int], lowest: int, seed: int) -> list[int]:
    if not is_whole(cuts):
        given = wholes(cuts, "cuts")
        if any(not lowest <= cut < length for cut in given):
            raise InputError(
                f"cuts is {list(given)}; expected positions from {lowest} to {length - 1}."
            )
        return sorted(given)
    cuts = whole(cuts, "cuts")
    if cuts < 1:
        raise InputError(f"cuts is {cuts}; expected at least 1.")
    # A text of less than 13 tokens has no published cut: every position serves.
    possible = list(range(CUT_STEP, length - 4, CUT_STEP)) or list(range(lowest, length))
    return sorted(random.Random(seed).sample(possible, min(cuts, len(possible))))


def summed(values: Sequence[Tensor], how: str) -> Tensor:
    """Sum up ``[..., position]`` of several windows and texts over all their positions."""
    every = torch.cat(list(values), dim=-1).double()
    if how == "max":
        return every.amax(-1)
    return every.mean(-1) if how == "mean" else every.quantile(0.95, dim=-1)
