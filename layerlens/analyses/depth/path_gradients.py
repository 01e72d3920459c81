"""Gradients along the way from one sublayer's output to a baseline, several steps side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from layerlens.analyses.sweeps.straight_way import INSIDE, places
from layerlens.errors import InputError
from layerlens.run.changes import Change
from layerlens.run.gate import Gate
from layerlens.run.hooks import install, plain_rows
from layerlens.run.replay import BlockCall, capture_calls

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.sites import Site
    from layerlens.model.text import Tokens


class Along(NamedTuple):
    """What one way gave.

    Parameters
    ----------
    attribution
        ``[position]`` float64.
    baseline, moved
        The metric with the sublayer at its baseline, and moved as far at random.
    """

    attribution: Tensor
    baseline: float
    moved: float


class PathGradients:
    """One text, in as many rows as steps are taken at once.

    Parameters
    ----------
    measure
        The metric, and the position where it is measured.
    rows
        How many steps are taken side by side, at most.
    memory_limit
        Bytes that they may take.

    Attributes
    ----------
    blocks
        Rows that went through a block, there and back; the way back counts as two.
    """

    def __init__(
        self,
        model: LensModel,
        text: Tokens,
        measure: tuple[Metric, int],
        rows: int,
        memory_limit: int,
        tick: Callable[[], None],
    ) -> None:
        self.model, self.tick = model, tick
        self.metric, self.at = measure
        row = text.ids.shape[1] * model.d_model * model.dtype.itemsize * model.n_layers * INSIDE
        self.rows = max(1, min(rows, memory_limit // row))
        many = text.repeated(self.rows)
        self.states: list[Tensor] = []
        keep = lambda _, state: self.states.append(state)  # noqa: E731
        self.calls: list[BlockCall]
        self.calls, _ = capture_calls(model, many, keep, logits="last", for_autograd=True)
        self.blocks = self.rows * model.n_layers

    @property
    def clean(self) -> float:
        """The metric of the text as it is."""
        with torch.no_grad():
            return float(self.metric(self.states[-1][:1, self.at])[0])

    def along(self, site: Site, off: Tensor, random: Tensor, steps: int) -> Along:
        """Integrate from the baseline of a sublayer to its own output.

        Parameters
        ----------
        site
            What it adds to the stream.
        off
            ``[position, d_model]``, its output less the baseline.
        random
            The same lengths in a random direction.
        steps
            Gradients that are taken, at the nodes of Gauss-Legendre.
        """
        shares, sizes = places(steps)
        # The last two have no weight: the baseline, and the random direction.
        every = torch.cat([shares, shares.new_zeros(2)])
        weighed = torch.cat([sizes, sizes.new_zeros(2)])
        total = torch.zeros(off.shape[0], dtype=torch.float64)
        ends: list[float] = []
        for start in range(0, len(every), self.rows):
            here = slice(start, start + self.rows)
            alphas, weights = every[here], weighed[here]
            moved = torch.stack([off * (float(alpha) - 1) for alpha in alphas])
            if start + len(alphas) == len(every):
                moved[-1] = random
            values, slopes = self._slopes(site, moved)
            found = torch.einsum("rpd,pd->rp", slopes.double().cpu(), off.double().cpu())
            total += (weights.double()[:, None] * found).sum(0)
            ends += values.tolist()
        return Along(total, ends[-2], ends[-1])

    def _slopes(self, site: Site, moved: Tensor) -> tuple[Tensor, Tensor]:
        """The metric of each row, ``[row]``, and its gradient by what is added there."""
        count, layer = len(moved), site.block
        missing = self.rows - count  # blocks are called with as many rows as they were watched with
        leaf = torch.cat([moved, moved[:1].expand(missing, -1, -1)]).clone().requires_grad_()
        self.tick()
        with ExitStack() as stack:
            changes = [Change(site, "add", own, row=row) for row, own in enumerate(leaf)]
            install(self.model, changes, plain_rows, Gate(), stack, batch=self.rows)
            state = self.calls[layer](self.states[layer])
        for later in range(layer + 1, self.model.n_layers):
            self.tick()
            state = self.calls[later](state)
        values = self.metric(state[:, self.at])
        if not values.requires_grad:
            raise InputError(
                "This metric has no derivative (it counts, compares or leaves torch): use "
                "logit_diff, logit, probability or logprob."
            )
        (slopes,) = torch.autograd.grad(values.sum(), leaf)
        self.blocks += 3 * self.rows * (self.model.n_layers - layer)
        return values.detach()[:count], slopes[:count]
