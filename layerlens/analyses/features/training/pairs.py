"""Transcoders while they are learned: sparse maps from what MLPs read to what they write.

What is read is brought to the norm ``sqrt(d)``, token by token, as an RMS norm does it, and then
standardised entry by entry with what the first activations say. The latter is folded into the
encoder at the end: its factors are powers of two, so that nothing is rounded on the way and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.dictionary import Dictionary, Form, normalised
from layerlens.analyses.features.training.judge import COMPONENT_ROWS, ROWS, Judge
from layerlens.analyses.features.training.learner import (
    SMALL,
    STATE,
    Learner,
    Recipe,
    drawn_rows,
    scale_of,
)
from layerlens.analyses.features.training.objective import CHOOSING, Batch, Loss

NORMALISE = "constant_norm_rescale"
RIDGE = 1e-6
"""Of the linear maps that stand beside transcoders, as a share of the mean variance read."""
_SHIFTED = ("b_enc", "b_gate", "b_mag")
"""Biases that take up the mean of what is read."""


def linear_map(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix ``[d, o]`` that gives ``y`` from ``x`` by least squares, and ``x.T @ x``.

    Both are centred first; products are summed in float64, a few rows at a time.
    """
    means = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
    square = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    product = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for read, wrote in zip(x.split(ROWS), y.split(ROWS), strict=True):
        centred = read - means[0]
        square.addmm_(centred.T, centred)
        product.addmm_(centred.T, wrote - means[1])
    held = RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype)
    return torch.linalg.solve(square + held, product), square


