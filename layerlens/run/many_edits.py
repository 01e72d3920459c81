"""Many edited runs of one text at once, in the cheapest way that the model allows.

A cell is one edited run; what is wanted of it is the state after the last block at the last
position. Three ways give the same numbers: *naive* (one full pass a cell), *restart* (cells
that begin at the same block are stacked and run from there on) and *packed* (see
:mod:`layerlens.run.packed`). Which one a model allows is tried on a short text, against the
naive way, once.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell, OnCells, first_layer
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.gate import Gate
from layerlens.run.hooks import install, plain_rows
from layerlens.run.packed import run_packed
from layerlens.run.replay import watch_calls
from layerlens.run.requests import remote_cells

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.remote import RemoteModel

Method = Literal["auto", "packed", "restart", "naive"]

DEFAULT_LIMIT = 400_000_000
"""Bytes that a wave of cells may take above the model's own."""

_ROWS = 1024
"""Rows of a stacked pass: enough for large matrix products, few enough for the caches."""

_TOLERANCE = 1e-4
_methods: weakref.WeakKeyDictionary[LensModel, str] = weakref.WeakKeyDictionary()


def run_cells(
    model: LensModel,
    base: Base,
    cells: Sequence[Cell],
    on_cells: OnCells,
    *,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
    tick: Callable[[], None] = lambda: None,
    at_once: int = 1,
    ordered: bool = False,
) -> str:
    """Run every cell; finished ones are handed over wave by wave.

    A packed run hands over some of the cells that have the fewest blocks to go first, then the
    others in the order of ``cells``; an ordered one the first few cells, then always twice as many.

    Parameters
    ----------
    base
        The unedited run, from :func:`layerlens.run.base.record_base`.
    on_cells
        Called with the numbers of some cells and their states after the last block at the
        position that is measured, ``base.at``: ``[cell, d_model]``.
    method
        ``"auto"`` takes the cheapest way that was seen to give the naive numbers.
    memory_limit
        Bytes for the largest wave.
    tick
        Called between blocks; an exception raised in it ends the run.
    at_once
        How many cells of a naive run share a pass, as texts of one batch (fewer of a long text).
    ordered
        Whether the first cells are wanted first, at the price of reading the weights a few times
        more.

    Returns
    -------
    str
        The method that was used.

    Raises
    ------
    InputError
        For a method of another name, or ``"packed"`` for a model that reads in both directions.
    SiteError
        If a change meets no value, or its site does not exist here.
    """
    if method not in ("auto", "packed", "restart", "naive"):
        raise InputError(f"method is 'auto', 'packed', 'restart' or 'naive', not {method!r}.")
    if method == "packed" and model.bidirectional:
        raise InputError(
            f"{model.name} reads in both directions, so that an edit changes earlier positions "
            "too, which a packed run leaves out: use method='auto'."
        )
    if model.remote is not None:
        if method not in ("auto", "naive"):
            raise InputError(
                f"{model.name} runs elsewhere, and each cell is a whole pass there: use "
                "method='auto'."
            )
        _run_remotely(model, base, cells, on_cells, tick)
        return "naive"
    chosen: str = method
    if method == "auto":
        # A packed run carries on to the last position alone.
        whole = base.at != base.length - 1 or any(cell.layer < 0 for cell in cells)
        chosen = "naive" if whole else sweep_method(model)
    if base.changes and chosen != "naive":
        cells = [_kept(base, cell) for cell in cells]
    with model.running():
        if chosen == "packed":
            run_packed(model, base, cells, on_cells, memory_limit, tick, ordered=ordered)
        elif chosen == "restart":
            _run_restarted(model, base, cells, on_cells, tick)
        else:
            _run_naive(model, base, cells, on_cells, tick, at_once)
    return chosen


