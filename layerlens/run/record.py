"""Record chosen sites of one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from layerlens.errors import InputError, SiteError
from layerlens.model.integers import wholes
from layerlens.model.required import require_model
from layerlens.model.sites import GLOBAL, HEADS, Site, SiteName, expand, parse_site
from layerlens.model.text import Tokens
from layerlens.run.changes import SQUARE
from layerlens.run.edit_lists import as_edits
from layerlens.run.edits import Edit
from layerlens.run.forward import forward
from layerlens.run.resolve import resolve
from layerlens.run.where import require_heads

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
    model, tokens
        What was run.
    positions
        Columns of ``tokens.ids`` that were kept, or None for all.
    edits
        What was changed on the way.
    logits
        The model's own logits, or None if they were not asked for.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        positions: list[int] | None,
        edits: tuple[Edit, ...] = (),
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.positions = positions
        self.edits = edits
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

    def top(self, k: int = 10, position: Any = -1, row: int = 0) -> list[tuple[int, str, float]]:
        """The most probable next tokens after a position.

        Parameters
        ----------
        k
            How many.
        position
            One position of the text, as ``model.positions`` takes.
        row
            Which text, where several were run.

        Returns
        -------
        list of (id, string, probability)
            Best first.

        Raises
        ------
        InputError
            If there are no logits for that position.
        """
        logits = self._logits_at(position, row)
        if not 1 <= k <= len(logits):
            raise InputError(f"k is {k}; expected 1 to {len(logits)}.")
        best = logits.softmax(-1).topk(k)
        return [
            (index, self.model.token_string(index), value)
            for value, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def probability(self, token: str | int, position: Any = -1, row: int = 0) -> float:
        """Probability of a token after a position, 0 to 1; ``position`` as in :meth:`top`."""
        index = self.model.token_id(token, self.tokens, row)
        return float(self._logits_at(position, row).softmax(-1)[index])

    def _logits_at(self, position: Any, row: int) -> Tensor:
        """Logits after one position of one text, ``[vocabulary]`` float32."""
        columns = self.model.positions(self.tokens, position, row)
        if len(columns) != 1:
            raise InputError(f"position={position!r} names {len(columns)} positions: name one.")
        if self.logits is None:
            raise InputError("This trace has no logits: ask for them with logits='all'.")
        place = columns[0] - (self.tokens.ids.shape[1] - self.logits.shape[1])
        if place < 0:
            raise InputError(
                f"Only the last position's logits were kept, not those of {columns[0]}: ask for "
                "logits='all'."
            )
        return self.logits[row, place].float()

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
    heads: int | Iterable[int] | None = None,
    on_site: Callable[[Site, Tensor], None] | None = None,
    logits: Literal["all", "last"] | None = "all",
    edits: Edit | Iterable[Edit] = (),
    add_bos: bool | None = None,
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
    edits
        What to change on the way (:func:`layerlens.edit`); a site that is read where it is
        changed is seen after the change.
    add_bos
        Put the begin token in front, or leave it out; None: as the tokenizer does by itself.

    Returns
    -------
    Trace
        Tensors in the model's dtype on the model's device: ``[batch, position, d_model]``
        for the stream, ``[batch, position, head, width]`` for q, k (both before the rotary
        embedding), rot_q, rot_k (after it), v, z and ``[batch, head, query, key]`` for scores
        and pattern.

    Raises
    ------
    SiteError
        If a site does not exist here or did not fire.
    InputError
        If the text, the positions or an edit do not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> trace = ll.record(model, [1, 2, 3], ["resid_post", "z.0.1"])
    >>> trace["resid_post", 0].shape
    torch.Size([1, 3, 64])
    """
    require_model(model)
    tokens = model.tokens(text, add_bos=add_bos)
    wanted = expand(sites, model.n_layers)
    kept = _positions(model, tokens, positions)
    chosen = None if heads is None else list(wholes(heads, "heads"))
    for site in wanted:
        require_heads(model, site, [site.head] if site.head is not None else chosen or [])
    trace = Trace(model, tokens, kept, as_edits(edits))
    changes = resolve(model, tokens, trace.edits)

    def keep(site: Site, value: Tensor) -> None:
        value = _cut(site, value, kept, chosen)
        trace._put(site, value)
        if on_site is not None:
            on_site(site, value)

    trace.logits = forward(model, tokens, wanted, keep, logits=logits, changes=changes)
    return trace


def run(
    model: LensModel,
    text: Any,
    edits: Edit | Iterable[Edit] = (),
    *,
    sites: SiteName | Iterable[SiteName] = (),
    logits: Literal["all", "last"] | None = "all",
    add_bos: bool | None = None,
) -> Trace:
    """Run a model once, with edits.

    Parameters
    ----------
    model
        From :func:`layerlens.load`.
    text
        A string, a list of strings, token ids, chat messages or :class:`Tokens`.
    edits
        From :func:`layerlens.edit`. At one site they apply in the order given, across sites
        in the model's own.
    sites
        What to record, after the edits; see :func:`layerlens.record`.
    logits
        ``"all"``, ``"last"`` or None.
    add_bos
        Put the begin token in front, or leave it out; None: as the tokenizer does by itself.

    Returns
    -------
    Trace
        ``.logits``, ``.top()`` and ``.probability(token)`` of the edited run.

    Raises
    ------
    SiteError
        If a site does not exist here, cannot be changed or did not fire.
    InputError
        If the text or an edit does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> edited = ll.run(model, "cat dog owl cat", ll.edit("z.1.0", "zero"))
    >>> edited.top(1)[0][1]
    'dog'
    """
    return record(model, text, sites, logits=logits, edits=edits, add_bos=add_bos)


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


def _cut(site: Site, value: Tensor, positions: list[int] | None, heads: list[int] | None) -> Tensor:
    """What is kept of a value; a copy where only part is, so that the rest is freed.

    Positions are those of the text, which what an encoder gave (``cross_k``) does not have.
    """
    square = site.kind.removeprefix("cross_") in SQUARE
    if heads is not None and site.kind in HEADS and site.head is None:
        index = torch.tensor(heads, device=value.device)
        value = value.index_select(1 if square else 2, index)
    if positions is not None and site.kind not in ("cross_k", "cross_v"):
        axis = (2 if site.head is None else 1) if square else 1
        value = value.index_select(axis, torch.tensor(positions, device=value.device))
    return value
