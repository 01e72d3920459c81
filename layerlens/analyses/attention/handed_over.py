"""What each position hands to each other through the attention of one block, as vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.frozen_norm import FrozenNorms, freeze_rows
from layerlens.errors import ModelError
from layerlens.model.evidence import error, limit
from layerlens.model.families import GATED_Z
from layerlens.model.linear import offset
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.run.forward import head_writes, through_scales

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

CHUNK_BYTES = 64_000_000
"""What the vectors of so many queries at once may take."""

ROUNDINGS = 64.0
"""How many roundings of the model's dtype the sum of all vectors may be off."""

SITES = ("resid_pre", "v", "z", "pattern", "attn_out")
"""Kinds of sites that a block is read at."""

Raw = dict[str, Tensor]


def require_vectors(model: LensModel) -> None:
    """Refuse a model whose attention does not hand over a sum of vectors.

    Raises
    ------
    ModelError
        Names what is in the way.
    """
    why = ""
    if model.anatomy.family in GATED_Z:
        why = "gates or norms what its heads hand on"
    elif any(block.pre_norm for block in model.anatomy.blocks):
        why = "replaces the stream by a norm of it at the beginning of each block"
    elif any(block.attention and "z" not in block.taps for block in model.anatomy.blocks):
        why = "has an attention that does not end in one linear projection"
    if why:
        raise ModelError(
            f"{model.name} {why}, so what one position hands to another is no vector of its own: "
            "method='rollout' and method='flow' work here."
        )


@dataclass
class HandedOver:
    """One block's attention in one text, as vectors that add up to what it writes.

    Norms behind the projection (sandwich norms) and on the stream itself (post-norm blocks) are
    held at the statistics that they have in this run, so that all is linear.

    Parameters
    ----------
    raw
        Values of `SITES` (and of ``resid_mid`` where a norm is on the sum) of one text, by kind,
        without the axis of texts.

    Attributes
    ----------
    after
        ``[position, d_model]``: the stream behind the attention, the norm on it included.
    constant
        ``[position, d_model]``: the part of it that comes from biases and no position.
    errors
        How far the sums are from what the model has: ``sublayer``, and ``norm`` where there is one.
    """

    model: LensModel
    layer: int
    raw: Raw

    def __post_init__(self) -> None:
        block = self.model.anatomy.blocks[self.layer]
        self._tap = block.taps["attn_out"]
        values = self._values()
        projection = self.model.hf.get_submodule(block.taps["z"].module)
        self._writes = _wide(head_writes(self.model, self.layer, values))
        bias = offset(projection, values.flatten(-2))
        self._base = _wide(self.raw["resid_pre"])
        self._bias = torch.zeros_like(self._base) if bias is None else _wide(bias)
        self._bias = self._bias.expand_as(self._base)
        self._behind = self._norm_behind()
        self._on_sum: FrozenNorms | None = None
        self.constant = self._through(self._bias, constant=True)
        written = self.sum_of(self.pattern, own=False) + self.constant
        given = _wide(self.raw["attn_out"])
        self.errors = {"sublayer": error(written, given)}
        self.after = self._base + given
        if block.mid_norm:
            summed = self.raw["resid_pre"] + self.raw["attn_out"]
            self._on_sum = freeze_rows(self.model, block.mid_norm, summed)
            self.constant = self._on_sum.push(self.constant) + self._on_sum.offset.to(self.after)
            self.after = _wide(self.raw["resid_mid"])
            self.errors["norm"] = error(self.sum_of(self.pattern) + self.constant, self.after)
        self._require()

    @property
    def pattern(self) -> Tensor:
        """``[head, query, key]``."""
        return _wide(self.raw["pattern"])

    def vectors(self, pattern: Tensor, *, own: bool = True) -> Iterator[tuple[slice, Tensor]]:
        """Vectors that some queries are handed, chunk by chunk: ``[query, key, d_model]``.

        Parameters
        ----------
        pattern
            ``[head, query, key]``: the model's, or another to ask what it would hand over.
        own
            Count the query's own state, which the residual connection hands on, to its key.
        """
        length = pattern.shape[1]
        width = self._base.shape[-1]
        step = max(1, CHUNK_BYTES // (length * width * self._base.element_size()))
        for start in range(0, length, step):
            here = slice(start, min(start + step, length))
            weights = pattern[:, here].to(self._writes)
            found = torch.einsum("hqk,khd->qkd", weights, self._writes)
            found = self._through(found, here)
            if own:
                place = torch.arange(here.start, here.stop)
                found[place - start, place] += self._base[here]
                if self._on_sum is not None:
                    found = self._on_sum.at(here).push(found)
            yield here, found

    def sum_of(self, pattern: Tensor, *, own: bool = True) -> Tensor:
        """The vectors of each query, summed: ``[query, d_model]``."""
        return torch.cat([found.sum(1) for _, found in self.vectors(pattern, own=own)])

    def _values(self) -> Tensor:
        """Values ``[position, head, width]`` of query heads."""
        v, z = self.raw["v"], self.raw["z"]
        heads = z.shape[1]
        if v.shape[-1] != z.shape[-1]:
            raise ModelError(
                f"The values of layer {self.layer} of {self.model.name} are {v.shape[-1]} wide and "
                f"its heads' outputs {z.shape[-1]}, so that what a head hands on is not a sum over "
                "positions: method='rollout' and method='flow' work here."
            )
        return v.repeat_interleave(heads // v.shape[1], dim=1)

    def _norm_behind(self) -> FrozenNorms | None:
        """The norm between the projection and the stream, held at each position; None: none."""
        if not is_norm(self.model.hf.get_submodule(self._tap.module)):
            return None
        weights = self.pattern.to(self._writes)
        summed = torch.einsum("hqk,khd->qd", weights, self._writes) + self._bias
        return freeze_rows(self.model, self._tap.module, summed.to(self.raw["attn_out"].dtype))

    def _through(
        self, parts: Tensor, queries: slice = slice(None), *, constant: bool = False
    ) -> Tensor:
        """Parts of what the projection gives, as parts of what the stream is given."""
        if self._behind is not None:
            parts = self._behind.at(queries).push(parts)
            if constant:
                parts = parts + self._behind.offset.to(parts)
        return through_scales(self.model, self._tap, parts)

    def _require(self) -> None:
        worst = max(self.errors.values())
        if not worst <= limit(self.model, ROUNDINGS):
            raise ModelError(
                f"What the positions hand over in layer {self.layer} of {self.model.name} does not "
                f"add up to what its attention writes: it is off by {worst:.2g} of it, allowed is "
                f"{limit(self.model, ROUNDINGS):.2g}; method='rollout' and method='flow' work here."
            )


def has_vectors(model: LensModel, layer: int) -> bool:
    """Whether a block has all the sites that its vectors are made from."""
    block = model.anatomy.blocks[layer]
    return block.attention is not None and {"z", "attn_out"} <= block.taps.keys()


def sites_of_vectors(model: LensModel, layer: int) -> list[Site]:
    """The sites that a block's vectors are made from, and what they are compared with."""
    kinds = list(SITES)
    if model.anatomy.blocks[layer].mid_norm:
        kinds.append("resid_mid")
    return [Site(kind, layer) for kind in kinds]


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(torch.float32, value.dtype))
