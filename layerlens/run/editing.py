"""Edits in calls of a model that are not ours: a user's own code, ``generate``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import InputError, SiteError
from layerlens.model.conventions import (
    MASK,
    cache_of,
    caches,
    call_arguments,
    kept_positions,
    keys_with,
    token_ids,
    tokens_in,
)
from layerlens.model.sites import HEADS, KEY_VALUE, Site
from layerlens.model.text import Tokens
from layerlens.run.changes import SQUARE, Change
from layerlens.run.edit_lists import as_edits
from layerlens.run.edits import Edit
from layerlens.run.gate import Gate
from layerlens.run.hooks import Installed, install, is_inside, plain_rows
from layerlens.run.resolve import Timed, resolve_timed

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@contextmanager
def editing(
    model: LensModel, edits: Edit | Iterable[Edit], prompt: Tokens | None = None
) -> Iterator[Editing]:
    """Edit every call of ``model.hf`` on this thread; see ``LensModel.edited``.

    Parameters
    ----------
    prompt
        What every call begins with; None: what a call without a filled cache is given is a
        prompt of its own.
    """
    with model.evaluating(), ExitStack() as stack:
        if model.edited_now:
            raise InputError("The model is being edited already: give all edits to one call.")
        session = Editing(model, as_edits(edits), prompt)
        model.edited_now = True
        stack.callback(setattr, model, "edited_now", False)
        session.start(stack)
        yield session


class Editing:
    """Knows what every call means for the edits: which columns of the text it holds.

    Columns count from the beginning of the prompt. A call with a filled cache goes on where
    the cache ends; all others begin at column 0.

    Attributes
    ----------
    applied
        For each edit, the columns that it was applied at so far.
    """

    def __init__(self, model: LensModel, edits: Sequence[Edit], prompt: Tokens | None) -> None:
        self.applied: list[set[int]] = [set() for _ in edits]
        self._model, self._edits = model, edits
        self._given = prompt
        self._prompt: Tokens | None = None
        self._timed: tuple[Timed, ...] = ()
        self._end = 0
        self._cache: Any = None
        self._known: list[Any] = []
        self._lengths: dict[Site, int] = {}
        self._gate = Gate()
        self._depth = model.passes
        self._call = ExitStack()
        self._installed: Installed | None = None
        self._present: list[tuple[int, list[int], Change]] = []

    def start(self, stack: ExitStack) -> None:
        """Watch the calls of the model until the stack closes."""
        if not self._edits:
            return
        if self._given is not None:
            self._begin(self._given)
        hf = self._model.hf
        stack.callback(self._call.close)
        stack.callback(hf.register_forward_pre_hook(self._entering, with_kwargs=True).remove)
        stack.callback(hf.register_forward_hook(self._leaving, always_call=True).remove)

    def require_applied(self) -> None:
        """Raise a ``SiteError`` for the first edit that no call has had a place for."""
        for edit, columns in zip(self._edits, self.applied, strict=True):
            if not columns:
                raise SiteError(
                    f"{edit.code} was never applied: no call of the model on this thread held "
                    "its positions."
                )

    def _entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Passes of our own (a source that is recorded, a lens inside the block) run unedited.
        if not self._gate.ours or self._model.passes > self._depth:
            return
        arguments = call_arguments(module, args, kwargs)
        ids = token_ids(arguments)
        self._cache = cache_of(arguments)
        start = self._fed_before()
        self._known = []  # until this call has ended well
        self._end = start + ids.shape[1]
        if start == 0:
            self._begin_call(ids, arguments.get(MASK))
        elif self._prompt is None:
            raise _not_counted()
        kept = kept_positions(arguments, ids.shape[1])
        self._present = list(self._changes(start, ids.shape, kept))
        changes = [change for _, _, change in self._present]
        self._installed = install(
            self._model, changes, self._rows, self._gate, self._call, batch=ids.shape[0]
        )

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if not self._gate.ours or self._installed is None or self._model.passes > self._depth:
            return
        installed, self._installed = self._installed, None
        self._call.close()
        given, self._cache = self._cache, None
        if output is None:  # the call has failed
            return
        self._known = caches([given, *_parts(output)])
        installed.require_all()
        for number, columns, _ in self._present:
            self.applied[number].update(columns)

    def _fed_before(self) -> int:
        """How many tokens the cache of this call holds."""
        if self._cache is None:
            return 0
        count = tokens_in(self._cache)
        if count is not None:
            return count
        if not any(self._cache is known for known in self._known):
            raise _not_counted()
        return self._end  # states follow the call that gave them

    def _begin_call(self, ids: Tensor, mask: Any) -> None:
        """A call that begins at column 0: of the given prompt, or of a prompt of its own."""
        if self._given is None:
            self._begin(_tokens_of(self._model, ids, mask))
            return
        given = self._given.ids
        repeats = ids.shape[0] // given.shape[0]
        length = min(given.shape[1], ids.shape[1])
        start = given[:, :length].repeat_interleave(repeats, dim=0).to(ids.device)
        if ids.shape[0] % given.shape[0] or not torch.equal(ids[:, :length], start):
            raise InputError("A call does not begin with the text that was given as the prompt.")

    def _begin(self, prompt: Tokens) -> None:
        known = self._prompt
        if known is not None and _same(known, prompt):
            return
        self._timed = resolve_timed(self._model, prompt, self._edits).timed
        self._prompt = prompt

    def _changes(
        self, start: int, shape: torch.Size, kept: int
    ) -> Iterator[tuple[int, list[int], Change]]:
        """The changes that have a place in a call which begins at a column.

        Yields the number of the edit, the columns, and the change with its positions and keys
        counted in the tensors of this very call, whose lengths are noted.
        """
        assert self._prompt is not None  # a call has begun
        batch, length = shape
        self._lengths = {}
        for timed in self._timed:
            site = timed.change.site
            first, given = start, length
            if self._with_cache(site):  # attention is given those in the cache too
                given, first = keys_with(self._cache, length, site.block)
            elif site.kind == "head_input":
                first, given = self._end - kept, kept
            self._lengths[site] = given
            columns = self._columns(timed)
            held = [place for place, column in enumerate(columns) if first <= column < self._end]
            change = timed.change
            if site.kind in SQUARE:
                change = _from_key(change, keys_with(self._cache, length, site.block)[1])
            if not held or change.keys == ():
                continue
            change = replace(
                change,
                positions=tuple(columns[place] - first for place in held),
                value=_part(change, held) if timed.steps is None else change.value,
            )
            for row in self._rows_of_batch(change.row, batch):
                there = [columns[place] for place in held]
                yield timed.number, there, replace(change, row=row)

    def _with_cache(self, site: Site) -> bool:
        """Whether a site holds what earlier calls left in the cache."""
        return site.kind in KEY_VALUE and is_inside(self._model, site)

    def _rows(self, change: Change, batch: int, length: int) -> Tensor:
        """Rows of a call; its tensors must be as long as was reckoned."""
        expected = self._lengths[change.site]
        if length != expected:
            raise SiteError(
                f"{change.site} held {length} positions in a call of the model, not {expected}, so "
                "the edit was not made: layerlens does not know how this call was put."
            )
        return plain_rows(change, batch, length)

    def _columns(self, timed: Timed) -> Sequence[int]:
        """Columns that a change is meant for, as far as the text goes by now."""
        assert self._prompt is not None  # a call has begun
        length = self._prompt.ids.shape[1]
        if timed.steps is None:
            return timed.change.positions or ()
        if timed.steps == "all":
            return range(length, self._end)
        return [length + step for step in timed.steps]

    def _rows_of_batch(self, row: int | None, batch: int) -> Sequence[int | None]:
        """Rows of a call that one text has become (beams, several samples)."""
        assert self._prompt is not None  # a call has begun
        repeats = batch // self._prompt.ids.shape[0]
        return [None] if row is None else range(row * repeats, (row + 1) * repeats)


def _parts(output: Any) -> Sequence[Any]:
    """What a model gave, part by part."""
    if isinstance(output, dict):
        return list(output.values())
    return output if isinstance(output, tuple) else ()


def _not_counted() -> InputError:
    return InputError(
        "A call goes on from a cache that was filled before, or is not the one of the last edited "
        "call, so positions cannot be counted: fill the cache inside the block."
    )


def _from_key(change: Change, first: int) -> Change:
    """A change of scores or pattern without the keys that the cache has dropped."""
    keys = change.keys or ()
    held = [place for place, key in enumerate(keys) if key >= first]
    value = change.value
    if isinstance(value, Tensor) and value.dim() and value.shape[-1] > 1 and len(held) < len(keys):
        value = value[..., held]
    return replace(change, keys=tuple(keys[place] - first for place in held), value=value)


def _part(change: Change, places: Sequence[int]) -> Tensor | float | None:
    """A change's value for some of its positions only."""
    value = change.value
    axes = 3 if change.site.kind in HEADS and change.site.head is None else 2
    if not isinstance(value, Tensor) or change.op == "project_out" or value.dim() < axes:
        return value
    return value if len(value) == 1 or len(places) == len(value) else value[list(places)]


def _same(one: Tokens, other: Tokens) -> bool:
    return torch.equal(one.ids, other.ids) and torch.equal(one.mask, other.mask)


def _tokens_of(model: LensModel, ids: Tensor, mask: Any) -> Tokens:
    """What a call was given, as tokens; a mask of another kind than padding is left aside."""
    ids = ids.detach().cpu()
    padding = isinstance(mask, Tensor) and mask.shape == ids.shape
    real = mask.detach().cpu().bool() if padding else torch.ones_like(ids, dtype=torch.bool)
    strings, continues = [], []
    for row, keep in zip(ids, real, strict=True):
        texts, joins = model.vocabulary.split(row[keep].tolist())
        pieces, joined = iter(texts), iter(joins)
        strings.append(tuple(next(pieces) if kept else "" for kept in keep.tolist()))
        continues.append(tuple(next(joined) if kept else False for kept in keep.tolist()))
    single = ids.shape[0] == 1
    return Tokens(ids, real, (None,) * len(ids), tuple(strings), tuple(continues), single)