class PairLearner(Learner):
    """The transcoder of one layer.

    Parameters
    ----------
    recipe
        How.
    x, y
        ``[n, d]`` and ``[n, o]``: the first that are read and written. Features begin with random
        directions of what is read, and write what the best linear map makes of these.
    skip
        Whether an affine path leads from what is read to what is written beside the features; it
        begins as that map.
    later
        ``[n, layer, o]``: what is written in later layers, in the units of their own learners,
        where features write there, too.
    writers
        How many layers write into each that this one writes into: they share it at the start.
    """

    def __init__(
        self,
        recipe: Recipe,
        x: Tensor,
        y: Tensor,
        *,
        skip: bool,
        later: Tensor | None = None,
        writers: Sequence[int] = (1,),
    ) -> None:
        self.recipe = recipe
        x, y = x[:COMPONENT_ROWS], y[:COMPONENT_ROWS]
        self.scale = scale_of(y - y.mean(0))
        x = normalised(x, recipe.normalise)[0]
        self.shift = x.mean(0)
        deviation = x.std(0)
        self.spread = torch.where(deviation > 0, 2.0 ** deviation.log2().round(), 1.0)
        inside = (x - self.shift) / self.spread
        wanted = y * self.scale
        if later is not None:
            wanted = torch.cat([wanted, later[: len(y)].flatten(1)], 1)
        best = linear_map(inside, wanted)[0].float()
        rows = drawn_rows(recipe, x.shape[1])
        shared = torch.tensor(writers).repeat_interleave(y.shape[1])
        written = torch.nn.functional.normalize(rows @ (best / shared), dim=-1)
        if recipe.kind not in CHOOSING:
            rows, written = rows * SMALL, written * SMALL
        given = {"encoder": rows, "decoder": written}
        given |= {"skip": best[:, : y.shape[1]].T.contiguous()} if skip else {}
        self._begin(given, (y * self.scale).mean(0))

    def batch(self, x: Tensor, given: Mapping[str, Tensor]) -> Batch:
        """Rows ``[n, 2, d]``: what is read, and what is written."""
        del given
        read = normalised(x[:, 0], self.recipe.normalise)[0]
        read = (read - self.shift) / self.spread
        return Batch(read, x[:, 1] * self.scale, torch.zeros(read.shape[1]))

    def form(self) -> Form:
        """What the learned transcoder computes."""
        return replace(super().form(), centred_input=False, only_in=True)

    def arrays(self) -> dict[str, Tensor]:
        """The transcoder in the units of the model, as :class:`Dictionary` takes it."""
        found = super().arrays()
        encoder = self.given["encoder"]
        found["W_enc"] = (encoder / (self.spread * self.scale)).T.contiguous()
        taken = encoder @ (self.shift / self.spread)
        for name in _SHIFTED:
            if name in found:
                part = taken * self.given["r_mag"].exp() if name == "b_mag" else taken
                found[name] = (self.given[name] - part) / self.scale
        if "skip" in self.given:
            skip = self.given["skip"] / self.spread
            found["W_skip"] = skip / self.scale
            found["b_dec"] = found["b_dec"] - skip @ self.shift / self.scale
        return found

    def state(self) -> dict[str, Tensor]:
        """What else is needed to go on from here exactly."""
        more = {STATE + "shift": self.shift, STATE + "spread": self.spread}
        return super().state() | more

    def take(self, begun: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`arrays` and :meth:`state` gave."""
        super().take(begun)
        self.shift, self.spread = (begun[STATE + name].clone() for name in ("shift", "spread"))
        self.given["encoder"] = self.given["encoder"] * (self.spread * self.scale)


class Pairs:
    """The transcoders of several layers, which learn from the same tokens.

    Parameters
    ----------
    first
        ``[n, 2 layers, d]``: what each layer reads and writes, in turn.
    """

    def __init__(self, recipe: Recipe, first: Tensor, *, skip: bool) -> None:
        self.each = [
            PairLearner(replace(recipe, seed=recipe.seed + layer), *x.unbind(1), skip=skip)
            for layer, x in enumerate(first.split(2, 1))
        ]

    @property
    def seen(self) -> int:
        """Tokens that were learned from."""
        return self.each[0].seen

    @property
    def dead(self) -> Tensor:
        """Features of any layer that were off for ``dead_after`` tokens."""
        return torch.cat([one.dead for one in self.each])

    def step(self, x: Tensor) -> Loss:
        """Learn from a batch ``[n, 2 layers, d]``; the mean of the layers is told."""
        parts = zip(self.each, x.split(2, 1), strict=True)
        return mean_of([one.step(part) for one, part in parts])

    def look(self, x: Tensor) -> Loss:
        """The loss of activations that are not learned from."""
        parts = zip(self.each, x.split(2, 1), strict=True)
        return mean_of([one.look(part) for one, part in parts])

    def form(self) -> Form:
        """What each of them computes."""
        return self.each[0].form()

    def dictionaries(self) -> list[Dictionary]:
        """That of each layer."""
        return [one.dictionaries()[0] for one in self.each]

    def arrays(self) -> dict[str, Tensor]:
        """Those of each layer, with the layer as their first axis where there are several."""
        return stacked([one.arrays() for one in self.each])

    def state(self) -> dict[str, Tensor]:
        """What else is needed to go on from here exactly."""
        return stacked([one.state() for one in self.each])

    def take(self, begun: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`arrays` and :meth:`state` gave."""
        if len(self.each) == 1:
            self.each[0].take(begun)
            return
        mine = set(self.arrays()) | set(self.state())
        for layer, one in enumerate(self.each):
            one.take({name: begun[name][layer] for name in mine})


def stacked(found: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Arrays of several layers, with the layer as their first axis; of one as they are."""
    if len(found) == 1:
        return dict(found[0])
    return {name: torch.stack([one[name] for one in found]) for name in found[0]}


def mean_of(losses: Sequence[Loss]) -> Loss:
    """The mean of what is told of each layer; what was minimised is in the past."""
    error, l0 = (float(np.mean([getattr(one, name) for one in losses])) for name in ("error", "l0"))
    return Loss(torch.stack([one.total for one in losses]).sum(), error, losses[0].on, l0)


class PairJudge(Judge):
    """What layers read and write, set apart; beside it linear maps of low rank.

    A map of rank ``k`` hands on ``k`` numbers of a token, as many as a transcoder with ``k``
    features on; the best of that rank is found by least squares (reduced-rank regression: Izenman,
    1975, Reduced-rank regression for the multivariate linear model).

    Parameters
    ----------
    x
        ``[n, 2 layers, d]``.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__(x[:, 0::2], x[:, 1::2])

    def first(self) -> Tensor:
        """The first activations, as they are learned from."""
        pairs = torch.stack([self.x[:ROWS], self.y[:ROWS]], 2)
        return pairs.flatten(1, 2)

    def unexplained(self, dictionaries: Sequence[Dictionary]) -> float:
        """Share of the variance of the first activations that saved ones leave over, mean."""
        left = []
        for layer, dictionary in enumerate(dictionaries):
            y = self.y[:ROWS, layer]
            found = dictionary.reconstruct(self.x[:ROWS, layer])[0]
            left.append(float((y - found).square().sum() / (y - y.mean(0)).square().sum()))
        return float(np.mean(left))

    def see(self, x: Tensor) -> None:
        """Find the linear maps from the first ``[n, 2 layers, d]`` that are seen."""
        if self.shares is None:
            parts = x[:COMPONENT_ROWS].split(2, 1)
            shares = [self._shares(layer, *part.unbind(1)) for layer, part in enumerate(parts)]
            self.shares = torch.stack(shares).numpy()

    def _shares(self, layer: int, x: Tensor, y: Tensor) -> Tensor:
        """``[rank]``: variance that maps of each rank explain of a layer."""
        x = normalised(x, NORMALISE)[0]
        means = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
        best, square = linear_map(x, y)
        _, vectors = torch.linalg.eigh(best.T @ square @ best)
        vectors = vectors.flip(1)
        wanted = self.y[:, layer].double() - means[1]
        read = normalised(self.x[:, layer], NORMALISE)[0].double() - means[0]
        along, found = wanted @ vectors, read @ best @ vectors
        taken = (2 * along * found - found.square()).sum(0).cumsum(0)
        explained: Tensor = 1 - (wanted.square().sum() - taken) / self._spread[layer]
        return explained

    def components(self, l0: float) -> float:
        """Variance that maps of as high a rank explain as features are on, mean over layers."""
        return float(self.by_layer(l0).mean())

    def controls(self, l0: float, layers: Sequence[int]) -> dict[str, float]:
        """The same, and that of each layer, by name."""
        each = zip(layers, self.by_layer(l0).tolist(), strict=True)
        return super().controls(l0, layers) | {f"control/{layer}": one for layer, one in each}

    def by_layer(self, l0: float) -> np.ndarray:
        """Variance that a linear map explains of each layer."""
        if self.shares is None:
            raise RuntimeError("see() comes before by_layer()")
        number = min(round(l0), self.shares.shape[1])
        found: np.ndarray = self.shares[:, number - 1] if number else np.zeros(len(self.shares))
        return found
