"""Massive activations: a few entries of the stream, thousands of times as large as all others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.batch import GROUPS, Batch, accumulate
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import Mean, bootstrap, ratio
from layerlens.metrics.registry import register

_PLACE = ("position", "token", "text")


@register
class MassiveActivations(Mean):
    """The largest entries of each layer's output: how large, which dimension, which token.

    All tokens are looked at, also those that other metrics skip, because the first one is where
    massive activations mostly are.

    Parameters
    ----------
    k
        How many of the largest.
    threshold, times_median
        An entry is massive when its magnitude is above ``threshold`` and at least
        ``times_median`` times the median magnitude of its text and layer.
    relative
        Leave the first condition out, for models whose states are small.
    """

    name = "massive_activations"
    question = "Which entries of the stream are huge: at which token, in which dimension?"
    formula = (
        "k largest |h_tj| of a layer's output, mean over texts; massive: |h_tj| > threshold and "
        ">= times_median * median |h|"
    )
    units = "activation"
    axes = ("layer", "k")
    source = (
        "Sun, Chen, Kolter and Liu (2024), Massive Activations in Large Language Models, "
        "arXiv 2402.17762"
    )
    parts = ("post",)
    outputs: ClassVar[Mapping[str, Output]] = {
        "massive_activations": Output(axes, units, "largest magnitudes of a text, by rank"),
        "massive_activations_median": Output(("layer",), units, "median magnitude of a text"),
        "massive_activations_count": Output(("layer",), "1", "massive entries of a text"),
        "massive_activations_value": Output(
            axes, units, "largest entry of all texts in a dimension", interval=False
        ),
        "massive_activations_dimension": Output(
            axes, "1", "its dimension", dtype="int32", interval=False
        ),
        "massive_activations_position": Output(
            axes, "1", "its position in the text", dtype="int32", interval=False
        ),
        "massive_activations_token": Output(
            axes, "1", "its token", dtype="int32", interval=False, is_token=True
        ),
        "massive_activations_text": Output(
            axes, "1", "number of its text", dtype="int32", interval=False
        ),
    }

    def __init__(
        self,
        shape: ModelShape,
        *,
        k: int = 3,
        threshold: float = 100.0,
        times_median: float = 1000.0,
        relative: bool = False,
    ) -> None:
        if not 1 <= k <= shape.d_model:
            raise InputError(f"k is {k}; expected 1 to {shape.d_model}, the width of the stream.")
        self._k = k
        rule: dict[str, Any] = {
            "threshold": threshold,
            "times_median": times_median,
            "relative": relative,
        }
        self._rule = rule
        super().__init__(shape, k=k, **rule)
        layers, width = shape.n_layers, shape.d_model
        self.zeros("median", GROUPS, layers)
        self.zeros("massive", GROUPS, layers)
        self.zeros("value", layers, width)
        for name in _PLACE:
            self.zeros(name, layers, width, dtype="int64", fill=-1)

    def sizes(self) -> dict[str, int]:
        """How many of the largest."""
        return {"k": self._k}

    def coords(self) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
        """Ranks from 0."""
        return {"k": (("k",), np.arange(self._k, dtype=np.int32))}

    def update(self, layer: Layer) -> None:
        """Look at every entry of this layer's output."""
        if not layer.has(*self.parts):
            return
        top, median, massive = [], [], []
        for _, state in layer.texts("post"):
            size = state.abs()
            largest = size.flatten().topk(min(self._k, size.numel())).values
            middle = _median(size)
            massive.append(is_massive(size, middle, **self._rule).sum())
            top.append(largest)
            median.append(middle)
        ones = torch.ones(len(layer.batch))
        self.add_texts((layer.number,), torch.stack(top), ones[:, None], layer.batch)
        cell = (layer.number,)
        accumulate(self.arrays["median"], layer.batch.groups, cell, torch.stack(median))
        accumulate(self.arrays["massive"], layer.batch.groups, cell, torch.stack(massive))
        self._place(layer.number, layer.rows("post", every=True), layer.batch)

    def _place(self, number: int, states: Tensor, batch: Batch) -> None:
        """Keep, for each dimension, the entry of the largest magnitude and where it was."""
        _, row = states.abs().max(0)
        value = states.gather(0, row[None])[0].cpu().double().numpy()
        row = row.cpu()
        here: Arrays = {
            "value": value,
            "position": batch.every.position[row].numpy(),
            "token": batch.every.ids[row].numpy(),
            "text": batch.numbers[batch.every.text[row].numpy()],
        }
        mine = {name: self.arrays[name][number] for name in here}
        for name, array in _larger(mine, here).items():
            self.arrays[name][number] = array

    def merge(self, other: MassiveActivations) -> None:
        """Add the sums; keep the larger entry of each dimension."""
        names = ("value", *_PLACE)
        largest = _larger(
            {name: self.arrays[name] for name in names},
            {name: other.arrays[name] for name in names},
        )
        super().merge(other)
        self.arrays |= largest

    def value(self, intervals: bool = True) -> Arrays:
        """Means over texts, and the largest entries of all of them."""
        count = self.arrays["count"]
        sums = {
            self.name: {"sum": self.arrays["sum"], "count": count},
            f"{self.name}_median": {"sum": self.arrays["median"], "count": count[..., 0]},
            f"{self.name}_count": {"sum": self.arrays["massive"], "count": count[..., 0]},
        }
        found: Arrays = {}
        for name, parts in sums.items():
            found[name] = ratio({key: array.sum(0) for key, array in parts.items()})
            if intervals:
                found[f"{name}_low"], found[f"{name}_high"] = bootstrap(ratio, parts)
        best = np.argsort(-np.abs(self.arrays["value"]), axis=1, kind="stable")[:, : self._k]
        for name in ("value", *_PLACE):
            found[f"{self.name}_{name}"] = np.take_along_axis(self.arrays[name], best, 1)
        seen = self.arrays["text"].max(1, keepdims=True) >= 0
        found[f"{self.name}_value"] = np.where(seen, found[f"{self.name}_value"], np.nan)
        found[f"{self.name}_dimension"] = np.where(seen, best, -1)
        return found


