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
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import MemoryLimitError
from layerlens.model.sites import HEADS, Site
from layerlens.run.attention import watching
from layerlens.run.base import Base
from layerlens.run.cell import Cell, OnCells
from layerlens.run.changes import SQUARE, Change
from layerlens.run.gate import Gate
from layerlens.run.hooks import Installed, install, is_inside
from layerlens.run.packed_attention import (
    KeysKnown,
    KeysOnly,
    LastRows,
    Left,
    PackedAttention,
)
from layerlens.run.packed_groups import Stack
from layerlens.run.replay import BlockCall

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ROWS = 1024
"""Rows in one call of a block: enough for large matrix products, few enough for the caches."""


def run_packed(
    model: LensModel,
    base: Base,
    cells: Sequence[Cell],
    on_cells: OnCells,
    memory_limit: int,
    tick: Callable[[], None],
    *,
    ordered: bool = False,
) -> None:
    """Run cells in waves; see :func:`layerlens.run.many_edits.run_cells`."""
    if ordered:
        groups = doubling(model, base, cells)
    else:
        early = soonest(model, base, cells)
        groups = [early, sorted(set(range(len(cells))) - set(early))]
    for numbers in groups:
        for wave in waves(model, base, [cells[number] for number in numbers], memory_limit):
            run = _Wave(model, base, cells, [numbers[index] for index in wave])
            for layer in range(run.start, model.n_layers):
                tick()
                run.step(layer)
            on_cells(*run.finish())


def soonest(model: LensModel, base: Base, cells: Sequence[Cell]) -> list[int]:
    """Numbers of the cells with the fewest blocks to go, about one pass over the text in all.

    They are run by themselves first, so that there is something to see; that reads the weights
    of the last blocks once more. Where all cells are soon done, none are.
    """
    work, one_pass = _work(model, base, cells)
    if sum(work) < 4 * one_pass:
        return []
    found, done = [], 0
    for index in sorted(range(len(cells)), key=lambda index: -cells[index].layer):
        done += work[index]
        if done > one_pass:
            break
        found.append(index)
    return sorted(found)


def doubling(model: LensModel, base: Base, cells: Sequence[Cell]) -> list[list[int]]:
    """Numbers of the cells in groups of one pass over the text, then two, four and so on.

    What is left for the last group joins the one before where it is less than that.
    """
    work, room = _work(model, base, cells)
    groups: list[list[int]] = [[]]
    done, left = 0, sum(work)
    for index, own in enumerate(work):
        if done >= room and left >= room:
            groups.append([])
            done, room = 0, 2 * room
        groups[-1].append(index)
        done, left = done + own, left - own
    return groups


