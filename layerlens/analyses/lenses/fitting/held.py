"""States of tokens that were drawn beforehand, kept while all are read."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.documents import Seen


class Held:
    """States of some of the tokens that are read.

    Parameters
    ----------
    tokens
        How many are read.
    most
        How many of them are kept at most.
    seed
        Of the draw.
    points
        How many states each has.
    """

    def __init__(self, tokens: int, most: int, seed: int, points: int) -> None:
        self._keep = np.zeros(tokens, dtype=bool)
        self._keep[np.random.default_rng(seed).permutation(tokens)[:most]] = True
        self._at = 0
        self._states: list[list[Tensor]] = [[] for _ in range(points)]
        self._parts: dict[str, list[Tensor]] = {"final": [], "target": [], "text": []}

    def add(self, found: Seen) -> None:
        """Keep what was drawn of the tokens that were read next."""
        count = len(found.final)
        keep = torch.from_numpy(self._keep[self._at : self._at + count])
        self._at += count
        for states, here in zip(self._states, found.states, strict=True):
            states.append(here[keep.to(here.device)])
        for name, parts in self._parts.items():
            part = getattr(found, name)
            parts.append(part[keep.to(part.device)])

    def part(self, name: str) -> Tensor:
        """``final``, ``target`` or ``text`` of what was kept, ``[n, ...]``."""
        return torch.cat(self._parts[name])

    def take(self, point: int) -> Tensor:
        """``[n, d_model]`` states at a point, which are not kept any longer."""
        states, self._states[point] = torch.cat(self._states[point]), []
        return states
