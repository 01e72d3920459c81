"""Jacobians of every block at some tokens of a text, from products with random signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.run.replay import BlockCall, capture_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def evenly(positions: Sequence[int], most: int) -> list[int]:
    """At most so many of some positions, spread evenly over them."""
    steps = min(most, len(positions))
    return [positions[(2 * step + 1) * len(positions) // (2 * steps)] for step in range(steps)]


class TextJacobians:
    """One text, in as many rows as there are tokens that are looked at.

    Parameters
    ----------
    at
        These tokens, each of a row of its own.
    draws
        How many random sign vectors for each.
    seed
        Of the signs and of the shuffles of this text, which depend on the layer, too.
    tick
        Called before each product; may raise to stop.

    Attributes
    ----------
    replayed
        How far states after a block run alone are from those of the pass, of the largest.
    later
        Largest derivative of a token's state by that of a later token.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        at: Sequence[int],
        draws: int,
        seed: tuple[int, int],
        tick: Callable[[], None],
    ) -> None:
        self.model, self.at, self.draws, self.tick = model, at, draws, tick
        self.replayed = self.later = 0.0
        rows = replace(
            tokens, ids=tokens.ids.repeat(len(at), 1), mask=tokens.mask.repeat(len(at), 1)
        )
        self.states: list[Tensor] = []

        def keep(_: int, state: Tensor) -> None:
            tick()
            self.states.append(state)

        self.calls, _ = capture_calls(model, rows, keep, logits="last", for_autograd=True)
        self._seed = seed

    def of(self, layer: int, *, shuffled: bool = False) -> dict[str, Tensor]:
        """Name to ``[row]``; with ``shuffled`` of states with their entries in another order."""
        self.tick()
        random = np.random.default_rng((*self._seed, layer))
        shape = (self.draws, len(self.at), self.model.d_model)
        signs = torch.from_numpy(random.choice((-1.0, 1.0), shape))
        state = self.states[layer]
        given = _shuffled(state, self.at, random) if shuffled else state
        after, pulled = self._pull(self.calls[layer], given, signs)
        if not shuffled:
            wanted = self.states[layer + 1]
            size = wanted.abs().max().clamp(min=1e-6)
            off = (after.to(wanted.device) - wanted).abs().max() / size
            self.replayed = max(self.replayed, float(off))
        return estimates(pulled, signs)

    def _pull(self, call: BlockCall, state: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        """What the block gives, and ``J^T v`` at each row's token, ``[draw, row, d_model]``."""
        leaf = state.detach().clone().requires_grad_()
        after = call(leaf)
        at = torch.tensor(self.at)
        rows = torch.arange(len(at))
        pulled = torch.empty_like(signs)
        for draw, sign in enumerate(signs):
            self.tick()
            along = torch.zeros_like(after)
            along[rows, at] = sign.to(after)
            more = draw + 1 < len(signs)
            (found,) = torch.autograd.grad(after, leaf, along, retain_graph=more)
            pulled[draw] = found[rows, at].cpu().double()
            for row, place in enumerate(self.at if not self.model.bidirectional else ()):
                beyond = found[row, place + 1 :]
                if beyond.numel():
                    self.later = max(self.later, float(beyond.abs().max()))
        return after.detach(), pulled


def estimates(pulled: Tensor, signs: Tensor) -> dict[str, Tensor]:
    """Distance, trace and share off the diagonal of matrices, from products with random signs.

    Parameters
    ----------
    pulled
        ``[draw, row, d]``, ``J^T v``.
    signs
        ``[draw, row, d]``, ``v``, plus or minus 1.

    Returns
    -------
    dict
        Name to ``[row]``.
    """
    draws, _, width = signs.shape
    rest = pulled - signs  # (J - I)^T v: its square is not drowned by that of the identity
    square = rest.square().sum(-1).mean(0)
    diagonal = signs * rest  # of J - I, with noise that differs from draw to draw
    pairs = diagonal.sum(0).square() - diagonal.square().sum(0)
    on = pairs.sum(-1) / (draws * (draws - 1))
    return {
        "jacobian_distance": (square / width).sqrt(),
        "jacobian_trace": 1 + diagonal.sum(-1).mean(0) / width,
        "jacobian_off_diagonal": (square - on) / pulled.square().sum(-1).mean(0),
    }


def _shuffled(state: Tensor, at: Sequence[int], random: np.random.Generator) -> Tensor:
    """States with the entries of each row's token in a random order."""
    other = state.clone()
    for row, place in enumerate(at):
        order = torch.from_numpy(random.permutation(state.shape[-1])).to(state.device)
        other[row, place] = state[row, place, order]
    return other
