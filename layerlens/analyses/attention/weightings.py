"""What stands behind a weight: how much it moves, and the scores that it comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError, ModelError
from layerlens.model.evidence import error
from layerlens.model.families import GATED_Z
from layerlens.model.linear import offset
from layerlens.result.attention import WEIGHTINGS
from layerlens.run.forward import head_writes, through_scales
from layerlens.run.proof_heads import behind, has_sinks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerlens.model.lensmodel import LensModel

QUERIES_CHECKED = 16
"""Queries of each layer whose parts are added up again in the stream."""

Found = dict[str, Tensor]


def chosen_weightings(weighting: str | Sequence[str]) -> list[str]:
    """Return the weightings to compute, each once, ``pattern`` first.

    Raises
    ------
    InputError
        There is no such weighting.
    """
    if not isinstance(weighting, str | list | tuple):
        raise InputError(
            f"weighting is {weighting!r}; it is one of {', '.join(WEIGHTINGS)}, or a list of them."
        )
    names = [weighting] if isinstance(weighting, str) else list(weighting)
    for name in names:
        if name not in WEIGHTINGS:
            raise nearest(str(name), list(WEIGHTINGS), "Weighting")
    return [name for name in WEIGHTINGS if name == "pattern" or name in names]


def possible(model: LensModel, layers: Sequence[int]) -> list[str]:
    """Return the weightings that all of these layers have."""
    gated = model.anatomy.family in GATED_Z
    projected = all("z" in model.anatomy.blocks[layer].taps for layer in layers)
    lacking = {"norm"} if gated or not projected else set()
    return [name for name in WEIGHTINGS if name not in lacking]


def require_possible(model: LensModel, layers: Sequence[int], names: Sequence[str]) -> None:
    """Refuse a weighting that a model has not.

    Raises
    ------
    ModelError
        Names what is in the way.
    """
    if "norm" not in names or "norm" in possible(model, layers):
        return
    why = (
        "gates or norms what its heads hand on"
        if model.anatomy.family in GATED_Z
        else "has an attention that does not end in one linear projection"
    )
    raise ModelError(
        f"{model.name} {why}, so that what one position moves in the stream is not a vector of "
        "its own: weighting='value' works here."
    )


def sites_of_weightings(model: LensModel, layer: int, names: Sequence[str]) -> list[str]:
    """Return the kinds of sites that the weightings of a layer are made from, and checked with."""
    kinds = ["pattern"]
    if "value" in names or "norm" in names:
        kinds.append("v")
        if "z" in model.anatomy.blocks[layer].taps:
            kinds.append("z")
    if "norm" in names:
        kinds.append("attn_out")
    if "scores" in names:
        kinds.append("attn_scores")
    return kinds


class Weighing:
    """Makes the weightings of each layer and keeps the largest error of each comparison.

    Attributes
    ----------
    errors
        Name of a check to its largest error, as a share of what is compared.
    """

    def __init__(self, model: LensModel, names: Sequence[str]) -> None:
        self._model = model
        self._names = names
        self.errors: dict[str, float] = {}
        self.sinks = False

    def of(self, layer: int, found: Found) -> dict[str, np.ndarray]:
        """Return the weightings of a layer, ``[head, query, key]`` float32 each, by variable.

        Parameters
        ----------
        found
            By kind, what `sites_of_weightings` names, of one text.
        """
        pattern = found["pattern"][0].float()
        self._check_rows(layer, pattern)
        made = {"pattern": pattern}
        if "scores" in self._names:
            made["scores"] = found["attn_scores"][0].float()
            self._check_scores(pattern, made["scores"])
        if "value" in self._names or "norm" in self._names:
            values = found["v"].repeat_interleave(len(pattern) // found["v"].shape[2], dim=2)[0]
            self._check_values(found, values)
        if "value" in self._names:
            made["value"] = pattern * _lengths(values)
        if "norm" in self._names:
            writes = head_writes(self._model, layer, values)
            self._check_writes(layer, found, writes)
            tap = self._model.anatomy.blocks[layer].taps["attn_out"]
            made["norm"] = pattern * _lengths(through_scales(self._model, tap, writes))
        return {WEIGHTINGS[name]: value.cpu().numpy() for name, value in made.items()}

    def _note(self, name: str, off: float) -> None:
        self.errors[name] = max(off, self.errors.get(name, 0.0))

    def _check_rows(self, layer: int, pattern: Tensor) -> None:
        over = pattern.sum(-1) - 1
        if has_sinks(self._model, layer):
            over, self.sinks = over.clamp(min=0), True
        self._note("rows", over.abs().max().item())

    def _check_scores(self, pattern: Tensor, scores: Tensor) -> None:
        # With a learnt sink the rows sum to less; the shares among the keys are the same.
        self._note("scores", error(scores.softmax(-1), pattern / pattern.sum(-1, keepdim=True)))

    def _check_values(self, found: Found, values: Tensor) -> None:
        if "z" not in found or self._model.anatomy.family in GATED_Z:
            return
        weights = found["pattern"][0].to(values.dtype)
        z, size = (torch.einsum("hqk,khd->qhd", weights, x) for x in (values, values.abs()))
        self._note("values", error(z, found["z"][0], size))

    def _check_writes(self, layer: int, found: Found, writes: Tensor) -> None:
        """Add up what every head moves from every position, and look for it in the stream."""
        block = self._model.anatomy.blocks[layer]
        weights = found["pattern"][0].to(writes.dtype)
        length = weights.shape[1]
        queries = np.unique(np.linspace(0, length - 1, QUERIES_CHECKED).astype(int))
        summed = torch.einsum("hqk,khd->qd", weights[:, queries], writes)
        z = found["z"][0].flatten(-2)
        bias = offset(self._model.hf.get_submodule(block.out_proj or ""), z)
        if bias is not None:
            summed = summed + (bias if bias.dim() == 1 else bias[queries])
        again = behind(self._model, summed, block.taps["attn_out"])
        given = found["attn_out"][0]
        self._note("writes", error(again, given[queries]))


def _lengths(vectors: Tensor) -> Tensor:
    """Euclidean lengths of ``[key, head, width]`` as ``[head, 1, key]`` float32."""
    lengths: Tensor = vectors.float().norm(dim=-1)
    return lengths.T[:, None]
