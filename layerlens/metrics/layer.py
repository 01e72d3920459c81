"""One layer of one pass, as metrics see it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import SiteError
from layerlens.metrics.batch import Batch, Picked
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.model.anatomy import BlockAnatomy
    from layerlens.model.lensmodel import LensModel

INCREMENTS = ("attn", "mlp", "block")
STATES = ("pre", "mid", "post")
MOST_NUMBERS = 1 << 20
"""Numbers in the patterns that are handed over together, at most, if they are of several texts: so
that they and what is made of them stay in the processor's cache."""


def sites_of(model: LensModel, part: str, layer: int) -> tuple[Site, ...]:
    """The sites that a part of a layer is made from.

    Parameters
    ----------
    part
        A state (``pre``, ``mid``, ``post``), an increment of the stream (``attn``, ``mlp``,
        ``block``), or the kind of any site inside a block (``pattern``, ``z``, ``mlp_post``...).

    Raises
    ------
    SiteError
        If this layer has no such part, with the reason.
    """
    block = model.anatomy.blocks[layer]
    if part in ("attn", "mlp") and (block.mid_norm or block.post_norm):
        raise SiteError(
            f"{part} of layer {layer} cannot be told from the norm's own change: {block.path} "
            "normalises the stream itself (post-norm); read attn_out or mlp_out instead."
        )
    sites = tuple(Site(kind, layer) for kind in _kinds(part, block))
    for site in sites:
        if block.watched(site.kind) is None or block.attention is None:
            model.anatomy.tap(site)  # raises where there is none, and says why
    return sites


def neuron_sites(model: LensModel, layers: Any = None) -> list[Site]:
    """Neurons of the layers asked for; of all layers, those that have some."""
    found: list[Site] = []
    for layer in model.layers(layers):
        try:
            found += sites_of(model, "mlp_post", layer)
        except SiteError:
            if layers is not None:
                raise
    if not found:
        sites_of(model, "mlp_post", 0)  # raises, and says why
    return found


def _kinds(part: str, block: BlockAnatomy) -> tuple[str, ...]:
    """Kinds of sites that a part is made from."""
    between = block.layout == "sequential"
    kinds = {
        "pre": ("resid_pre",),
        "mid": ("resid_mid",) if between else ("resid_pre",),
        "post": ("resid_post",),
        "block": ("resid_pre", "resid_post"),
        "attn": ("resid_pre", "resid_mid") if between else ("attn_out",),
        "mlp": ("resid_mid", "resid_post") if between else ("mlp_out",),
    }
    return kinds.get(part, (part,))


