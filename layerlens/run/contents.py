"""What an edit puts at its positions: numbers, a tensor, or what another run had there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import Site, expand
from layerlens.model.text import Tokens
from layerlens.run.changes import SQUARE
from layerlens.run.edits import Edit
from layerlens.run.other_runs import OtherRuns, own
from layerlens.run.values import Source
from layerlens.run.where import require_heads

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True)
class Part:
    """Where one edit applies in one site of one text.

    Attributes
    ----------
    site
        With all heads.
    row
        Which text.
    columns
        Positions of the prompt; None at generated tokens.
    heads
        Chosen heads; None for all, or where the site has none.
    entries
        Chosen entries of the last axis (neurons or keys); None for all.
    shape
        ``(position, (head,) width)`` of what is chosen; one position at generated tokens, no
        axis of heads for one chosen head.
    """

    site: Site
    row: int
    columns: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    entries: tuple[int, ...] | None
    shape: tuple[int, ...]

    def require(self, value: Tensor) -> Tensor:
        """A value that broadcasts to the shape, else an ``InputError`` that states the shape."""
        try:
            fits = torch.broadcast_shapes(value.shape, self.shape) == torch.Size(self.shape)
        except RuntimeError:
            fits = False
        if fits:
            return value
        axes = ["position", "head", "width"] if len(self.shape) == 3 else ["position", "width"]
        if self.site.kind in SQUARE:
            axes[-1] = "key"
        raise InputError(
            f"The value for {self.site} has shape {list(value.shape)}; expected {list(self.shape)} "
            f"({', '.join(axes)}) or what broadcasts to it."
        )


class Content(Protocol):
    """What an edit puts in place."""

    def need(self, runs: OtherRuns, site: Site) -> None:
        """Ask for what other runs have to give for a site."""

    def at(self, runs: OtherRuns, part: Part) -> Tensor | float:
        """A number, or a tensor that broadcasts to the shape of the part."""


def content(model: LensModel, tokens: Tokens, edit: Edit) -> Content:
    """What an edit puts in place in a run of these tokens.

    Raises
    ------
    InputError
        If a text does not fit.
    """
    value = edit.value
    if edit.op == "freeze":
        return _FromRun(model, tokens, model, tokens, edit, None)
    if edit.op == "project_out" and isinstance(value, Tensor):
        return _Directions(own(value))
    if isinstance(value, Source):
        other = value.model or model
        add_bos = tokens.add_bos if value.add_bos is None else value.add_bos
        read = other.tokens(value.text, add_bos=add_bos)
        if read.ids.shape[0] != 1:
            raise InputError(
                "A source is one text, but several were given: make one edit for each."
            )
        found = _FromRun(model, tokens, other, read, edit, value)
        return _Directions(found) if edit.op == "project_out" else found
    if edit.op == "mean" and not isinstance(value, Tensor):
        return _Mean(model, _texts(model, value, tokens.add_bos))
    if isinstance(value, Tensor):
        return _Given(value, averaged=edit.op == "mean")
    return _Number(model, tokens, edit)


def _texts(model: LensModel, value: Any, add_bos: bool | None) -> list[Tokens]:
    """Reference texts one by one, so that there is no padding among them."""
    tokens = model.tokens(value, add_bos=add_bos)
    rows = zip(tokens.ids, tokens.mask, strict=True)
    return [model.tokens(ids[mask].tolist()) for ids, mask in rows]


def _chosen(value: Tensor, part: Part) -> Tensor:
    """The chosen heads and entries of ``[position, (head,) width]``."""
    if part.heads is not None and value.dim() == 3:
        value = value[:, part.heads[0]] if len(part.heads) == 1 else value[:, list(part.heads)]
    return value if part.entries is None else value[..., list(part.entries)]


class _Number:
    """The same number everywhere; only where a query can see the key, in an attention."""

    def __init__(self, model: LensModel, tokens: Tokens, edit: Edit) -> None:
        self._model, self._tokens = model, tokens
        self._op = edit.op
        self._number = 0 if edit.value is None else edit.value

    def need(self, runs: OtherRuns, site: Site) -> None:
        if site.kind in SQUARE:
            runs.need(self._model, self._tokens, scores_of(site))

    def at(self, runs: OtherRuns, part: Part) -> Tensor | float:
        if part.site.kind not in SQUARE or part.columns is None or self._op == "block":
            return self._number
        seen = visible(runs, self._model, self._tokens, part.site, part.row)
        seen = seen[list(part.columns)][..., list(part.entries or ())]
        hidden = 1.0 if self._op == "scale" else 0.0  # what leaves a weight as it is
        if self._op in ("set", "zero") and part.site.kind == "attn_scores":
            hidden = float("-inf")
        dtype = self._model.dtype
        value = torch.where(seen, float(self._number), hidden).to(dtype)
        return value.unsqueeze(1) if len(part.shape) == 3 else value


class _Given:
    """A tensor of the user's own."""

    def __init__(self, value: Tensor, *, averaged: bool) -> None:
        self._value = own(value)
        self._averaged = averaged

    def need(self, runs: OtherRuns, site: Site) -> None:
        """Nothing."""

    def at(self, runs: OtherRuns, part: Part) -> Tensor:
        value = self._value
        if self._averaged:
            axes = len(part.shape) - 1
            value = value.flatten(0, -axes - 1).mean(0) if value.dim() > axes else value
        return part.require(value)


