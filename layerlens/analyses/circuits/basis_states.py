"""States of texts between blocks, how each block was called, and which positions count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from layerlens.metrics.batch import split
from layerlens.run.replay import BlockCall, capture_calls, replay

if TYPE_CHECKING:
    from layerlens.analyses.circuits.basis import Basis, Floats
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

TOKENS = 256
"""Tokens of a pass: their logits are held at once."""


@dataclass(frozen=True)
class BasisBatch:
    """Some texts after one pass.

    Attributes
    ----------
    calls
        How the model called each block.
    states
        At each point, ``[batch, position, d_model]``.
    counted
        ``[batch, position]``: what comes before a next token that counts, itself included.
    answers
        ``[batch, position]``: where a next token that counts is foretold.
    wanted
        ``[n]``, these tokens.
    """

    calls: list[BlockCall]
    states: list[Tensor]
    counted: Tensor
    answers: Tensor
    wanted: Tensor


class BasisStates:
    """Texts of one model, ready to be run on from each point.

    Parameters
    ----------
    starts
        Blocks whose input is a point, ascending; the state after the last block is one more.
    last
        Only the last token of a text is foretold.
    skip
        Tokens at the beginning of a text that do not count.
    for_autograd
        Blocks will be run with gradients recorded.

    Attributes
    ----------
    loss
        Mean loss of the tokens that count, from the logits of the pass itself.
    replayed
        How far states are from those of the pass where blocks are run again, of the largest.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        starts: Sequence[int],
        *,
        last: bool,
        skip: int,
        for_autograd: bool,
        tick: Callable[[], None],
    ) -> None:
        self.model, self.starts, self._tick = model, list(starts), tick
        self.ends = [*self.starts, model.n_layers]
        self.replayed = 0.0
        self.batches: list[BasisBatch] = []
        total = 0.0
        for batch, _ in split(tokens, most_tokens=TOKENS):
            tick()
            found, logits = self._read(batch, last, skip, for_autograd)
            self.batches.append(found)
            rows = logits[found.answers.to(logits.device)].float().cpu()
            total += float(cross_entropy(rows, found.wanted, reduction="sum"))
        self.foretold = sum(len(batch.wanted) for batch in self.batches)
        self.loss = total / self.foretold if self.foretold else float("nan")

    def _read(
        self, tokens: Tokens, last: bool, skip: int, for_autograd: bool
    ) -> tuple[BasisBatch, Tensor]:
        kept: dict[int, Tensor] = {}

        def keep(layer: int, state: Tensor) -> None:
            self._tick()
            if layer in self.ends:
                kept[layer] = state

        calls, logits = capture_calls(self.model, tokens, keep, for_autograd=for_autograd)
        assert logits is not None
        counted, answers = places(tokens, last, skip)
        following = tokens.ids.roll(-1, 1)
        states = [kept[layer] for layer in self.ends]
        return BasisBatch(calls, states, counted, answers, following[answers]), logits

    @property
    def points(self) -> int:
        """How many states of a token there are."""
        return len(self.ends)

    def where(self, batch: BasisBatch, point: int) -> Tensor:
        """``[batch, position]``: tokens whose state is looked at; at the end those that answer."""
        found = batch.answers if point == self.points - 1 else batch.counted
        return found.to(batch.states[point].device)

    def rows(self, point: int) -> Iterator[Tensor]:
        """States ``[n, d_model]`` that count, float32, batch by batch."""
        for batch in self.batches:
            yield batch.states[point][self.where(batch, point)].float()

    def covariance(self, point: int) -> tuple[Floats, Floats, int]:
        """Mean ``[d]`` and covariance ``[d, d]`` of the states, and how many there are."""
        mean = torch.cat([rows.double().sum(0, keepdim=True) for rows in self.rows(point)]).sum(0)
        count = sum(len(rows) for rows in self.rows(point))
        mean /= count
        gram = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for rows in self.rows(point):
            off = rows.double() - mean
            gram += (off.T @ off).cpu()
        return mean.cpu().numpy(), (gram / count).numpy(), count

    def ahead(self, batch: BasisBatch, point: int, state: Tensor) -> Tensor:
        """State at the next point, given one at this point; of the model's own blocks."""
        for call in batch.calls[self.ends[point] : self.ends[point + 1]]:
            self._tick()
            state = call(state)
        return state

    def compare(self, batch: BasisBatch, point: int, state: Tensor) -> None:
        """Hold states at a point, computed again, against those of the pass."""
        where = self.where(batch, point)
        there = batch.states[point][where].float()
        off = (state.detach()[where].float() - there).abs().max() / there.abs().max()
        self.replayed = max(self.replayed, float(off))

    def loss_with(self, point: int, change: Callable[[Tensor], Tensor]) -> float:
        """Mean loss with the states ``[n, d_model]`` at a point changed: true runs from there."""
        total = 0.0
        for batch in self.batches:
            self._tick()
            where, state = self.where(batch, point), batch.states[point].clone()
            state[where] = change(state[where].float()).to(state.dtype)
            order = range(self.ends[point], self.model.n_layers)
            with torch.no_grad():
                state = replay(self.model, batch.calls, state, order)
                logits = self.model.unembed(state[batch.answers.to(state.device)])
            rows = logits.float().cpu()
            total += float(cross_entropy(rows, batch.wanted, reduction="sum"))
        return total / self.foretold


def places(tokens: Tokens, last: bool, skip: int) -> tuple[Tensor, Tensor]:
    """Which tokens count, and at which of them a next token is foretold that counts."""
    following = tokens.mask.roll(-1, 1)
    following[:, -1] = False
    counted = tokens.mask & following & (tokens.position_ids >= skip)
    if not last:
        return counted, counted
    later = counted.flip(1).cumsum(1).flip(1)
    return counted, counted & (later == 1)


def keep_first(basis: Basis, kept: int) -> Callable[[Tensor], Tensor]:
    """A change of states: the first coordinates as they are, all others at their mean."""
    mean, projector = torch.from_numpy(basis.mean), torch.from_numpy(basis.projector(kept))
    return lambda state: _put(state, mean, projector)


def without(basis: Basis, number: int) -> Callable[[Tensor], Tensor]:
    """A change of states: one coordinate at its mean, all others as they are."""
    own = basis.read[:, [number]] @ basis.write[[number]]
    rest = torch.from_numpy(np.eye(len(own)) - own)
    mean = torch.from_numpy(basis.mean)
    return lambda state: _put(state, mean, rest)


def _put(state: Tensor, mean: Tensor, projector: Tensor) -> Tensor:
    mean, projector = mean.to(state), projector.to(state)
    return (state - mean) @ projector + mean
