"""Packed replay: all cells of a sweep travel through the model's own blocks together.

In a causal model an edit at layer l and position t reaches nothing before layer l and nothing
left of t. So a cell joins at its first block with the unedited run's states, brings only the
rows from its first edited position on, and sees, left of that, the keys and values of the
unedited run. All rows of all cells form one long sequence, so that each block's weights are
read once a sweep; what depends on the position (rotary tables, position ids) is given row by
row, and attention is done group by group by the model's own attention function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import MemoryLimitError
from layerlens.model.conventions import Attention
from layerlens.model.sites import HEADS, Site
from layerlens.run.attention import INSIDE, Watch, watching
from layerlens.run.base import Base
from layerlens.run.cell import Cell, OnCells
from layerlens.run.changes import SQUARE, Change
from layerlens.run.gate import Gate
from layerlens.run.hooks import Installed, attention_watch, install
from layerlens.run.replay import BlockCall

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def run_packed(
    model: LensModel,
    base: Base,
    cells: Sequence[Cell],
    on_cells: OnCells,
    memory_limit: int,
    tick: Callable[[], None],
) -> None:
    """Run cells in waves; see :func:`layerlens.run.many_edits.run_cells`."""
    for wave in waves(model, base, cells, memory_limit):
        run = _Wave(model, base, cells, wave)
        for layer in range(run.start, model.n_layers):
            tick()
            run.step(layer)
        on_cells(*run.finish())


def waves(
    model: LensModel, base: Base, cells: Sequence[Cell], memory_limit: int
) -> Iterator[list[int]]:
    """Numbers of the cells of each wave, in the order of the cells.

    Raises
    ------
    MemoryLimitError
        If not even one cell fits.
    """
    row = row_bytes(model, base.length)
    most = memory_limit // row
    if most < base.length:
        raise MemoryLimitError(
            f"One cell takes up to {base.length * row / 1e6:.0f} MB, but the limit is "
            f"{memory_limit / 1e6:.0f} MB: raise memory_limit."
        )
    wave: list[int] = []
    rows = 0
    for index, cell in enumerate(cells):
        own = base.length - cell.position
        if rows + own > most:
            yield wave
            wave, rows = [], 0
        wave.append(index)
        rows += own
    if wave:
        yield wave


def row_bytes(model: LensModel, length: int) -> int:
    """Bytes that one row takes at the widest place of a block, about."""
    widths = []
    for block in model.anatomy.blocks:
        tap = block.taps.get("mlp_post")
        module: Any = None if tap is None else model.hf.get_submodule(tap.module)
        widths.append(int(getattr(module, "in_features", 4 * model.d_model)))
    heads = model.n_heads * (3 * length + 2 * model.d_model // max(model.n_heads, 1))
    return model.dtype.itemsize * (6 * model.d_model + 4 * max(widths) + heads)


@dataclass
class _Stack:
    """Cells whose first edited position is the same: their rows form ``[cell, row]``."""

    position: int
    cells: list[int]
    states: Tensor

    @property
    def rows(self) -> int:
        return self.states.shape[0] * self.states.shape[1]


class _Wave:
    """Some cells on their way through the blocks."""

    def __init__(
        self, model: LensModel, base: Base, cells: Sequence[Cell], wave: Sequence[int]
    ) -> None:
        self._model = model
        self._base = base
        self._entering: dict[int, list[int]] = {}
        self._position = {index: cells[index].position for index in wave}
        self._changes: dict[int, list[Change]] = {}
        for index in wave:
            layer = cells[index].layer
            self._entering.setdefault(layer, []).append(index)
            for change in cells[index].changes:
                # Its row is its cell; a change that cells share becomes one for each of them.
                at, own = _earliest(replace(change, row=index))
                self._changes.setdefault(at, []).append(own)
        self.start = min(self._entering)
        self._stacks: dict[int, _Stack] = {}

    def finish(self) -> tuple[list[int], Tensor]:
        """Numbers of the cells, and their last states at the last position."""
        self._enter(self._model.n_layers)
        self._edit_stream(self._model.n_layers)
        stacks = self._stacks.values()
        order = [index for stack in stacks for index in stack.cells]
        return order, torch.cat([stack.states[:, -1] for stack in stacks])

    def step(self, layer: int) -> None:
        """Take every cell through one block."""
        self._enter(layer)
        self._edit_stream(layer)
        stacks = list(self._stacks.values())
        length = self._base.length
        packed = torch.cat([stack.states.flatten(0, 1) for stack in stacks])
        columns = torch.cat(
            [torch.arange(s.position, length).repeat(len(s.cells)) for s in stacks]
        ).to(packed.device)
        call = self._base.calls[layer]
        with ExitStack() as stack:
            installed = self._install(layer, stack)
            after = _placed(call, columns, length)(packed[None])[0]
        installed.require_all()
        begin = 0
        for one in stacks:
            one.states = after[begin : begin + one.rows].view(one.states.shape)
            begin += one.rows

    def _enter(self, layer: int) -> None:
        """Let the cells join whose first block this is, with the unedited run's states."""
        state = self._base.state(layer)
        groups: dict[int, list[int]] = {}
        for index in self._entering.get(layer, []):
            groups.setdefault(self._position[index], []).append(index)
        for position, indices in sorted(groups.items()):
            rows = state[position:]
            new = rows.expand(len(indices), *rows.shape)
            if position in self._stacks:
                old = self._stacks[position]
                old.cells += indices
                old.states = torch.cat([old.states, new])
            else:
                self._stacks[position] = _Stack(position, indices, new.clone())

    def _offsets(self) -> dict[int | None, int]:
        """Number of the row at which position 0 of each cell would be."""
        offsets: dict[int | None, int] = {}
        begin = 0
        for stack in self._stacks.values():
            length = stack.states.shape[1]
            for number, index in enumerate(stack.cells):
                offsets[index] = begin + number * length - stack.position
            begin += stack.rows
        return offsets

    def _edit_stream(self, layer: int) -> None:
        """Change the states before a block."""
        mine = [c for c in self._changes.get(layer, []) if c.site.kind == "resid_pre"]
        for stack in self._stacks.values():
            place = _places(stack)
            length = stack.states.shape[1]
            offsets = {index: number * length - stack.position for index, number in place.items()}
            here = [change for change in mine if change.row in place]
            for change, rows in _merged(here, offsets):
                change.write(stack.states.view(-1, stack.states.shape[-1]), (rows,))

    def _install(self, layer: int, stack: ExitStack) -> Installed:
        """Put the changes inside a block, and the packed attention, in place."""
        offsets = self._offsets()
        mine = [c for c in self._changes.get(layer, []) if c.site.kind != "resid_pre"]
        square = [change for change in mine if change.site.kind in SQUARE]
        vectors = [change for change in mine if change.site.kind in ("q", "k", "v")]
        others = [change for change in mine if change.site.kind not in INSIDE]
        merged = _merged(others, offsets)
        rows = {id(change): found for change, found in merged}
        changes = [change for change, _ in merged]

        def own_rows(change: Change, batch: int, length: int) -> Tensor:
            return rows[id(change)]

        installed = install(self._model, changes, own_rows, Gate(), stack, batch=1)
        block = self._model.anatomy.blocks[layer]
        if block.mixer is not None:
            stacks = list(self._stacks.values())
            edited = _merged(vectors, offsets)
            handler = _PackedAttention(self._base, layer, stacks, edited, square)
            stack.enter_context(watching(self._model.hf.get_submodule(block.mixer), handler))
        return installed


