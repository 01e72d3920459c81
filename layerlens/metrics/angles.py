"""Angles between the states of one token at different depths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import Mean, bootstrap, ratio
from layerlens.metrics.registry import register

MOST_NUMBERS = 8_000_000
"""Numbers of float64 states held at once, at most, while their products are taken."""


@register
class AngularDistance(Mean):
    """Angular distance of each state to those ``n`` blocks further on.

    Parameters
    ----------
    token
        ``"all"`` tokens that count, or only the ``"last"`` one of each text, as in the paper.
    """

    name = "angular_distance"
    question = "Which runs of layers are nearly interchangeable?"
    formula = "arccos(cos(h_l, h_m)) / pi, mean over tokens, for each two states h_l and h_m"
    units = "1"
    axes = ("point", "point_other")
    source = (
        "Gromov et al. (2024), The Unreasonable Ineffectiveness of the Deeper Layers, "
        "arXiv 2403.17887"
    )
    parts = ("pre", "post")
    outputs: ClassVar[Mapping[str, Output]] = {
        "angular_distance": Output(axes, "1", "angular distance of two states"),
        "angular_distance_next": Output(("layer",), "1", "angular distance across the block"),
        "angular_distance_mean": Output(
            ("blocks_apart",), "1", "angular distance of states so many blocks apart"
        ),
    }

    def __init__(self, shape: ModelShape, *, token: Literal["all", "last"] = "all") -> None:
        if token not in ("all", "last"):
            raise InputError(f"token is 'all' or 'last', not {token!r}.")
        super().__init__(shape, token=token)
        self._states: list[Tensor] = []

    def sizes(self) -> dict[str, int]:
        """Distances from 0 to the number of blocks."""
        return {"blocks_apart": self.shape.n_layers + 1}

    def start(self, batch: Batch) -> None:
        """Forget the states of a pass that was stopped."""
        self._states = []

    def update(self, layer: Layer) -> None:
        """Keep the states of this pass."""
        if layer.number == 0:
            self._states.append(self._chosen(layer.rows("pre"), layer.batch))
        self._states.append(self._chosen(layer.rows("post"), layer.batch))

    def _chosen(self, states: Tensor, batch: Batch) -> Tensor:
        if self.options["token"] == "all":
            return states
        ends = [span.stop - 1 for _, span in batch.kept.rows()]
        return states[torch.tensor(ends, dtype=torch.int64, device=states.device)]

    def end(self, batch: Batch) -> None:
        """Take the angle of every two states of each token."""
        states, self._states = self._states, []
        device = states[0].device
        points, n, width = len(states), *states[0].shape
        step = max(1, MOST_NUMBERS // (points * width))
        found = torch.empty(n, points, points, dtype=torch.float64)
        for start in range(0, n, step):
            part = [state[start : start + step].to(device) for state in states]
            found[start : start + step] = angles(torch.stack(part, 1)).cpu()
        texts = batch.kept.text
        if self.options["token"] == "last":
            texts = torch.tensor([row for row, _ in batch.kept.rows()], dtype=torch.int64)
        sums = torch.zeros(len(batch), points, points, dtype=torch.float64)
        sums.index_add_(0, texts, found)
        counts = torch.bincount(texts, minlength=len(batch)).view(-1, 1, 1).expand_as(sums)
        self.add_texts((slice(None), slice(None)), sums, counts, batch)

    def value(self, intervals: bool = True) -> Arrays:
        """The distances of all states, of neighbours, and their means by blocks apart."""
        sums = {key: self.arrays[key] for key in ("sum", "count")}
        points = self.shape.n_layers + 1
        by_n = {
            key: np.stack([np.diagonal(a, n, 1, 2).sum(-1) for n in range(points)], axis=-1)
            for key, a in sums.items()
        }
        found = {self.name: sums, f"{self.name}_next": self._next(sums), f"{self.name}_mean": by_n}
        given: Arrays = {}
        for name, parts in found.items():
            given[name] = ratio({key: array.sum(0) for key, array in parts.items()})
            if intervals:
                given[f"{name}_low"], given[f"{name}_high"] = bootstrap(ratio, parts)
        return given

    @staticmethod
    def _next(sums: Arrays) -> Arrays:
        return {key: np.diagonal(array, 1, 1, 2) for key, array in sums.items()}


def angles(states: Tensor) -> Tensor:
    """Angular distances [n, point, point] float64, 0 to 1, of states [n, point, d_model].

    Products are taken in float64, because the arc cosine turns an error of 1e-8 near 1 into one
    of 1e-4. The angle with a state that is zero counts as a right one (0.5).
    """
    on = states if states.device.type != "mps" else states.cpu()  # which has no float64
    states = on.double()
    products = states @ states.mT
    length = products.diagonal(0, -2, -1).sqrt()
    cosine = products / (length.unsqueeze(-1) * length.unsqueeze(-2))
    cosine = cosine.nan_to_num(0.0).clamp(-1, 1)
    distance: Tensor = cosine.arccos() / torch.pi
    same = torch.arange(states.shape[1])
    distance[:, same, same] = 0
    return distance
