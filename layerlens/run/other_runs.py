"""The other runs that edits take values from: each text once in each model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.changes import SQUARE
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_Key = tuple[int, tuple[tuple[int, ...], ...], tuple[tuple[bool, ...], ...]]


@dataclass
class _Run:
    model: LensModel
    tokens: Tokens
    values: dict[Site, Tensor | None] = field(default_factory=dict)


class OtherRuns:
    """Gathers which sites of which runs are needed, runs each once, and gives the values."""

    def __init__(self) -> None:
        self._runs: dict[_Key, _Run] = {}

    def __len__(self) -> int:
        """How many passes they take."""
        return len(self._runs)

    def need(self, model: LensModel, tokens: Tokens, site: Site) -> None:
        """Ask for a site, all heads, of an unedited run of these tokens."""
        run = self._runs.setdefault(_key(model, tokens), _Run(model, tokens))
        run.values[site] = None

    def run(self) -> None:
        """Run them all."""
        for run in self._runs.values():
            forward(run.model, run.tokens, list(run.values), run.values.__setitem__, logits=None)

    def value(self, model: LensModel, tokens: Tokens, site: Site, row: int = 0) -> Tensor:
        """One text's values, ``[position, (head,) width]``; keys are the width of a pattern."""
        found = self._runs[_key(model, tokens)].values[site]
        assert found is not None  # run() has met every site, or raised
        return own(found[row].transpose(0, 1) if site.kind in SQUARE else found[row])


def own(value: Tensor) -> Tensor:
    """A tensor that autograd takes, also where the given one was made in inference mode."""
    if not value.is_inference():
        return value
    with torch.inference_mode(False):
        return value.clone()


def _key(model: LensModel, tokens: Tokens) -> _Key:
    rows = tuple(map(tuple, tokens.ids.tolist()))
    return id(model), rows, tuple(map(tuple, tokens.mask.tolist()))