def _run_remotely(
    model: LensModel,
    base: Base,
    cells: Sequence[Cell],
    on_cells: OnCells,
    tick: Callable[[], None],
) -> None:
    """All cells as one request, a few in each pass; they are there when all of them are."""
    tick()
    size = max(1, _ROWS // base.length)
    groups = [range(begin, min(begin + size, len(cells))) for begin in range(0, len(cells), size)]
    batches = []
    for group in groups:
        own = [
            replace(change, row=row)
            for row, index in enumerate(group)
            for change in cells[index].changes
        ]
        batches.append((base.tokens.repeated(len(group)), (*base.changes, *own)))
    finals = remote_cells(cast("RemoteModel", model), batches, base.at)
    for group, final in zip(groups, finals, strict=True):
        on_cells(group, final)


def _kept(base: Base, cell: Cell) -> Cell:
    """A cell with those edits of its base that it would run into again."""
    again = [
        change
        if change.positions is not None
        else replace(change, positions=tuple(range(base.length)))
        for change in base.changes
        if first_layer(change.site) >= cell.layer + _is_stream(change.site)
    ]
    return Cell((*again, *cell.changes))


def _is_stream(site: Site) -> bool:
    """Whether the states that a cell begins with hold an edit there already."""
    return site.kind in ("resid_pre", "resid_post")


def _run_naive(
    model: LensModel,
    base: Base,
    cells: Sequence[Cell],
    on_cells: OnCells,
    tick: Callable[[], None],
    at_once: int,
) -> None:
    """Full passes, each of one cell or of a few."""
    last = Site("resid_post", model.n_layers - 1)
    size = max(1, min(at_once, _ROWS // base.length))
    for begin in range(0, len(cells), size):
        tick()
        few = cells[begin : begin + size]
        states: list[Tensor] = []

        def keep(_: Site, value: Tensor, states: list[Tensor] = states) -> None:
            states.append(value[:, base.at].clone())

        own = [
            change if len(few) == 1 else replace(change, row=row)
            for row, cell in enumerate(few)
            for change in cell.changes
        ]
        tokens = base.tokens if len(few) == 1 else base.tokens.repeated(len(few))
        forward(model, tokens, [last], keep, logits=None, changes=(*base.changes, *own))
        on_cells(range(begin, begin + len(few)), states[0])


def _run_restarted(
    model: LensModel,
    base: Base,
    cells: Sequence[Cell],
    on_cells: OnCells,
    tick: Callable[[], None],
) -> None:
    """Cells that begin at the same block are stacked and run from there on."""
    most = max(Counter(cell.layer for cell in cells).values(), default=0)
    size = max(1, min(most, _ROWS // base.length))
    with ExitStack() as stack:
        calls = watch_calls(model, Gate(), stack)
        tokens = base.tokens.repeated(size)
        forward(model, tokens, [], lambda *_: None, logits=None, changes=base.changes)
    for layer, indices in _by_layer(cells, size):
        state = base.state(layer)
        # Always as many rows as when the arguments of the blocks were captured.
        resid = state.expand(size, *state.shape).clone()
        changes = [
            _moved(replace(change, row=row), layer)
            for row, index in enumerate(indices)
            for change in cells[index].changes
        ]
        first = [change for change in changes if _is_entry(change, layer)]
        for change in first:
            rows = plain_rows(change, size, base.length)
            change.write(resid, (rows // base.length, rows % base.length))
        with ExitStack() as stack:
            rest = [change for change in changes if not _is_entry(change, layer)]
            installed = install(model, rest, plain_rows, Gate(), stack, batch=size)
            for call in calls[layer:]:
                tick()
                resid = call(resid)
        installed.require_all()
        on_cells(indices, resid[: len(indices), base.at])


def _moved(change: Change, layer: int) -> Change:
    """The output of the block before is the state that a block begins with."""
    if change.site.kind == "resid_post" and change.site.block == layer - 1:
        return replace(change, site=Site("resid_pre", layer))
    return change


def _is_entry(change: Change, layer: int) -> bool:
    return change.site == Site("resid_pre", layer)


def _by_layer(cells: Sequence[Cell], size: int) -> Iterator[tuple[int, list[int]]]:
    """Numbers of cells that begin at the same block, at most ``size`` at a time."""
    waiting: dict[int, list[int]] = {}
    for index, cell in enumerate(cells):
        group = waiting.setdefault(cell.layer, [])
        group.append(index)
        if len(group) == size:
            yield cell.layer, waiting.pop(cell.layer)
    yield from waiting.items()


def sweep_method(model: LensModel) -> str:
    """The cheapest method that gives the naive numbers on a short text; found once a model."""
    if model.remote is not None:
        return "naive"
    model = model if model.twin is None else model.twin
    if model not in _methods:
        with model.lock:
            _methods[model] = _find_method(model)
    return _methods[model]


def _find_method(model: LensModel) -> str:
    tokens = model.probe(length=6, seed=2)
    base = record_base(model, tokens, asked=tokens.ids.shape[1] - 1)
    cells = _probe_cells(model, base)
    expected = torch.zeros(len(cells), base.final.shape[-1])
    _collect(model, base, cells, "naive", expected)
    ways: tuple[Method, ...] = ("packed", "restart")
    for method in ways:
        if method == "packed" and not _packable(model):
            continue
        found = torch.zeros_like(expected)
        try:
            _collect(model, base, cells, method, found)
        except (RuntimeError, TypeError, ValueError, IndexError):
            continue  # this family's blocks cannot be called so; a slower way can
        error = (found - expected).abs().max() / expected.abs().max()
        limit = max(_TOLERANCE, 16 * torch.finfo(model.dtype).eps)
        if error <= limit:
            return method
    return "naive"


def _packable(model: LensModel) -> bool:
    """Whether rows may be left out where no edit was: earlier ones, and those of other cells."""
    watched = all(block.attention == "interface" for block in model.anatomy.blocks)
    return watched and not model.bidirectional


def _collect(
    model: LensModel, base: Base, cells: Sequence[Cell], method: Method, into: Tensor
) -> None:
    def keep(indices: Sequence[int], final: Tensor) -> None:
        into[list(indices)] = final.float().cpu()

    run_cells(model, base, cells, keep, method=method)


def _probe_cells(model: LensModel, base: Base) -> list[Cell]:
    """Cells that begin at the first, a middle and the last block, at three positions."""
    generator = torch.Generator().manual_seed(3)
    layers = sorted({0, model.n_layers // 2, model.n_layers - 1})
    cells = []
    for layer, position in zip(layers, (1, 3, base.length - 1), strict=False):
        state = base.state(layer)[position]
        noise = torch.randn(state.shape, generator=generator).to(state)
        value = state + noise * state.float().std().to(state.dtype)
        cells.append(Cell((Change(Site("resid_pre", layer), "set", value, (position,)),)))
    return cells