def _places(stack: _Stack) -> dict[int | None, int]:
    """The place of each cell in its stack."""
    return {index: number for number, index in enumerate(stack.cells)}


def _earliest(change: Change) -> tuple[int, Change]:
    """The layer at which a change is made; a block's output is the next one's input."""
    layer = change.site.block
    if change.site.kind != "resid_post":
        return layer, change
    return layer + 1, replace(change, site=Site("resid_pre", layer + 1))


def _merged(
    changes: Sequence[Change], offsets: Mapping[int | None, int]
) -> list[tuple[Change, Tensor]]:
    """Changes and their rows; those that do the same at different rows become one."""
    order: Counter[int | None] = Counter()
    groups: dict[tuple[Any, ...], tuple[list[Change], list[int]]] = {}
    for number, change in enumerate(changes):
        order[change.row] += 1  # later edits of a cell come later
        nth = order[change.row]
        key = (nth, -1, change.site, change.op, change.neurons)
        group, rows = groups.setdefault(key if _stackable(change) else (nth, number), ([], []))
        group.append(change)
        rows += [offsets[change.row] + position for position in change.positions or ()]
    found = []
    for key in sorted(groups, key=lambda key: key[0]):
        (first, *more), rows = groups[key]
        if more:
            values = [change.value for change in (first, *more)]
            first = replace(first, value=torch.cat(values))  # type: ignore[arg-type]
        found.append((first, torch.tensor(rows)))
    return found


def _stackable(change: Change) -> bool:
    """Whether the value has its own row for every position, so that values can be stacked."""
    value, site = change.value, change.site
    if change.op not in ("set", "add") or not isinstance(value, Tensor):
        return False
    axes = 3 if site.kind in HEADS and site.head is None else 2
    return value.dim() == axes and value.shape[0] == len(change.positions or ())


