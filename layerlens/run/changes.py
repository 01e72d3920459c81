"""One resolved edit: what happens to which part of one site."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import HEADS, Site

#: What can be done to a value.
OPERATIONS = ("set", "add", "scale", "project_out", "block", "flow", "node")

#: Sites whose values are ``[batch, head, query, key]``.
SQUARE = frozenset({"pattern", "attn_scores"})


@dataclass(frozen=True, eq=False)
class Change:
    """One operation on chosen rows of one site.

    Parameters
    ----------
    site
        Kind, layer, and a head or None for all heads.
    op
        ``set``, ``add``, ``scale``; ``project_out`` removes what lies in the span of an
        orthonormal basis; ``block`` makes attention scores minus infinity. Two leave the numbers:
        ``flow`` lets only a share of a derivative pass, and ``node`` hands over what passes, which
        can be differentiated by.
    value
        Broadcasts against ``[position, (head,) width]`` of what is chosen; a basis ``[width,
        n]`` for ``project_out``; None for ``block`` and ``node``.
    positions
        Columns; queries for ``pattern`` and ``attn_scores``. None for every one.
    row
        Row of the batch; None for every one.
    neurons
        Entries of the last axis; None for all.
    keys
        Key positions of ``pattern`` and ``attn_scores``; None for all.
    receive
        What ``node`` calls with the tensor.
    """

    site: Site
    op: str
    value: Tensor | float | None = None
    positions: tuple[int, ...] | None = None
    row: int | None = None
    neurons: tuple[int, ...] | None = None
    keys: tuple[int, ...] | None = None
    receive: Callable[[Tensor], None] | None = None

    def __post_init__(self) -> None:
        if self.op not in OPERATIONS:
            raise InputError(f"{self.op!r} is no operation: use {', '.join(OPERATIONS)}.")

    @property
    def whole(self) -> bool:
        """Whether all that passes at its site is changed, none of it chosen or replaced."""
        chosen = (self.positions, self.row, self.neurons, self.keys, self.site.head)
        return self.op != "set" and all(part is None for part in chosen)

    def write(self, values: Tensor, at: tuple[Tensor, ...], batch: int = 1) -> None:
        """Change rows of a tensor in place.

        Parameters
        ----------
        values
            ``[*row, width]``, or ``[*row, head, width]`` for sites with heads.
        at
            Which rows: one index, of ``[batch * position]`` entries, for each of their axes.
        batch
            How many times ``value`` is repeated along the rows.
        """
        index: tuple[Tensor | int, ...] = at
        if self.site.kind in HEADS and self.site.head is not None:
            index = (*at, self.site.head)
        old = values[index]
        part = self.keys if self.site.kind in SQUARE else self.neurons
        if part is None:
            values[index] = self._made(old, batch)
            return
        columns = torch.tensor(part, device=values.device)
        new = old.clone()
        new[..., columns] = self._made(old[..., columns], batch)
        values[index] = new

    def _made(self, old: Tensor, batch: int) -> Tensor:
        """As :meth:`made`, of ``[batch * position, ...]``."""
        return self.made(old.unflatten(0, (batch, len(old) // batch))).reshape(old.shape)

    def made(self, old: Tensor) -> Tensor:
        """The new values in place of the old ones, ``[batch, position, ...]``."""
        if self.op == "block":
            return torch.full_like(old, float("-inf"))
        if self.receive is not None:
            node = old.view_as(old) if old.requires_grad else old.detach().requires_grad_()
            self.receive(node)
            return node
        if not isinstance(self.value, Tensor):
            number = 0.0 if self.value is None else float(self.value)
            if self.op == "flow":
                return _shared(old, number)
            return (
                torch.full_like(old, number)
                if self.op == "set"
                else (old * number if self.op == "scale" else old + number)
            )
        value = self.value.to(device=old.device, dtype=old.dtype)
        if self.op == "project_out":
            return old - (old @ value) @ value.transpose(-1, -2)
        if self.op == "set":
            return value.expand(old.shape)
        return old + value if self.op == "add" else old * value


def _shared(old: Tensor, share: float) -> Tensor:
    """The same numbers, infinite ones too; a share of a derivative passes."""
    if not share or not old.requires_grad:
        return old.detach()
    shared = old.view_as(old)
    shared.register_hook(lambda slope: slope * share)
    return shared
