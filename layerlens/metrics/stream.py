"""How large the residual stream is, and what each sublayer adds to it.

What a sublayer adds is the increment of the stream, not the output of a module: with norms after
the sublayer or residual multipliers these differ. In parallel blocks both sublayers are compared
with the state before the block.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.batch import GROUPS, Batch, accumulate
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import Mean, StateMean, TokenMean, bootstrap, ratio
from layerlens.metrics.registry import register

CSORDAS = (
    "Csordás, Manning and Potts (2025), Do Language Models Use Their Depth Efficiently?, "
    "arXiv 2505.13898"
)
SHORTGPT = (
    "Men et al. (2024), ShortGPT: Layers in Large Language Models are More Redundant Than You "
    "Expect, arXiv 2403.03853"
)
LLM_DROP = (
    "He et al. (2024), What Matters in Transformers? Not All Attention is Needed, arXiv 2406.15786"
)
SMALLEST = 1e-6
"""Denominators are at least this."""

#: Sublayer -> the state that it reads and adds to, and the state after it.
READS = {"attn": "pre", "mlp": "mid", "block": "pre"}


class _WithLargest(Mean):
    """Keeps the largest of all numbers beside their mean, as ``<name>_max``."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            words = f"{cls.long_name}, the largest of all tokens"
            largest = Output(cls.axes, cls.units, words, interval=False)
            cls.outputs = {**cls.outputs, f"{cls.name}_max": largest}

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self.zeros("max", *(shape.sizes[axis] for axis in self.axes), fill=np.nan)

    def add(self, cell: tuple[int | slice, ...], values: Tensor, batch: Batch) -> None:
        """Count the numbers and keep the largest."""
        super().add(cell, values, batch)
        if len(values):
            here = self.arrays["max"]
            here[cell] = np.fmax(here[cell], float(values.max()))

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Keep the larger, add the rest."""
        return np.fmax(mine, theirs) if name == "max" else super().combine(name, mine, theirs)

    def value(self, intervals: bool = True) -> Arrays:
        """The means, their intervals, and the largest."""
        return {**super().value(intervals), f"{self.name}_max": self.arrays["max"].copy()}


@register
class ResidualNorm(_WithLargest, StateMean):
    """Norm of the residual stream."""

    name = "residual_norm"
    question = "How large is the residual stream at each depth?"
    formula = "mean over tokens of ||h||, for the states before, between and after the blocks"
    units = "activation"
    source = CSORDAS
    long_name = "norm of the residual stream"

    def measure(self, layer: Layer, part: str) -> Tensor:
        """Norm of each token's state."""
        return layer.norm(part)


class _OfSublayer(TokenMean):
    """A number for what one sublayer adds."""

    sublayer: ClassVar[str]


class _Norm(_WithLargest, _OfSublayer):
    units = "activation"
    source = CSORDAS

    def measure(self, layer: Layer) -> Tensor:
        """Norm of each token's increment."""
        return layer.norm(self.sublayer)


@register
class AttnNorm(_Norm):
    """Norm of what the attention adds."""

    name, sublayer, parts = "attn_norm", "attn", ("attn",)
    question = "How much does the attention of each layer write?"
    formula = "mean over tokens of ||a||, a = mid - pre"
    long_name = "norm of the attention's contribution"


@register
class MlpNorm(_Norm):
    """Norm of what the MLP adds."""

    name, sublayer, parts = "mlp_norm", "mlp", ("mlp",)
    question = "How much does the MLP of each layer write?"
    formula = "mean over tokens of ||m||, m = post - mid"
    long_name = "norm of the MLP's contribution"


@register
class BlockNorm(_Norm):
    """Norm of what the block adds."""

    name, sublayer, parts = "block_norm", "block", ("block",)
    question = "How much does each block write?"
    formula = "mean over tokens of ||c||, c = post - pre"
    long_name = "norm of the block's contribution"


class _Ratio(_OfSublayer):
    units = "1"
    source = CSORDAS

    def measure(self, layer: Layer) -> Tensor:
        """Norm of each token's increment over that of its state."""
        state = layer.norm(READS[self.sublayer])
        return layer.norm(self.sublayer) / state.clamp(min=SMALLEST)