def _placed(call: BlockCall, columns: Tensor, length: int) -> BlockCall:
    """A block's call with what depends on the position given for these columns."""
    place = partial(_at_columns, columns=columns, length=length)
    kwargs = {name: place(value) for name, value in call.kwargs.items()}
    return replace(call, args=tuple(map(place, call.args)), kwargs=kwargs)


def _at_columns(value: Any, columns: Tensor, length: int) -> Any:
    """Tensors with one axis of positions are given by row; square ones, masks, stay as they are."""
    if isinstance(value, tuple | list):
        return type(value)(_at_columns(item, columns, length) for item in value)
    if isinstance(value, dict):
        return {key: _at_columns(item, columns, length) for key, item in value.items()}
    if not isinstance(value, Tensor) or (value.dim() == 4 and value.shape[2] == length):
        return value
    axis = 0 if value.dim() == 1 else 2 if value.dim() == 4 else 1
    if value.shape[axis : axis + 1] != (length,):
        return value
    return value.index_select(axis, columns.to(value.device))


class _PackedAttention:
    """Attention of rows that belong to different cells, by the model's own function."""

    def __init__(
        self,
        base: Base,
        layer: int,
        stacks: Sequence[_Stack],
        vectors: Sequence[tuple[Change, Tensor]],
        square: Sequence[Change],
    ) -> None:
        self._length = base.length
        self._keys = base.trace[Site("k", layer)].transpose(1, 2)
        self._values = base.trace[Site("v", layer)].transpose(1, 2)
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
        """Do the attention stack by stack."""
        query, key, value = (
            self._edited(kind, tensor)
            for kind, tensor in zip("qkv", (query, key, value), strict=True)
        )
        outputs, begin = [], 0
        for stack in self._stacks:
            shape = stack.states.shape[:2]
            rows = slice(begin, begin + stack.rows)
            q, k, v = (_split(tensor, rows, shape) for tensor in (query, key, value))
            k = _after(self._keys[:, :, : stack.position], k)
            v = _after(self._values[:, :, : stack.position], v)
            seen = self._mask(module, mask, stack.position, query.device)
            more = {name: _below(item, stack.position) for name, item in kwargs.items()}
            watch = self._watch(stack)
            output, _ = watch.attend(original, module, q, k, v, seen, *args, **more)
            outputs.append(output.reshape(1, stack.rows, *output.shape[2:]))
            begin += stack.rows
        return torch.cat(outputs, dim=1), None

    def _edited(self, kind: str, tensor: Tensor) -> Tensor:
        mine = [(change, rows) for change, rows in self._vectors if change.site.kind == kind]
        if not mine:
            return tensor
        tensor = tensor.clone()
        rows_first = tensor[0].transpose(0, 1)
        for change, rows in mine:
            change.write(rows_first, (rows,))
        return tensor

    def _mask(
        self, module: nn.Module, mask: Tensor | None, position: int, device: torch.device
    ) -> Tensor | None:
        """The rows of the mask for positions from this one on."""
        if mask is not None:
            return mask[..., position : self._length, : self._length]
        if not position or not getattr(module, "is_causal", True):
            return None
        rows = torch.arange(position, self._length, device=device)[:, None]
        return (torch.arange(self._length, device=device) <= rows)[None, None]

    def _watch(self, stack: _Stack) -> Watch:
        """What is changed in the scores and patterns of the cells of a stack."""
        place = _places(stack)
        mine = [change for change in self._square if change.row in place]

        def apply(values: Tensor, changes: Sequence[Change], batch: int, length: int) -> None:
            for change in changes:
                rows = torch.tensor(change.positions) - stack.position
                change.write(values, (torch.full_like(rows, place[change.row]), rows))

        return attention_watch(mine, apply)


def _split(tensor: Tensor, rows: slice, shape: torch.Size) -> Tensor:
    """``[1, head, row, width]`` to ``[cell, head, row, width]`` of one stack."""
    split: Tensor = tensor[0, :, rows].unflatten(1, shape)
    return split.transpose(0, 1)


def _after(base: Tensor, own: Tensor) -> Tensor:
    """Keys or values of the unedited run, and after them each cell's own."""
    return torch.cat([base.expand(own.shape[0], *base.shape[1:]), own], dim=2)


def _below(value: Any, position: int) -> Any:
    """The rows from a position on of what the attention is given for each pair of positions."""
    square = isinstance(value, Tensor) and value.dim() == 4 and value.shape[2] == value.shape[3]
    return value[:, :, position:] if square else value
