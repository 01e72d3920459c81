"""Record chosen sites of one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from layerlens.errors import SiteError
from layerlens.model.sites import GLOBAL, HEADS, Site, SiteName, expand, parse_site
from layerlens.model.text import Tokens
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


class Trace(Mapping[str, Tensor]):
    """What one run recorded: site -> tensor.

    Behaves as a mapping from canonical names; any other name of a site works too:
    ``trace["blocks.5.hook_resid_post"]``, ``trace["resid_post.5"]``,
    ``trace["resid_post", 5]``. A kind without a layer gives all recorded layers stacked:
    ``trace["resid_post"]`` is ``[layer, batch, position, d_model]``.

    Attributes
    ----------
    tokens
        What was fed.
    positions
        Columns of ``tokens.ids`` that were kept, or None for all.
    logits
        The model's own logits, or None if they were not asked for.
    """

    def __init__(self, tokens: Tokens, positions: list[int] | None) -> None:
        self.tokens = tokens
        self.positions = positions
        self.logits: Tensor | None = None
        self._values: dict[Site, Tensor] = {}

    def _put(self, site: Site, value: Tensor) -> None:
        self._values[site] = value

    @property
    def sites(self) -> list[Site]:
        """The recorded sites, in the order in which they got their values."""
        return list(self._values)

    def __getitem__(self, name: SiteName) -> Tensor:
        site = parse_site(name)
        if site in self._values:
            return self._values[site]
        layers = [kept for kept in self._values if (kept.kind, kept.head) == (site.kind, site.head)]
        if site.layer is None and site.kind not in GLOBAL and layers:
            return torch.stack([self._values[kept] for kept in sorted(layers)])
        if site.layer is not None and site.layer < 0 and layers:
            top = 1 + max(kept.layer or 0 for kept in layers)
            return self[Site(site.kind, site.layer + top, site.head)]
        raise SiteError(f"{name} was not recorded; this trace has {self._summary()}.")

    def __iter__(self) -> Iterator[str]:
        return (str(site) for site in self._values)

    def __len__(self) -> int:
        return len(self._values)

    def _summary(self) -> str:
        kinds = dict.fromkeys(site.kind for site in self._values)
        return ", ".join(kinds) or "nothing"

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded tensors."""
        return sum(value.nbytes for value in self._values.values())

    def __repr__(self) -> str:
        batch, length = self.tokens.ids.shape
        return (
            f"Trace({len(self)} sites of {batch} x {length} tokens: {self._summary()}; "
            f"{self.nbytes / 1e6:.1f} MB)"
        )


def record(
    model: LensModel,
    text: Any,
    sites: SiteName | Iterable[SiteName],
    *,
    positions: Any = None,
    heads: Iterable[int] | None = None,
    on_site: Callable[[Site, Tensor], None] | None = None,
    logits: Literal["all", "last"] | None = "all",
) -> Trace:
    """Run a model once and keep the activations asked for.

    Parameters
    ----------
    model
        From :func:`layerlens.load`.
    text
        A string, a list of strings, token ids, chat messages or :class:`Tokens`.
    sites
        Names of sites (``"resid_post"`` for every layer, ``"resid_post.7"``, ``"z.7.3"``,
        ``"blocks.7.hook_resid_post"``), or a list of them.
    positions
        Keep only these positions: an index (negative from the end), a slice, a list, or
        the text of a token or span. For ``pattern`` and ``attn_scores`` these are the
        query positions. What is not kept is not stored.
    heads
        Keep only these heads of sites that have heads.
    on_site
        Called inside the pass as each site gets its value, with what was kept of it.
    logits
        ``"all"``, ``"last"`` or None.

    Returns
    -------
    Trace
        Tensors in the model's dtype on the model's device: ``[batch, position, d_model]``
        for the stream, ``[batch, position, head, width]`` for q, k, v, z and ``[batch,
        head, query, key]`` for scores and pattern.

    Raises
    ------
    SiteError
        If a site does not exist here or did not fire.
    InputError
        If the text or the positions do not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")  # doctest: +SKIP
    >>> trace = ll.record(model, [1, 2, 3], ["resid_post", "z.0.1"])  # doctest: +SKIP
    >>> trace["resid_post", 0].shape  # doctest: +SKIP
    torch.Size([1, 3, 64])
    """
    tokens = model.tokens(text)
    wanted = expand(sites, model.n_layers)
    kept = _positions(model, tokens, positions)
    chosen = None if heads is None else list(heads)
    for site in wanted:
        _check_heads(model, site, [site.head] if site.head is not None else chosen or [])
    trace = Trace(tokens, kept)

    def keep(site: Site, value: Tensor) -> None:
        value = _cut(site, value, kept, chosen)
        trace._put(site, value)
        if on_site is not None:
            on_site(site, value)

    trace.logits = forward(model, tokens, wanted, keep, logits=logits)
    return trace


def _positions(model: LensModel, tokens: Tokens, where: Any) -> list[int] | None:
    """Columns to keep; with several texts, indices count within each row's padding."""
    if where is None:
        return None
    rows = [model.positions(tokens, where, row) for row in range(tokens.ids.shape[0])]
    if any(row != rows[0] for row in rows):
        raise SiteError(
            "The positions fall on different columns in different texts: record the texts one "
            "by one, or give positions that all texts share."
        )
    return rows[0]


def _check_heads(model: LensModel, site: Site, heads: list[int]) -> None:
    if site.kind not in HEADS:
        return
    block = model.anatomy.blocks[site.layer or 0]
    kind, count = ("key-value heads", block.n_kv_heads)
    if site.kind not in ("k", "v"):
        kind, count = "query heads", block.n_heads
    for head in heads:
        if not 0 <= head < count:
            raise SiteError(
                f"Head {head} of {site.kind} in layer {site.layer} does not exist: there are "
                f"{count} {kind} (0 to {count - 1})."
            )


def _cut(site: Site, value: Tensor, positions: list[int] | None, heads: list[int] | None) -> Tensor:
    """What is kept of a value; a copy where only part is, so that the rest is freed."""
    square = site.kind in ("pattern", "attn_scores")
    if heads is not None and site.kind in HEADS and site.head is None:
        index = torch.tensor(heads, device=value.device)
        value = value.index_select(1 if square else 2, index)
    if positions is not None:
        axis = (2 if site.head is None else 1) if square else 1
        value = value.index_select(axis, torch.tensor(positions, device=value.device))
    return value