@register
class AttnRatio(_Ratio):
    """Norm of what the attention adds, relative to the stream."""

    name, sublayer, parts = "attn_ratio", "attn", ("attn", "pre")
    question = "How much does the attention write, compared with what is there?"
    formula = "mean over tokens of ||a|| / ||pre||, a = mid - pre"
    long_name = "attention's share of the stream"


@register
class MlpRatio(_Ratio):
    """Norm of what the MLP adds, relative to the stream."""

    name, sublayer, parts = "mlp_ratio", "mlp", ("mlp", "mid")
    question = "How much does the MLP write, compared with what is there?"
    formula = "mean over tokens of ||m|| / ||mid||, m = post - mid (parallel blocks: / ||pre||)"
    long_name = "MLP's share of the stream"


@register
class BlockRatio(_Ratio):
    """Norm of what the block adds, relative to the stream."""

    name, sublayer, parts = "block_ratio", "block", ("block", "pre")
    question = "How much does each block write, compared with what is there?"
    formula = "mean over tokens of ||c|| / ||pre||, c = post - pre"
    long_name = "block's share of the stream"


class _Cosine(_OfSublayer):
    """A cosine with the state, and beside it the same with the states of other tokens.

    States of all tokens share a direction, and so does what a sublayer adds to them: a cosine is
    about a token's own state only as far as it differs from the second one, ``<name>_chance``.
    """

    units = "1"
    source = CSORDAS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            words = f"{cls.long_name} of the text's other tokens"
            chance = Output(cls.axes, cls.units, words)
            cls.outputs = {**cls.outputs, f"{cls.name}_chance": chance}
            cls.formula += "; _chance: with the states of the other tokens of its text instead"

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self.zeros("chance_sum", GROUPS, shape.n_layers)
        self.zeros("chance_count", GROUPS, shape.n_layers)

    def measure(self, layer: Layer) -> Tensor:
        """Cosine of each token's increment with its state; NaN where one of them is zero."""
        return layer.cosine(self.sublayer, READS[self.sublayer])

    def update(self, layer: Layer) -> None:
        """Add the cosines of one layer, and those with other tokens' states."""
        super().update(layer)
        if not layer.has(*self.parts):
            return
        kept = layer.batch.kept
        cosine = self.measure(layer)
        known = cosine.isfinite()
        added, there = (
            kept.by_text(_directions(layer, part, known))
            for part in (self.sublayer, READS[self.sublayer])
        )
        count = kept.by_text(known.double())
        every = torch.linalg.vecdot(added, there).to("cpu", torch.float64)
        others = every - kept.by_text(cosine.where(known, 0.0))
        # Each token's mean over the others of its text, summed; a token alone has none.
        means = (others / (count - 1)).where(count > 1, 0.0)
        for name, sums in (("sum", means), ("count", count.where(count > 1, 0.0))):
            into = self.arrays[f"chance_{name}"]
            accumulate(into, layer.batch.groups, (layer.number,), sums)

    def value(self, intervals: bool = True) -> Arrays:
        """The two cosines and their intervals."""
        found, name = super().value(intervals), f"{self.name}_chance"
        sums = {key: self.arrays[f"chance_{key}"] for key in ("sum", "count")}
        found[name] = ratio({key: array.sum(0) for key, array in sums.items()})
        if intervals:
            found[f"{name}_low"], found[f"{name}_high"] = bootstrap(ratio, sums)
        return found


def _directions(layer: Layer, part: str, known: Tensor) -> Tensor:
    """Rows of a part with length 1; 0 where a token does not count."""
    length = layer.norm(part).where(known, float("inf"))
    rows = layer.rows(part)
    return rows / length.to(rows.device, rows.dtype)[:, None]


@register
class AttnCosine(_Cosine):
    """Cosine of what the attention adds with the stream."""

    name, sublayer, parts = "attn_cosine", "attn", ("attn", "pre")
    question = "Does the attention strengthen (> 0), extend (0) or erase (< 0) what is there?"
    formula = "mean over tokens of cos(a, pre), a = mid - pre"
    long_name = "cosine of the attention's contribution with the stream"


