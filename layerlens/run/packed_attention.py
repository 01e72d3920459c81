"""Attention of rows that belong to different cells, by the model's own function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layerlens.model.conventions import Attention
from layerlens.model.sites import Site
from layerlens.run.attention import Watch
from layerlens.run.base import Base
from layerlens.run.changes import Change
from layerlens.run.hooks import attention_watch, twin
from layerlens.run.packed_groups import Group, Stack, grouped


class Left:
    """What the rows of a block see of the unedited run.

    Parameters
    ----------
    keys
        The site of the keys as the scores are made of them: after rotation, if there is any.
    """

    def __init__(self, base: Base, keys: Site) -> None:
        self.length = base.length
        self._keys = base.trace[keys][0]
        self._values = base.trace[Site("v", keys.layer)][0]

    def complete(self, group: Group, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[cell, head, position, width]``: the base's, then each cell's own."""
        return group.keys(self._keys, k), group.keys(self._values, v)

    def mask(
        self, module: nn.Module, mask: Tensor | None, first: int, device: torch.device
    ) -> Tensor | None:
        """The rows of the mask for queries from this position on."""
        if mask is not None:
            return mask[..., first : self.length, : self.length]
        if not first or not getattr(module, "is_causal", True):
            return None
        rows = torch.arange(first, self.length, device=device)[:, None]
        return (torch.arange(self.length, device=device) <= rows)[None, None]


class PackedAttention:
    """Does the attention of all rows, group by group.

    Parameters
    ----------
    vectors
        Changes of q, k and v as the attention is given them, with the packed rows that they are
        made at.
    square
        Changes of scores and patterns.
    """

    def __init__(
        self,
        left: Left,
        stacks: Sequence[Stack],
        vectors: Sequence[tuple[Change, Tensor]],
        square: Sequence[Change],
    ) -> None:
        self._left = left
        self._stacks = stacks
        self._vectors = vectors
        self._square = square

    def attend(
        self,
        original: Attention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Do the attention group by group."""
        query, key, value = (
            self._edited(kind, tensor)
            for kind, tensor in zip("qkv", (query, key, value), strict=True)
        )
        outputs, begin = [], 0
        for group in grouped(self._stacks, self._left.length, query.device):
            rows = slice(begin, begin + group.rows)
            q = group.queries(query[:, :, rows])
            k, v = self._left.complete(group, key[:, :, rows], value[:, :, rows])
            seen = self._left.mask(module, mask, group.first, query.device)
            more = {name: _below(item, group.first) for name, item in kwargs.items()}
            watch = self._watch(group)
            output, _ = watch.attend(original, module, q, k, v, seen, *args, **more)
            outputs.append(group.taken(output))
            begin += group.rows
        return torch.cat(outputs, dim=1), None

    def _edited(self, kind: str, tensor: Tensor) -> Tensor:
        mine = [
            (change, rows)
            for change, rows in self._vectors
            if change.site.kind.removeprefix("rot_") == kind
        ]
        if not mine:
            return tensor
        tensor = tensor.clone()
        rows_first = tensor[0].transpose(0, 1)
        for change, rows in mine:
            change.write(rows_first, (rows,))
        return tensor

    def _watch(self, group: Group) -> Watch:
        """What is changed in the scores and patterns of the cells of a group."""
        place = group.places if self._square else {}
        mine = [change for change in self._square if change.row in place]

        def copy(values: Tensor, changes: Sequence[Change], batch: int, length: int) -> Tensor:
            values = twin(values)
            for change in changes:
                rows = torch.tensor(change.positions) - group.first
                change.write(values, (torch.full_like(rows, place[change.row]), rows))
            return values

        return attention_watch(mine, copy)


class KeysKnown(Exception):  # noqa: N818 - it ends a call that has given what was wanted of it
    """Ends the call of a block as soon as the keys and values of its rows are known."""


class KeysOnly:
    """Takes the keys and values of all rows, and ends the call of the block.

    Attributes
    ----------
    key, value
        ``[1, head, row, width]``.
    """

    key: Tensor
    value: Tensor

    def attend(
        self,
        original: Attention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Keep the keys and values.

        Raises
        ------
        KeysKnown
            Always.
        """
        self.key, self.value = key, value
        raise KeysKnown


class LastRows:
    """Does the attention of each cell's last row, when the keys of all rows are known.

    Parameters
    ----------
    known
        Keys and values of all rows of the stacks.
    """

    def __init__(self, left: Left, stacks: Sequence[Stack], known: KeysOnly) -> None:
        self._left = left
        self._stacks = stacks
        self._known = known

    def attend(
        self,
        original: Attention,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Do the attention group by group; a cell has one query."""
        last = self._left.length - 1
        seen = self._left.mask(module, mask, last, query.device)
        more = {name: _below(item, last) for name, item in kwargs.items()}
        outputs, begin, first = [], 0, 0
        for group in grouped(self._stacks, self._left.length, query.device):
            rows, end = slice(begin, begin + group.rows), first + group.cells
            q = query[0, :, first:end].transpose(0, 1).unsqueeze(2)
            key, value = self._known.key[:, :, rows], self._known.value[:, :, rows]
            k, v = self._left.complete(group, key, value)
            output, _ = original(module, q, k, v, seen, *args, **more)
            outputs.append(output.transpose(0, 1))
            begin, first = rows.stop, end
        return torch.cat(outputs, dim=1), None


def _below(value: Any, position: int) -> Any:
    """The rows from a position on of what the attention is given for each pair of positions."""
    square = isinstance(value, Tensor) and value.dim() == 4 and value.shape[2] == value.shape[3]
    return value[:, :, position:] if square else value
