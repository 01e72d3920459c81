"""From what a user wrote to what happens to which part of which site of one run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import HEADS, Site
from layerlens.model.text import Tokens
from layerlens.run.changes import SQUARE, Change
from layerlens.run.contents import Part, content, visible
from layerlens.run.edit_arguments import Steps
from layerlens.run.edit_lists import as_edits
from layerlens.run.edits import Edit
from layerlens.run.other_runs import OtherRuns
from layerlens.run.where import editable_sites, require_heads, row_shapes

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_SETTING = ("set", "zero", "mean", "resample", "freeze")


@dataclass(frozen=True, eq=False)
class Timed:
    """A change and when it applies.

    Attributes
    ----------
    number
        Which of the edits it comes from.
    change
        Its positions are columns of the prompt, or None at generated tokens.
    steps
        Numbers of generated tokens or ``"all"``; None for a change in the prompt.
    """

    number: int
    change: Change
    steps: Steps = None


@dataclass(frozen=True)
class Resolved:
    """What a list of edits means for one text.

    Attributes
    ----------
    timed
        In the order in which they apply at one site.
    passes
        How many other runs were needed.
    """

    timed: tuple[Timed, ...]
    passes: int

    @property
    def changes(self) -> list[Change]:
        """Those in the prompt."""
        return [timed.change for timed in self.timed if timed.steps is None]


def resolve(model: LensModel, tokens: Tokens, edits: Edit | Iterable[Edit]) -> list[Change]:
    """What a list of edits means for one pass over a text.

    The other runs that edits take values from are made here, each once.

    Parameters
    ----------
    tokens
        From ``model.tokens``; several rows are edited each by its own positions.

    Returns
    -------
    list of Change
        To be given to :func:`layerlens.run.forward.forward`.

    Raises
    ------
    SiteError
        If a site or head does not exist in this model or cannot be changed.
    InputError
        If a position, neuron, text or shape does not fit, if attention is blocked from every
        key that a query can see, or if an edit is meant for generated tokens.
    """
    return resolve_counted(model, tokens, edits).changes


def resolve_counted(model: LensModel, tokens: Tokens, edits: Edit | Iterable[Edit]) -> Resolved:
    """:func:`resolve`, with the number of other runs that it took."""
    found = as_edits(edits)
    if any(edit.steps is not None for edit in found):
        raise InputError(
            "steps= and always= are about generated tokens, and this run has none: use "
            "model.generate or model.edited, or leave them out."
        )
    return resolve_timed(model, tokens, found)


def count_runs(model: LensModel, tokens: Tokens, edits: Edit | Iterable[Edit]) -> int:
    """How many other runs these edits take; none of them is made."""
    return len(_plan(model, tokens, as_edits(edits))[1])


def resolve_timed(model: LensModel, tokens: Tokens, edits: Sequence[Edit]) -> Resolved:
    """What edits mean for a text and for the tokens that are generated after it."""
    plans, runs = _plan(model, tokens, edits)
    runs.run()
    timed = tuple(one for plan in plans for one in plan.timed(runs))
    _require_visible(model, tokens, [one.change for one in timed if one.steps is None], runs)
    return Resolved(timed, len(runs))


def _plan(model: LensModel, tokens: Tokens, edits: Sequence[Edit]) -> tuple[list[_Plan], OtherRuns]:
    runs = OtherRuns()
    plans = [_Plan(model, tokens, number, edit) for number, edit in enumerate(edits)]
    for plan in plans:
        for site in plan.sites:
            plan.content.need(runs, site)
    return plans, runs


class _Plan:
    """One edit on its way to changes."""

    def __init__(self, model: LensModel, tokens: Tokens, number: int, edit: Edit) -> None:
        self.sites = editable_sites(model, edit.kind, edit.layers)
        for site in self.sites:
            require_heads(model, site, edit.heads or ())
        self.content = content(model, tokens, edit)
        self._model, self._tokens, self._number, self._edit = model, tokens, number, edit
        self._square = edit.kind in SQUARE
        self._shapes = self._row_shapes()
        if self._square and edit.steps is not None and edit.key is None:
            raise InputError(f"At generated tokens, name the keys of {edit.kind} with key=.")

    def _row_shapes(self) -> dict[Site, tuple[int, ...]]:
        """``((head,) width)`` of one position of each site; keys are the width of a pattern."""
        if not self._square:
            return row_shapes(self._model, self.sites)
        length = self._tokens.ids.shape[1]
        blocks = self._model.anatomy.blocks
        return {site: (blocks[site.block].n_heads, length) for site in self.sites}

    def timed(self, runs: OtherRuns) -> Iterator[Timed]:
        """The changes of every text, in the prompt and at generated tokens."""
        edit = self._edit
        for row in range(self._tokens.ids.shape[0]):
            entries = self._entries(row)
            for site in self.sites:
                if edit.in_prompt:
                    part = self._part(site, row, self._columns(row), entries)
                    for change in self._changes(runs, part):
                        yield Timed(self._number, change)
                if edit.steps is not None:
                    part = self._part(site, row, None, entries)
                    for change in self._changes(runs, part):
                        yield Timed(self._number, change, edit.steps)

    def _columns(self, row: int) -> tuple[int, ...]:
        found = self._model.positions(self._tokens, self._edit.position, row)
        if not found:
            raise InputError(
                f"position={self._edit.position!r} names no position of the text, which has "
                f"{self._tokens.lengths[row]} tokens."
            )
        return tuple(found)

    def _entries(self, row: int) -> tuple[int, ...] | None:
        """Keys or neurons; every key, where none was named."""
        if not self._square:
            return self._edit.neurons
        if self._edit.key is None:
            return tuple(range(self._tokens.ids.shape[1]))
        return tuple(self._model.positions(self._tokens, self._edit.key, row))

    def _part(
        self,
        site: Site,
        row: int,
        columns: tuple[int, ...] | None,
        entries: tuple[int, ...] | None,
    ) -> Part:
        heads, full = self._edit.heads, self._shapes[site]
        _require_entries(site, entries, full[-1])
        shape: tuple[int, ...] = (1 if columns is None else len(columns),)
        if site.kind in HEADS and (heads is None or len(heads) > 1):
            shape += (full[0] if heads is None else len(heads),)
        width = full[-1] if entries is None else len(entries)
        return Part(site, row, columns, heads, entries, (*shape, width))

    def _changes(self, runs: OtherRuns, part: Part) -> Iterator[Change]:
        """The changes of one site in one text, one for each chosen head."""
        op = "set" if self._edit.op in _SETTING else self._edit.op
        value = self.content.at(runs, part)
        for place, head in enumerate(part.heads or (None,)):
            yield Change(
                site=Site(part.site.kind, part.site.layer, head),
                op=op,
                value=_of_head(value, op, place, part),
                positions=part.columns,
                row=part.row if self._tokens.ids.shape[0] > 1 else None,
                neurons=None if self._square else part.entries,
                keys=part.entries if self._square else None,
            )


def _require_entries(site: Site, entries: tuple[int, ...] | None, width: int) -> None:
    for entry in entries or ():
        if entry >= width:
            raise InputError(
                f"Entry {entry} of {site} does not exist: its width is {width} (0 to {width - 1})."
            )


def _of_head(value: Tensor | float, op: str, place: int, part: Part) -> Tensor | float | None:
    """The value for one of the chosen heads."""
    if op == "block":
        return None
    several = part.heads is not None and len(part.heads) > 1
    if not several or op == "project_out" or not isinstance(value, Tensor):
        return value
    rows = value.shape[0] if value.dim() == len(part.shape) else 1
    return value.expand(rows, *part.shape[1:])[:, place]


def _require_visible(
    model: LensModel, tokens: Tokens, changes: Sequence[Change], runs: OtherRuns
) -> None:
    """Raise an ``InputError`` if a query is left without any key that it can see.

    The softmax of a row of equal lowest scores would be uniform over all keys, the future
    ones included.
    """
    length = tokens.ids.shape[1]
    blocked: dict[tuple[Site, int], Tensor] = {}
    for change in changes:
        if change.op == "block":
            row, layer = change.row or 0, change.site.block
            n_heads = model.anatomy.blocks[layer].n_heads
            none = torch.zeros((n_heads, length, length), dtype=torch.bool)
            edges = blocked.setdefault((change.site.whole, row), none)
            heads = range(n_heads) if change.site.head is None else [change.site.head]
            for head in heads:
                for query in change.positions or ():
                    edges[head, query, list(change.keys or ())] = True
    for (site, row), edges in blocked.items():
        seen = visible(runs, model, tokens, site, row).to(edges.device)
        bare = edges.any(-1) & ~(seen & ~edges).any(-1)
        if bool(bare.any()):
            head, query = bare.nonzero()[0].tolist()
            raise InputError(
                f"Position {query} would see no key in head {head} of layer {site.layer}: leave "
                "at least one that it can see (its own, say), else the softmax has nothing to "
                "share out."
            )
