"""Run a text with layers left out, in all combinations that are wanted, sharing what is alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.run.block_rows import RowCalls
from layerlens.run.replay import capture_calls
from layerlens.run.skip import mute, skip_hooks

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Skipped = tuple[int, ...]

SMALLEST = 1e-6
"""A contribution shorter than this counts as this long."""


@dataclass(frozen=True)
class Window:
    """At which positions layers are left out, and at which the effect is measured."""

    changed: tuple[int, ...]
    measured: tuple[int, ...]


class CleanRun:
    """The undisturbed run of one text: its states and how its blocks were called.

    Attributes
    ----------
    states
        ``[1, position, d_model]`` each: before every block, and after the last.
    """

    def __init__(self, model: LensModel, tokens: Tokens, tick: Callable[[], None]) -> None:
        self.states: list[Tensor] = []

        def see(layer: int, state: Tensor) -> None:
            tick()
            self.states.append(state)

        self.calls = RowCalls(model, tokens, see)

    @property
    def final(self) -> Tensor:
        """``[position, d_model]``, the state after the last block."""
        return self.states[-1][0]

    def change(self, layer: int, before: Tensor, after: Tensor, positions: list[int]) -> Tensor:
        """How far a layer's contribution is from its undisturbed one, relative to that.

        Parameters
        ----------
        before, after
            ``[row, position, d_model]``, the disturbed states around the block.

        Returns
        -------
        Tensor
            ``[row, measured position]`` float32.
        """
        old, new = self.states[layer][:, positions], self.states[layer + 1][:, positions]
        clean = new.float() - old.float()
        moved = after[:, positions].float() - before[:, positions].to(after.device).float()
        off = (moved - clean).norm(dim=-1)
        relative: Tensor = off / clean.norm(dim=-1).clamp(min=SMALLEST)
        return relative


@dataclass(eq=False)
class SkipRow:
    """One run with layers left out.

    Attributes
    ----------
    skipped
        The layers, ascending; none for the run that measures rounding.
    change
        ``[layer, measured position]`` float32, see :meth:`CleanRun.change`.
    final
        ``[position, d_model]``, the state after the last block.
    """

    skipped: Skipped
    change: Tensor
    final: Tensor


def combinations(n_layers: int, mode: str, firsts: Iterable[int]) -> list[Skipped]:
    """What is left out together, for the given first layers, in the order of results."""
    found: list[Skipped] = []
    for first in firsts:
        found.append((first,))
        for other in range(first + 1, n_layers):
            if mode == "pairs":
                found.append((first, other))
            elif mode == "ranges":
                found.append(tuple(range(first, other + 1)))
    return found


class Sweep:
    """Runs of one text with layers left out at the positions of one window.

    A run begins at the stored state of its first layer. Rows that leave out the same layers so
    far are one row: it is split where one of them leaves out another layer, so all pairs cost
    little more than half of what each alone would from its first layer on.
    """

    def __init__(
        self, model: LensModel, clean: CleanRun, window: Window, part: str, mode: str
    ) -> None:
        self._model, self._clean, self._window = model, clean, window
        self._part, self._mode = part, mode
        self._measured = list(window.measured)
        length = clean.states[0].shape[1]
        mask = torch.zeros(length, 1, dtype=torch.bool)
        mask[list(window.changed)] = True
        self._mask = mask
        self.blocks_run = 0

    def run(self, firsts: range, tick: Callable[[], None]) -> list[SkipRow]:
        """Every combination whose first layer is in ``firsts``; the last row leaves out nothing."""
        clean = self._clean.states
        rows = [self._row((), clean[firsts.start][0])]
        for layer in range(firsts.start, self._model.n_layers):
            tick()
            before = torch.stack([row.final for row in rows])
            after = self._clean.calls(layer, before)
            self.blocks_run += len(rows)
            forks = [number for number, row in enumerate(rows) if self._forks(row, layer)]
            new = self._fork(layer, [rows[i] for i in forks], before[forks], after[forks])
            if layer in firsts:
                root = self._row((), clean[layer][0])
                new += self._fork(layer, [root], clean[layer], clean[layer + 1])
            self._step(layer, rows, before, after)
            rows += new
        return [*sorted(rows[1:], key=lambda row: _place(row.skipped)), rows[0]]

    def _row(self, skipped: Skipped, state: Tensor) -> SkipRow:
        change = torch.zeros(self._model.n_layers, len(self._measured))
        return SkipRow(skipped, change, state)

    def _forks(self, row: SkipRow, layer: int) -> bool:
        """Whether a row goes two ways at a layer: through it, and past it."""
        if self._mode == "pairs":
            return len(row.skipped) == 1
        return self._mode == "ranges" and row.skipped[-1:] == (layer - 1,)

    def _fork(
        self, layer: int, parents: list[SkipRow], before: Tensor, after: Tensor
    ) -> list[SkipRow]:
        """Rows that leave this layer out and were their parents before."""
        if not parents:
            return []
        children = [self._row((*row.skipped, layer), row.final) for row in parents]
        for child, row in zip(children, parents, strict=True):
            child.change[:layer] = row.change[:layer]
        self._step(layer, children, before, self._without(layer, before, after))
        return children

    def _without(self, layer: int, before: Tensor, after: Tensor) -> Tensor:
        """States after a layer that is left out, given those before it and after the whole."""
        if self._part == "block":
            mask = self._mask.to(after.device)
            return torch.where(mask, before.to(after.device), after)
        parts = []
        for some in before.split(self._clean.calls.at_once):
            with ExitStack() as stack:
                mute(self._model, layer, self._part, self._window.changed, len(some), stack)
                parts.append(self._clean.calls(layer, some))
        self.blocks_run += len(before)
        return torch.cat(parts)

    def _step(self, layer: int, rows: list[SkipRow], before: Tensor, after: Tensor) -> None:
        if not rows:
            return
        change = self._clean.change(layer, before, after, self._measured).cpu()
        for number, row in enumerate(rows):
            row.change[layer] = change[number]
            row.final = after[number]


def _place(skipped: Skipped) -> tuple[int, int]:
    return skipped[0], len(skipped) if len(skipped) == 1 else skipped[-1] + 1


def naive(
    model: LensModel, tokens: Tokens, clean: CleanRun, window: Window, part: str, skipped: Skipped
) -> SkipRow:
    """The same by one pass of the whole model with hooks on the layers that are left out."""
    states: list[Tensor] = []
    with ExitStack() as stack:
        skip_hooks(model, skipped, part, window.changed, stack)
        capture_calls(model, tokens, lambda _, state: states.append(state), logits=None)
    measured = list(window.measured)
    pairs = pairwise(states)
    change = [clean.change(layer, *pair, measured)[0] for layer, pair in enumerate(pairs)]
    return SkipRow(skipped, torch.stack(change).cpu(), states[-1][0])
