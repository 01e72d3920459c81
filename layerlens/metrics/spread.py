"""Whether what a sublayer adds has one size, as a norm after it makes it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output
from layerlens.metrics.batch import GROUPS, accumulate
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import bootstrap
from layerlens.metrics.number_range import PERI_LN
from layerlens.metrics.registry import register
from layerlens.metrics.stream import READS

_SUMS = ("count", "sum", "square")


def variation(totals: Arrays) -> np.ndarray:
    """Standard deviation over the mean, from sums; NaN where the mean is zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = totals["sum"] / totals["count"]
        variance = totals["square"] / totals["count"] - mean**2
        return np.asarray(np.sqrt(variance.clip(min=0)) / mean)


class _Spread(LayerMetric):
    """How much the size of what a sublayer adds differs from token to token.

    The placement of norms is found by what they do, not by the names of modules: a norm after
    the sublayer, before its sum with the stream (Peri-LN), gives every token an increment of
    nearly one size (with a gain of one value: exactly), so that the variance of the stream grows
    by about as much in each layer. Tokens to which nothing is added do not count.
    """

    units = "1"
    axes = ("layer",)
    source = PERI_LN
    sublayer: ClassVar[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            chance = Output(cls.axes, cls.units, "spread of the norm of the state that it reads")
            what = {"attn": "attention", "mlp": "MLP"}[cls.sublayer]
            words = f"largest entry of what the {what} adds"
            largest = Output(cls.axes, "activation", words, interval=False)
            more = {f"{cls.name}_chance": chance, f"{cls.name}_largest": largest}
            cls.outputs = {**cls.outputs, **more}

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        for which in ("own", "chance"):
            for name in _SUMS:
                self.zeros(f"{which}_{name}", GROUPS, shape.n_layers)
        self.zeros("largest", shape.n_layers, fill=np.nan)

    def update(self, layer: Layer) -> None:
        """Add the sizes of one layer."""
        if not layer.has(*self.parts):
            return
        kept, cell = layer.batch.kept, (layer.number,)
        for which, part in (("own", self.sublayer), ("chance", READS[self.sublayer])):
            norm = layer.norm(part)
            found = {"count": (norm > 0).double(), "sum": norm, "square": norm.square()}
            for name, values in found.items():
                into = self.arrays[f"{which}_{name}"]
                accumulate(into, layer.batch.groups, cell, kept.by_text(values))
        added = layer.rows(self.sublayer, every=True)
        largest = self.arrays["largest"]
        largest[cell] = np.fmax(largest[cell], float(added.abs().max()))

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Keep the larger entry, add the rest."""
        return np.fmax(mine, theirs) if name == "largest" else super().combine(name, mine, theirs)

    def value(self, intervals: bool = True) -> Arrays:
        """The spreads and their intervals, and the largest entries."""
        found: Arrays = {f"{self.name}_largest": self.arrays["largest"].copy()}
        for which, name in (("own", self.name), ("chance", f"{self.name}_chance")):
            sums = {key: self.arrays[f"{which}_{key}"] for key in _SUMS}
            found[name] = variation({key: array.sum(0) for key, array in sums.items()})
            if intervals:
                found[f"{name}_low"], found[f"{name}_high"] = bootstrap(variation, sums)
        return found


@register
class AttnSpread(_Spread):
    """Spread of the norm of what the attention adds."""

    name, sublayer, parts = "attn_spread", "attn", ("attn", "pre")
    question = "Is what the attention adds held to one size by a norm after it? (0: it is)"
    formula = (
        "standard deviation over tokens of ||a|| over its mean, a = mid - pre; _chance: of ||pre||;"
        " _largest: max |a_tj|"
    )
    long_name = "spread of the norm of what the attention adds"


@register
class MlpSpread(_Spread):
    """Spread of the norm of what the MLP adds."""

    name, sublayer, parts = "mlp_spread", "mlp", ("mlp", "mid")
    question = "Is what the MLP adds held to one size by a norm after it? (0: it is)"
    formula = (
        "standard deviation over tokens of ||m|| over its mean, m = post - mid; _chance: of "
        "||mid|| (parallel blocks: ||pre||); _largest: max |m_tj|"
    )
    long_name = "spread of the norm of what the MLP adds"