def _work(model: LensModel, base: Base, cells: Sequence[Cell]) -> tuple[list[int], int]:
    """Rows times blocks of each cell, and of a pass over the text."""
    work = [(model.n_layers - cell.layer) * (base.length - cell.position) for cell in cells]
    return work, model.n_layers * base.length


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
        self._stacks: list[Stack] = []

    def finish(self) -> tuple[list[int], Tensor]:
        """Numbers of the cells, and their last states at the last position."""
        self._enter(self._model.n_layers)
        self._edit_stream(self._model.n_layers)
        order = [index for stack in self._stacks for index in stack.cells]
        return order, torch.cat([stack.states[:, -1] for stack in self._stacks])

    def step(self, layer: int) -> None:
        """Take every cell through one block."""
        self._enter(layer)
        self._edit_stream(layer)
        for stacks in _together(self._stacks):
            if self._last_rows_suffice(layer, stacks):
                self._run_last_rows(layer, stacks)
            else:
                self._run(layer, stacks)

    def _run(self, layer: int, stacks: Sequence[Stack]) -> None:
        """Take the rows of some cells through one block."""
        with ExitStack() as stack:
            installed = self._install(layer, stacks, stack)
            after = self._call(layer, stacks)
        installed.require_all()
        begin = 0
        for one in stacks:
            one.states = after[begin : begin + one.rows].view(one.states.shape)
            begin += one.rows

    def _call(self, layer: int, stacks: Sequence[Stack]) -> Tensor:
        """The states after a block, ``[row, d_model]``."""
        packed = torch.cat([stack.states.flatten(0, 1) for stack in stacks])
        every = torch.arange(self._base.length, device=packed.device)
        columns = torch.cat([every[s.position :].repeat(len(s.cells)) for s in stacks])
        call = _placed(self._base.calls[layer], columns, self._base.length)
        return call(packed[None])[0]

    def _last_rows_suffice(self, layer: int, stacks: Sequence[Stack]) -> bool:
        """Whether this is the last block, and its attention can be given keys of its own.

        Of the last block only the last position's output is wanted, so the other rows have
        to be taken no further than to their keys and values.
        """
        block = self._model.anatomy.blocks[layer]
        if layer < self._model.n_layers - 1 or block.attention != "interface":
            return False
        place = {index for stack in stacks for index in stack.cells}
        changes = (*self._inside(layer), *self._changes.get(layer + 1, []))
        return not any(change.row in place for change in changes)

    def _run_last_rows(self, layer: int, stacks: Sequence[Stack]) -> None:
        """Take the last row of some cells through the last block."""
        left, known = Left(self._base, self._keys(layer)), KeysOnly()
        mixer = self._model.hf.get_submodule(self._model.anatomy.blocks[layer].mixer or "")
        with watching(mixer, known), suppress(KeysKnown):
            self._call(layer, stacks)
        last = self._base.length - 1
        ends = [Stack(last, stack.cells, stack.states[:, -1:]) for stack in stacks]
        with watching(mixer, LastRows(left, stacks, known)):
            after = self._call(layer, ends)
        begin = 0
        for stack in stacks:
            stack.position = last
            stack.states = after[begin : begin + len(stack.cells), None]
            begin += len(stack.cells)

    def _keys(self, layer: int) -> Site:
        """The keys of a block that its scores are made of."""
        return Site(self._model.anatomy.blocks[layer].scored[1], layer)

    def _inside(self, layer: int) -> list[Change]:
        """The changes inside a block."""
        return [c for c in self._changes.get(layer, []) if c.site.kind != "resid_pre"]

    def _enter(self, layer: int) -> None:
        """Let the cells join whose first block this is, with the unedited run's states."""
        state = self._base.state(layer)
        groups: dict[int, list[int]] = {}
        for index in self._entering.get(layer, []):
            groups.setdefault(self._position[index], []).append(index)
        for position, indices in sorted(groups.items()):
            rows = state[position:]
            size = max(1, ROWS // len(rows))
            for begin in range(0, len(indices), size):
                few = indices[begin : begin + size]
                self._join(Stack(position, few, rows.expand(len(few), *rows.shape)))

    def _join(self, new: Stack) -> None:
        """Put cells to others that begin at the same position, while there is room."""
        for old in self._stacks:
            if old.position == new.position and old.rows + new.rows <= ROWS:
                old.cells += new.cells
                old.states = torch.cat([old.states, new.states])
                return
        new.states = new.states.clone()
        self._stacks.append(new)

    def _offsets(self, stacks: Sequence[Stack]) -> dict[int | None, int]:
        """Number of the row at which position 0 of each cell would be."""
        offsets: dict[int | None, int] = {}
        begin = 0
        for stack in stacks:
            length = stack.states.shape[1]
            for number, index in enumerate(stack.cells):
                offsets[index] = begin + number * length - stack.position
            begin += stack.rows
        return offsets

    def _edit_stream(self, layer: int) -> None:
        """Change the states before a block."""
        mine = [c for c in self._changes.get(layer, []) if c.site.kind == "resid_pre"]
        if not mine:
            return
        for stack in self._stacks:
            offsets = self._offsets([stack])
            here = [change for change in mine if change.row in offsets]
            for change, rows in _merged(here, offsets):
                change.write(stack.states.view(-1, stack.states.shape[-1]), (rows,))

    def _install(self, layer: int, stacks: Sequence[Stack], stack: ExitStack) -> Installed:
        """Put the changes inside a block, and the packed attention, in place."""
        offsets = self._offsets(stacks)
        mine = [change for change in self._inside(layer) if change.row in offsets]
        square = [change for change in mine if change.site.kind in SQUARE]
        others = [change for change in mine if not is_inside(self._model, change.site)]
        given = [change for change in mine if is_inside(self._model, change.site)]
        vectors = [change for change in given if change.site.kind not in SQUARE]
        merged = _merged(others, offsets)
        rows = {id(change): found for change, found in merged}
        changes = [change for change, _ in merged]

        def own_rows(change: Change, batch: int, length: int) -> Tensor:
            return rows[id(change)]

        installed = install(self._model, changes, own_rows, Gate(), stack, batch=1)
        block = self._model.anatomy.blocks[layer]
        if block.mixer is not None:
            edited = _merged(vectors, offsets)
            left = Left(self._base, self._keys(layer))
            handler = PackedAttention(left, stacks, edited, square)
            stack.enter_context(watching(self._model.hf.get_submodule(block.mixer), handler))
        return installed


def _together(stacks: Sequence[Stack]) -> list[list[Stack]]:
    """The stacks that go through a block in one call."""
    groups: list[list[Stack]] = []
    room = 0
    for stack in stacks:
        if not groups or stack.rows > room:
            groups.append([])
            room = ROWS
        groups[-1].append(stack)
        room -= stack.rows
    return groups


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