class _Mean:
    """The mean over all positions of reference texts."""

    def __init__(self, model: LensModel, texts: Sequence[Tokens]) -> None:
        self._model = model
        self._texts = texts

    def need(self, runs: OtherRuns, site: Site) -> None:
        for tokens in self._texts:
            runs.need(self._model, tokens, site)

    def at(self, runs: OtherRuns, part: Part) -> Tensor:
        values = [runs.value(self._model, tokens, part.site) for tokens in self._texts]
        total = torch.stack([value.double().sum(0) for value in values]).sum(0)
        mean = (total / sum(len(value) for value in values)).to(values[0].dtype)
        return part.require(_chosen(mean.unsqueeze(0), part))


class _FromRun:
    """What a run had: the unedited one of the same text, or a source."""

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        other: LensModel,
        read: Tokens,
        edit: Edit,
        source: Source | None,
    ) -> None:
        self._model, self._tokens = model, tokens
        self._other, self._read = other, read
        self._edit, self._source = edit, source

    def need(self, runs: OtherRuns, site: Site) -> None:
        runs.need(self._other, self._read, self._site(site).whole)

    def at(self, runs: OtherRuns, part: Part) -> Tensor:
        value = self.rows(runs, part)
        if len(value) not in (1, part.shape[0]):
            raise InputError(
                f"The source has {len(value)} positions for {part.shape[0]} edited ones: give "
                "position= to both, as many here as there, or one."
            )
        return part.require(value)

    def rows(self, runs: OtherRuns, part: Part) -> Tensor:
        """What was there, one row a position that is read."""
        site = self._site(part.site)
        row = part.row if self._source is None else 0
        value = runs.value(self._other, self._read, site.whole, row)[self._columns(part)]
        if site.head is None:
            return _chosen(value, part)
        value = _chosen(value[:, site.head], part)
        return value.unsqueeze(1) if len(part.shape) == 3 else value

    def _site(self, site: Site) -> Site:
        """Where to read for an edited site."""
        given = None if self._source is None else self._source.site
        if given is None:
            return site
        if given.layer is None:
            given = Site(given.kind, site.layer, given.head)
        found = expand(given, self._other.n_layers)[0]
        require_heads(self._other, found, [] if found.head is None else [found.head])
        return found

    def _columns(self, part: Part) -> list[int]:
        """Positions to read."""
        if self._source is None:
            return list(part.columns or ())
        if self._source.position is not None:
            return self._other.positions(self._read, self._source.position)
        if part.columns is None:
            raise InputError(
                "At generated tokens there is no same position in the source's text: give the "
                "source one position=."
            )
        length, theirs = self._tokens.lengths[part.row], self._read.lengths[0]
        if theirs == length:
            real = self._tokens.mask[part.row].nonzero()[:, 0].tolist()
            return [real.index(column) for column in part.columns]
        if self._edit.position in (None, slice(None)):
            raise InputError(
                f"The source's text has {theirs} tokens and the edited one {length}, so positions "
                "do not match: give position= to the edit and to the source."
            )
        return self._other.positions(self._read, self._edit.position)


class _Directions:
    """An orthonormal basis of what is to be removed."""

    def __init__(self, given: Tensor | _FromRun) -> None:
        self._given = given

    def need(self, runs: OtherRuns, site: Site) -> None:
        if isinstance(self._given, _FromRun):
            self._given.need(runs, site)

    def at(self, runs: OtherRuns, part: Part) -> Tensor:
        given = self._given
        rows = given.rows(runs, part) if isinstance(given, _FromRun) else given
        return directions(rows, part.site, part.shape[-1])


def scores_of(site: Site) -> Site:
    """The attention scores of a site's layer."""
    return Site("attn_scores", site.layer)


def visible(runs: OtherRuns, model: LensModel, tokens: Tokens, site: Site, row: int) -> Tensor:
    """Which keys each query can see in a layer, ``[query, key]`` bool."""
    return torch.isfinite(runs.value(model, tokens, scores_of(site), row)[:, 0])


def directions(value: Tensor, site: Site, width: int) -> Tensor:
    """An orthonormal basis ``[width, n]`` of the span of directions ``[n, width]``.

    Raises
    ------
    InputError
        If the shape does not fit, or the directions are zero or depend on each other.
    """
    if value.dim() not in (1, 2) or value.shape[-1] != width:
        raise InputError(
            f"The directions for {site} have shape {list(value.shape)}; expected [{width}] or "
            f"[n, {width}]; where every head has its own, make one edit a head."
        )
    rows = value.reshape(-1, width).double()
    basis: Tensor
    basis, triangle = torch.linalg.qr(rows.T)
    sizes = triangle.diagonal().abs()
    if len(rows) > width or bool((sizes <= 1e-6 * rows.norm(dim=-1)).any()):
        raise InputError(
            f"The {len(rows)} directions for {site} are zero or depend on each other: leave out "
            "those that the others span."
        )
    return basis if value.dtype == torch.float64 else basis.to(value.dtype)
