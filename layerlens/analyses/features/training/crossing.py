"""Cross-layer transcoders while they are learned: features that write into all layers from theirs.

Source: Ameisen et al. (2025), Circuit Tracing: Revealing Computational Graphs in Language Models
("cross-layer transcoders": one encoder a layer, decoders to it and every later one, errors of all
layers summed, and features paying by the norm of their decoders side by side). Ours are what is
shared with transcoders of one layer: how what is read is normalised, where rows begin, and one
price for all layers, steered so that ``k`` features of a layer are on in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from layerlens.analyses.features.dictionaries.crossing import LATER, later_of
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.analyses.features.dictionaries.together import reconstruct_all
from layerlens.analyses.features.training.judge import COMPONENT_ROWS, ROWS, Measured
from layerlens.analyses.features.training.learner import STATE, Recipe, scale_of
from layerlens.analyses.features.training.objective import Loss, losses_of
from layerlens.analyses.features.training.pairs import (
    PairJudge,
    PairLearner,
    Pairs,
    mean_of,
    stacked,
)
from layerlens.analyses.features.training.price import Price

WIDE = ("mean.decoder", "square.decoder")
"""Of the state what is as wide as all layers that are written into."""


class Crossing(Pairs):
    """Transcoders of several layers, which explain together what is written in each.

    The decoder of a layer holds what its features write into it and each later one, side by side.

    Parameters
    ----------
    first
        ``[n, 2 layers, d]``: what each layer reads and writes, in turn.
    """

    def __init__(self, recipe: Recipe, first: Tensor, *, skip: bool) -> None:
        pairs = [pair.unbind(1) for pair in first[:COMPONENT_ROWS].split(2, 1)]
        wrote = torch.stack([y * scale_of(y - y.mean(0)) for _, y in pairs], 1)
        self.each = [
            PairLearner(
                replace(recipe, seed=recipe.seed + layer), x, y, skip=skip,
                later=wrote[:, layer + 1 :], writers=range(layer + 1, len(pairs) + 1),
            )
            for layer, (x, y) in enumerate(pairs)
        ]  # fmt: skip
        self.price = Price(recipe.kind, recipe.k)

    def step(self, x: Tensor) -> Loss:
        """Learn from a batch ``[n, 2 layers, d]``; the mean of the layers is told."""
        recipe = self.each[0].recipe
        given = [one.leaves() for one in self.each]
        losses = self._losses(x, given, self.price.now, [one.dead for one in self.each])
        wanted = [leaf for leaves in given for leaf in leaves.values()]
        total = torch.stack([loss.total for loss in losses]).sum()
        found = list(torch.autograd.grad(total, wanted))
        told = mean_of(losses)
        self.price.steer(told.l0, len(x) / recipe.total, self.seen / recipe.total)
        for one, leaves, loss in zip(self.each, given, losses, strict=True):
            slopes = {name: found.pop(0) for name in leaves}
            one.descend(slopes, loss, len(x))
        return told

    def look(self, x: Tensor) -> Loss:
        """The loss of activations that are not learned from."""
        asleep = [torch.zeros_like(one.dead) for one in self.each]
        with torch.no_grad():
            return mean_of(self._losses(x, [one.given for one in self.each], 0.0, asleep))

    def _losses(
        self,
        x: Tensor,
        given: Sequence[Mapping[str, Tensor]],
        price: float,
        dead: Sequence[Tensor],
    ) -> list[Loss]:
        recipe, parts = self.each[0].recipe, x.split(2, 1)
        batches = [one.batch(part, own)
                   for one, part, own in zip(self.each, parts, given, strict=True)]  # fmt: skip
        return losses_of(recipe.kind, given, batches, k=recipe.k, price=price, dead=dead,
                         aux=self.each[0].aux)  # fmt: skip

    def dictionaries(self) -> list[Dictionary]:
        """That of each layer, with what it writes into later ones."""
        found = [self._arrays(place) for place in range(len(self.each))]
        return [Dictionary(self.form(), arrays) for arrays in found]

    def _arrays(self, place: int) -> dict[str, Tensor]:
        """Those of a layer, in the units of the model."""
        one, width = self.each[place], len(self.each[place].given["b_dec"])
        found = one.arrays()
        rows = found["W_dec"].unflatten(1, (-1, width)).transpose(0, 1)
        own, *later = (part * factor for part, factor in zip(rows, self._units(place), strict=True))
        return found | {"W_dec": own, LATER: torch.stack(later) if later else rows[1:]}

    def _units(self, place: int) -> list[float]:
        """What rows are multiplied by to write in the units of each layer from one on.

        All are powers of two, so that nothing is rounded on the way and back.
        """
        return [self.each[place].scale / one.scale for one in self.each[place:]]

    def arrays(self) -> dict[str, Tensor]:
        """Those of each layer, with the layer as their first axis; of ``W_dec_later`` pairs."""
        found = [self._arrays(place) for place in range(len(self.each))]
        later = torch.cat([one.pop(LATER) for one in found])
        return stacked(found) | {LATER: later}

    def state(self) -> dict[str, Tensor]:
        """What else is needed to go on from here exactly."""
        found = [one.state() for one in self.each]
        wide = {STATE + name: [one.pop(STATE + name) for one in found] for name in WIDE}
        price = torch.tensor(self.price.state(), dtype=torch.float64)
        return (
            stacked(found)
            | {name: torch.cat(parts, 1) for name, parts in wide.items()}
            | {STATE + "one_price": price}
        )

    def take(self, begun: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`arrays` and :meth:`state` gave."""
        self.price.take(begun[STATE + "one_price"].tolist())
        number = len(self.each)
        alone = set(self.each[0].state()) | set(self.each[0].arrays())
        sizes = [one.given["decoder"].shape[1] for one in self.each]
        wide = {STATE + name: begun[STATE + name].split(sizes, 1) for name in WIDE}
        scales = begun[STATE + "scale"].tolist()
        for place, one in enumerate(self.each):
            held = {name: begun[name][place] for name in alone - set(wide)}
            held |= {name: parts[place].contiguous() for name, parts in wide.items()}
            rows = torch.cat([begun["W_dec"][place, None], begun[LATER][later_of(place, number)]])
            units = [scales[place] / scale for scale in scales[place:]]
            parts = [part / unit for part, unit in zip(rows, units, strict=True)]
            one.take(held | {"W_dec": torch.cat(parts, 1)})


class CrossJudge(PairJudge):
    """What layers read and write, set apart; features of all layers up to one explain it."""

    def measure(self, dictionaries: Sequence[Dictionary]) -> Measured:
        """Measure what the dictionaries of all layers explain together."""
        left = torch.zeros(self.x.shape[1], dtype=torch.float64)
        on = torch.zeros(len(dictionaries), dictionaries[0].features, dtype=torch.int64)
        for read, wanted in zip(self.x.split(ROWS), self.y.split(ROWS), strict=True):
            y, features = reconstruct_all(dictionaries, read)
            left += (wanted - y).square().sum((0, 2))
            on += torch.stack([(one > 0).sum(0) for one in features])
        explained = (1 - left / self._spread).numpy()
        l0 = float(on.sum()) / (len(self.x) * len(dictionaries))
        return Measured(explained, l0, on.double() / len(self.x))

    def unexplained(self, dictionaries: Sequence[Dictionary]) -> float:
        """Share of the variance of the first activations that saved ones leave over, mean."""
        y = self.y[:ROWS]
        found, _ = reconstruct_all(dictionaries, self.x[:ROWS])
        spread = (y - y.mean(0)).square().sum((0, 2))
        return float(((y - found).square().sum((0, 2)) / spread).mean())