@register
class MlpCosine(_Cosine):
    """Cosine of what the MLP adds with the stream."""

    name, sublayer, parts = "mlp_cosine", "mlp", ("mlp", "mid")
    question = "Does the MLP strengthen (> 0), extend (0) or erase (< 0) what is there?"
    formula = "mean over tokens of cos(m, mid), m = post - mid (parallel blocks: with pre)"
    long_name = "cosine of the MLP's contribution with the stream"


@register
class BlockCosine(_Cosine):
    """Cosine of what the block adds with the stream."""

    name, sublayer, parts = "block_cosine", "block", ("block", "pre", "post")
    question = "Does each block strengthen (> 0), extend (0) or erase (< 0) what is there?"
    formula = "mean over tokens of cos(c, pre), c = post - pre"
    long_name = "cosine of the block's contribution with the stream"

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self.zeros("misfit", 1)

    def update(self, layer: Layer) -> None:
        """Add the cosines of one layer, and see whether the law of cosines holds for them."""
        super().update(layer)
        cosine = self.measure(layer).nan_to_num()
        before, added = layer.norm("pre"), layer.norm("block")
        law = before**2 + added**2 + 2 * before * added * cosine
        size = torch.maximum(before, added).square().clamp(min=SMALLEST)
        misfit = (law - layer.dot("post", "post")).abs() / size
        if len(misfit):
            self.arrays["misfit"][0] = max(self.arrays["misfit"][0], float(misfit.max()))

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Keep the larger misfit, add the rest."""
        return np.maximum(mine, theirs) if name == "misfit" else super().combine(name, mine, theirs)

    def checks(self) -> list[tuple[str, float, float, str]]:
        """The law of cosines, for every token and layer."""
        what = "largest |post|^2 - (|pre|^2 + |c|^2 + 2 |pre||c| cos), relative"
        return [("law of cosines", float(self.arrays["misfit"][0]), 1e-4, what)]


class _Influence(TokenMean):
    """One minus the cosine of the states before and after."""

    units = "1"
    ends: ClassVar[tuple[str, str]]

    def measure(self, layer: Layer) -> Tensor:
        """One minus the cosine of each token's states."""
        return 1 - layer.cosine(*self.ends)


@register
class BlockInfluence(_Influence):
    """Block Influence of ShortGPT."""

    name, ends, parts = "block_influence", ("pre", "post"), ("pre", "post")
    question = "How much does each block turn the state? (0: it could be dropped)"
    formula = "1 - mean over tokens of cos(pre, post)"
    source = SHORTGPT
    long_name = "block's turn of the state (1 − cosine)"


class _SublayerInfluence(_Influence):
    """The state after a sublayer is the state before it plus what it adds."""

    source = LLM_DROP
    sublayer: ClassVar[str]

    def measure(self, layer: Layer) -> Tensor:
        """One minus the cosine of each token's states, from scalar products that are shared."""
        if layer.has_middle:
            return super().measure(layer)
        # The state after one of two parallel sublayers, pre + a, exists nowhere.
        along = layer.dot("pre", "pre") + layer.dot("pre", self.sublayer)
        added = layer.dot(self.sublayer, self.sublayer) + layer.dot("pre", self.sublayer)
        return 1 - along / (layer.norm("pre") * (along + added).sqrt())


@register
class AttnInfluence(_SublayerInfluence):
    """Importance of the attention in LLM-Drop."""

    name, sublayer, ends = "attn_influence", "attn", ("pre", "mid")
    parts = ("pre", "mid", "attn")
    question = "How much does the attention turn the state? (0: it could be dropped)"
    formula = "1 - mean over tokens of cos(pre, pre + a), a = mid - pre"
    long_name = "attention's turn of the state (1 − cosine)"


@register
class MlpInfluence(_SublayerInfluence):
    """Importance of the MLP in LLM-Drop."""

    name, sublayer, ends = "mlp_influence", "mlp", ("mid", "post")
    parts = ("pre", "mid", "post", "mlp")
    question = "How much does the MLP turn the state? (0: it could be dropped)"
    formula = "1 - mean over tokens of cos(mid, mid + m), m = post - mid (parallel: pre, pre + m)"
    long_name = "MLP's turn of the state (1 − cosine)"
