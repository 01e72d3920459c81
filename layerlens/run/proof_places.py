"""The part of the proof that is about where the positions of a picture lie in it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from layerlens.model.evidence import Proof, ProofLine
from layerlens.model.grid import Grid
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.until import read_until

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def prove_places(model: LensModel, tokens: Tokens, proof: Proof) -> None:
    """Compare: new pixels in one patch change the state of its position, and of no other.

    Tried in the second patch and in the last but one, which tells rows from columns wherever
    there is more than one of either.
    """
    grid = tokens.grid
    if not isinstance(grid, Grid):
        if model.feed.kind == "images":
            proof.notes.append("its positions are no patches of one size: they have numbers only")
        return
    before = _first_states(model, tokens)
    last = grid.first + grid.rows * grid.columns - 1
    wrong = 0
    for position in {min(grid.first + 1, last), max(last - 1, grid.first)}:
        changed = (before != _first_states(model, _repainted(tokens, grid, position))).any(-1)
        wrong += int(changed.sum()) - 1 if bool(changed[position]) else 1
    what = "new pixels in a patch change the state of its position before block 0, and no other"
    proof.lines.append(ProofLine("places", wrong, 0, what))


def _repainted(tokens: Tokens, grid: Grid, position: int) -> Tokens:
    """The same picture with other pixels in one patch."""
    box = grid.box(position)
    assert box is not None  # a patch was asked for
    top, left, bottom, right = box
    (name, values), *_ = tokens.given.items()
    values = values.clone()
    patch = values[..., top:bottom, left:right]
    values[..., top:bottom, left:right] = 1 - 2 * patch.flip(-1)
    return replace(tokens, given={name: values})


def _first_states(model: LensModel, tokens: Tokens) -> Tensor:
    """``[position, d_model]`` before the first block."""
    first = Site("resid_pre", 0)
    return read_until(model, tokens, [first], lambda _, value: value[0].clone())[first]