def massive_entries(
    states: Tensor, *, threshold: float, times_median: float, relative: bool
) -> Tensor:
    """Which entries of one text's states after one layer are massive: bool, of their shape.

    Parameters
    ----------
    states
        ``[position, d_model]``, without padding.
    threshold, times_median, relative
        As in `MassiveActivations`.
    """
    size = states.abs().to(torch.promote_types(torch.float32, states.dtype))
    return is_massive(
        size, _median(size), threshold=threshold, times_median=times_median, relative=relative
    )


def is_massive(
    size: Tensor, median: Tensor, *, threshold: float, times_median: float, relative: bool
) -> Tensor:
    """Which magnitudes are massive, beside the median of all of them."""
    return (size >= median * times_median) & (size > (0.0 if relative else threshold))


def _median(values: Tensor) -> Tensor:
    """The lower median of all values, as ``Tensor.median`` gives it."""
    if values.device.type != "cpu":
        return values.median()
    middle = (values.numel() - 1) // 2  # selecting in NumPy takes an eighth of the time
    return torch.as_tensor(np.partition(values.flatten().numpy(), middle)[middle])


def _larger(mine: Arrays, theirs: Arrays) -> Arrays:
    """Entry by entry the one of larger magnitude; of equals the one of the earlier text."""
    size, other = np.abs(mine["value"]), np.abs(theirs["value"])
    earlier = theirs["text"] < mine["text"]
    seen = (theirs["text"] >= 0) & ((mine["text"] < 0) | (other > size))
    take = seen | ((theirs["text"] >= 0) & (other == size) & earlier)
    return {name: np.where(take, theirs[name], mine[name]) for name in mine}
