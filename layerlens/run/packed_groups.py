"""Cells of a packed run that share a position or a call of the attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FILLED = 4096
"""Rows of cells in one call of the attention, each cell counted with all positions of the text:
enough to do those of a short text at once, few enough that keys take little memory."""


@dataclass
class Stack:
    """Cells whose first edited position is the same: their rows form ``[cell, row]``."""

    position: int
    cells: list[int]
    states: Tensor

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return self.states.shape[0] * self.states.shape[1]


class Group:
    """Stacks whose attention is done in one call, each cell filled up to the same positions.

    Attributes
    ----------
    first
        The first position of any cell: a query that a cell does not have is left 0, and what
        comes of it is dropped.
    cells
        How many there are.
    """

    def __init__(self, stacks: Sequence[Stack], length: int, device: torch.device) -> None:
        self._stacks = stacks
        self._length = length
        self.first = min(stack.position for stack in stacks)
        self.cells = sum(len(stack.cells) for stack in stacks)
        every = torch.arange(self.cells * length, device=device).view(self.cells, length)
        parts = every.split([len(stack.cells) for stack in stacks])
        own = [
            part[:, stack.position :].flatten() for part, stack in zip(parts, stacks, strict=True)
        ]
        found = torch.cat(own)
        self._cell, self._position = found // length, found % length

    @property
    def places(self) -> dict[int | None, int]:
        """The place of each cell."""
        order = [index for stack in self._stacks for index in stack.cells]
        return {index: number for number, index in enumerate(order)}

    @property
    def rows(self) -> int:
        """How many rows the cells have themselves."""
        return len(self._cell)

    def queries(self, own: Tensor) -> Tensor:
        """``[1, head, row, width]`` to ``[cell, head, position, width]``, from ``first`` on."""
        _, heads, _, width = own.shape
        filled = own.new_zeros(self.cells, self._length - self.first, heads, width)
        return self._filled(filled, self.first, own)

    def keys(self, base: Tensor, own: Tensor) -> Tensor:
        """The same of keys or values, of all positions: left of a cell's own are the base's.

        Parameters
        ----------
        base
            ``[position, head, width]``.
        """
        return self._filled(base.expand(self.cells, *base.shape).clone(), 0, own)

    def _filled(self, filled: Tensor, first: int, own: Tensor) -> Tensor:
        filled[self._cell, self._position - first] = own[0].transpose(0, 1)
        return filled.transpose(1, 2)

    def taken(self, output: Tensor) -> Tensor:
        """``[cell, position, ...]`` from ``first`` on to the cells' own rows, ``[1, row, ...]``."""
        return output[self._cell, self._position - self.first].unsqueeze(0)


def grouped(stacks: Sequence[Stack], length: int, device: torch.device) -> Iterator[Group]:
    """Stacks in their order, as many to a call as :data:`FILLED` allows."""
    few: list[Stack] = []
    for stack in stacks:
        if few and sum(len(one.cells) for one in (*few, stack)) * length > FILLED:
            yield Group(few, length, device)
            few = []
        few.append(stack)
    yield Group(few, length, device)
