"""How large the numbers of the stream become, and whether narrow formats could hold them."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.metrics.base import Arrays, LayerMetric, ModelShape, Output
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register

PERI_LN = (
    "Kim et al. (2025), Peri-LN: Revisiting Normalization Layer in the Transformer Architecture, "
    "arXiv 2502.02732"
)

FORMATS = {"float16": 65504.0, "float8_e4m3fn": 448.0, "float8_e4m3fnuz": 240.0}
"""Largest finite number of a format; the two of 8 bits differ in what they keep for NaN."""


@register
class NumberRange(LayerMetric):
    """The largest entry of the stream, and how many entries narrow formats could not hold.

    All tokens are looked at, also those that other metrics skip: the first one is where the
    largest entries mostly are, and one that overflows is enough to break a run.
    """

    name = "number_range"
    question = "Do the numbers of the stream outgrow float16, or the formats of 8 bits?"
    formula = (
        "max |h_tj| over tokens and entries, for the states before, between and after the blocks; "
        "_float16, _float8_e4m3fn, _float8_e4m3fnuz: share of entries above the format's largest; "
        "_chance: sigma z, sigma^2 the mean of h_tj^2, z normal quantile at 1 - 1/(2n), n entries"
    )
    units = "activation"
    axes = ("point",)
    parts = ("pre", "post")
    source = PERI_LN
    outputs: ClassVar[Mapping[str, Output]] = {
        "number_range": Output(axes, units, "largest entry of the stream", interval=False),
        "number_range_chance": Output(
            axes, units, "largest of as many normal numbers of that variance", interval=False
        ),
        **{
            f"number_range_{name}": Output(
                ("point",), "1", f"share of entries above {most:g} ({name})", interval=False
            )
            for name, most in FORMATS.items()
        },
    }

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        points = shape.n_layers + 1
        self.zeros("largest", points, fill=np.nan)
        self.zeros("square", points)
        self.zeros("entries", points, dtype="int64")
        self.zeros("above", len(FORMATS), points, dtype="int64")

    def update(self, layer: Layer) -> None:
        """Look at the state after a layer, and before the first one at the state there too."""
        if layer.number == 0:
            self._see(0, layer.rows("pre", every=True))
        self._see(layer.number + 1, layer.rows("post", every=True))

    def _see(self, point: int, state: Tensor) -> None:
        size = state.abs()
        largest = float(size.max())
        self.arrays["largest"][point] = np.fmax(self.arrays["largest"][point], largest)
        squares = torch.linalg.vecdot(state, state)
        self.arrays["square"][point] += float(squares.to("cpu", torch.float64).sum())
        self.arrays["entries"][point] += state.numel()
        for row, most in enumerate(FORMATS.values()):
            if largest > most:
                self.arrays["above"][row, point] += int((size > most).sum())

    def combine(self, name: str, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Keep the larger entry, add the rest."""
        return np.fmax(mine, theirs) if name == "largest" else super().combine(name, mine, theirs)

    def value(self, intervals: bool = True) -> Arrays:
        """The largest entries, what chance would give, and the shares."""
        entries = self.arrays["entries"]
        quantile = NormalDist().inv_cdf
        z = np.array([quantile(1 - 0.5 / n) if n else np.nan for n in entries.tolist()])
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma = np.sqrt(self.arrays["square"] / entries)
            shares = self.arrays["above"] / entries
        return {
            self.name: self.arrays["largest"].copy(),
            f"{self.name}_chance": sigma * z,
            **{f"{self.name}_{name}": shares[row] for row, name in enumerate(FORMATS)},
        }
