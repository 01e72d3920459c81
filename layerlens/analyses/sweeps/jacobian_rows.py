"""Jacobians of every block at one token of each row, from products with random signs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class RowJacobians:
    """Rows of tokens, each looked at in one place: texts, or one text in several rows.

    Parameters
    ----------
    rows
        One for each of ``at``.
    at
        The column that is looked at in each row.
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
        rows: Tokens,
        at: Sequence[int],
        tick: Callable[[], None],
    ) -> None:
        self.model, self.at, self.tick, self._mask = model, at, tick, rows.mask
        self.replayed = self.later = 0.0
        self.states: list[Tensor] = []

        def keep(_: int, state: Tensor) -> None:
            tick()
            self.states.append(state)

        self.calls, _ = capture_calls(model, rows, keep, logits="last", for_autograd=True)

    def of(
        self, layer: int, draws: int, seed: tuple[int, int], *, shuffled: bool = False
    ) -> dict[str, Tensor]:
        """Distance, trace and share off the diagonal of a block's Jacobians.

        Parameters
        ----------
        layer
            Of the block.
        draws
            How many random sign vectors for each row.
        seed
            Of the signs and of the shuffles, which depend on the layer, too.
        shuffled
            Of states with their entries in another order.

        Returns
        -------
        dict
            Name to ``[row]``.
        """
        self.tick()
        random = np.random.default_rng((*seed, layer))
        shape = (draws, len(self.at), self.model.d_model)
        signs = torch.from_numpy(random.choice((-1.0, 1.0), shape))
        state = self.states[layer]
        given = _shuffled(state, self.at, random) if shuffled else state
        after, pulled = self._pull(self.calls[layer], given, signs)
        if not shuffled:
            self._compare(layer, after)
        return estimates(pulled, signs)

    def squared_norms(self, layer: int, signs: Tensor) -> Tensor:
        """``||J||_F^2`` of a block's Jacobian ``[row]``, the mean of ``|J^T v|^2``.

        Parameters
        ----------
        layer
            Of the block.
        signs
            ``[draw, d]``, ``v``, plus or minus 1; the same for all rows.
        """
        self.tick()
        along = signs[:, None].expand(-1, len(self.at), -1)
        after, pulled = self._pull(self.calls[layer], self.states[layer], along)
        self._compare(layer, after)
        return pulled.square().sum(-1).mean(0)

    def _compare(self, layer: int, after: Tensor) -> None:
        """Hold what a block gave by itself against what it gave in the pass."""
        real = self._mask.to(after.device)
        wanted = self.states[layer + 1].to(after.device)[real]
        off = (after[real] - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
        self.replayed = max(self.replayed, float(off))

    def _pull(self, call: BlockCall, state: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        """What the block gives, and ``J^T v`` at each row's token, ``[draw, row, d_model]``."""
        leaf = state.detach().clone().requires_grad_()
        after = call(leaf)
        at = torch.tensor(self.at)
        rows = torch.arange(len(at))
        pulled = torch.empty(signs.shape, dtype=torch.float64)
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