class Layer:
    """What one layer did in one pass.

    States and increments are rows of the tokens that count, upcast to float32 (float64 where
    the model is), on the device of the layer. All is computed when first asked for and shared
    by all metrics: never write into it.

    Attributes
    ----------
    number
        Of the block, from 0.
    batch
        The texts of the pass.
    special
        Ids of the tokenizer's special tokens.
    """

    def __init__(
        self,
        model: LensModel,
        number: int,
        batch: Batch,
        raw: dict[str, Tensor],
        parts: frozenset[str],
        before: Layer | None = None,
    ) -> None:
        self.number = number
        self.batch = batch
        self.special = model.vocabulary.special
        self._block = model.anatomy.blocks[number]
        self._raw = raw
        self._parts = parts
        self._rows: dict[tuple[str, bool], Tensor] = {}
        self._dots: dict[tuple[str, str], Tensor] = {}
        if before is not None:
            self._inherit(before)

    def _inherit(self, before: Layer) -> None:
        """Take over what is known of the state before this layer, where it is the same tensor."""
        mine, last = self._raw.get("resid_pre"), before._raw.get("resid_post")
        if mine is None or last is None or mine.data_ptr() != last.data_ptr():
            return
        for every in (False, True):
            if ("resid_post", every) in before._rows:
                self._rows["resid_pre", every] = before._rows["resid_post", every]
        if ("post", "post") in before._dots:
            self._dots["pre", "pre"] = before._dots["post", "post"]

    def close(self) -> None:
        """Let go of all but the last state, which the next layer may take over."""
        self._raw = {kind: value for kind, value in self._raw.items() if kind == "resid_post"}
        self._rows = {key: value for key, value in self._rows.items() if key[0] == "resid_post"}

    def has(self, *parts: str) -> bool:
        """Whether this layer has all of these parts, and they were asked for."""
        return self._parts.issuperset(parts)

    @property
    def n_heads(self) -> int:
        """Query heads of this layer; 0 where it has no attention."""
        return self._block.n_heads

    @property
    def has_middle(self) -> bool:
        """Whether a state lies between two sublayers; where none does, ``mid`` is ``pre``."""
        return self._block.layout == "sequential"

    def whole(self, kind: str) -> Tensor:
        """A site as the model gave it: ``[batch, position, ...]`` with padding, its own dtype."""
        return self._raw[kind]

    def rows(self, part: str, *, every: bool = False) -> Tensor:
        """Rows of a part: ``[n, d_model]``, or ``[n, head, width]`` for q, k, v, z.

        Parameters
        ----------
        part
            As in `sites_of`, but for ``pattern``; see :meth:`patterns`.
        every
            All tokens (``batch.every``) and not only those that count (``batch.kept``).
        """
        if part not in ("attn", "mlp", "block", "mid"):
            return self._taken({"pre": "resid_pre", "post": "resid_post"}.get(part, part), every)
        if (part, every) not in self._rows:
            self._rows[part, every] = self._made(part, every)
        return self._rows[part, every]

    def _made(self, part: str, every: bool) -> Tensor:
        kinds = _kinds(part, self._block)
        if len(kinds) == 1:
            return self._taken(kinds[0], every)
        before, after = (self._taken(kind, every) for kind in kinds)
        return after - before

    def _taken(self, kind: str, every: bool) -> Tensor:
        if (kind, every) not in self._rows:
            picked = self.batch.every if every else self.batch.kept
            self._rows[kind, every] = _upcast(picked.take(self._raw[kind]))
        return self._rows[kind, every]

    def dot(self, a: str, b: str) -> Tensor:
        """Scalar product of two parts at each kept token: [n] float64 on the CPU."""
        key = (a, b) if a <= b else (b, a)
        if key not in self._dots:
            found = torch.linalg.vecdot(self.rows(key[0]), self.rows(key[1]))
            self._dots[key] = found.to("cpu", torch.float64)
        return self._dots[key]

    def norm(self, part: str) -> Tensor:
        """Euclidean norm of a part at each kept token: [n] float64 on the CPU."""
        return self.dot(part, part).sqrt()

    def cosine(self, a: str, b: str) -> Tensor:
        """Cosine of two parts at each kept token: [n] float64, NaN where one of them is zero."""
        cosine = self.dot(a, b) / (self.norm(a) * self.norm(b))
        return cosine.clamp(-1, 1)

    def texts(self, part: str, *, every: bool = True) -> Iterator[tuple[int, Tensor]]:
        """Row number and values ``[tokens of the text, ...]`` of each text without padding."""
        picked: Picked = self.batch.every if every else self.batch.kept
        values = self.rows(part, every=every)
        for row, span in picked.rows():
            yield row, values[span]

    def alike(self, part: str) -> Iterator[tuple[list[int], Tensor]]:
        """Row numbers of texts of which as many tokens count, and their rows of a part.

        ``[text, tokens, ...]``, without texts of which none counts.
        """
        values = self.rows(part)
        for rows, spans in self.batch.kept.alike:
            start, stop = spans[0].start, spans[-1].stop
            count = spans[0].stop - start
            if stop - start == len(rows) * count:  # side by side: a view copies nothing
                yield rows, values[start:stop].unflatten(0, (len(rows), count))
            else:
                yield rows, torch.stack([values[span] for span in spans])

    def patterns(self) -> Iterator[tuple[list[int], Tensor]]:
        """Row numbers of texts of one length, and their patterns without padding.

        ``[text, head, query, key]`` float32, of all real tokens.
        """
        value = self._raw["pattern"]
        for rows, columns in self.batch.alike:
            step = max(1, MOST_NUMBERS // (self.n_heads * (columns.stop - columns.start) ** 2))
            for start in range(0, len(rows), step):
                some = rows[start : start + step]
                together = some[-1] - some[0] + 1 == len(some)  # a slice copies nothing
                which = slice(some[0], some[-1] + 1) if together else some
                yield some, _upcast(value[which, :, columns, columns])


def _upcast(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(torch.float32, value.dtype))
