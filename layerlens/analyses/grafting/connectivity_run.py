"""The work of ``mode_connectivity``: the loss with weights between those of two models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.answers.prediction_change import Outputs
from layerlens.analyses.grafting.connectivity_variables import ALIGNED, VARIABLES
from layerlens.analyses.grafting.symmetries import Units, held, require_symmetric, units_of
from layerlens.analyses.grafting.weight_matching import Matched, match
from layerlens.analyses.sweeps.clean_pass import Pass, TokenMeans, passes, tolerance
from layerlens.metrics.batch import split
from layerlens.run.between import ATTENTION, ENDS, KINDS, MLP, NORMS, Pair, between, length
from layerlens.run.pointed import places_and_sums

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

PARTS = {
    "all": ("all weights", KINDS),
    "attention": ("attention", (ATTENTION,)),
    "mlp": ("MLPs", (MLP,)),
    "norms": ("norms", (NORMS,)),
    "ends": ("embedding and head", (ENDS,)),
}
"""What is mixed in all layers at once: name to words and kinds of weights."""
WAYS = {
    "own": "in this model",
    "other": "in the other",
    "cumulative": "with all before it",
    "random": "in a random direction",
}
"""How one layer is mixed."""


class ConnectivityRun:
    """The work of one call.

    Parameters
    ----------
    shares
        Of the other's weights, from 0 to 1.
    seed
        Of the random directions, and of a matching.
    align
        Kinds of units of the other that are put in the order of this model's.
    """

    def __init__(
        self,
        job: Job,
        model: LensModel,
        other: LensModel,
        tokens: Tokens,
        layers: list[int],
        shares: np.ndarray,
        seed: int,
        align: tuple[str, ...] = (),
    ) -> None:
        self.align = align
        self.job, self.model, self.other, self.tokens = job, model, other, tokens
        self.layers, self.shares, self.seed = layers, shares, seed
        whole = [*PARTS, "random", *(["unaligned"] if align else [])]
        self.parts = {name: TokenMeans(len(shares)) for name in whole}
        self.ways = {name: TokenMeans(len(layers), len(shares)) for name in WAYS}
        self.losses = TokenMeans(2)
        self.blocks = 0
        self.off = 0.0

    def run(
        self, pairs: list[Pair], skip_first: bool | int, batch_size: int | None, verify: int
    ) -> None:
        """Every part and every layer at every point of the way, for each batch."""
        self.pairs = pairs
        # The other's numbers as they are, whatever order it is held in.
        self.unaligned = [pair.as_it_is() for pair in pairs] if self.align else []
        self.of_layer = {
            layer: [pair for pair in pairs if pair.layer == layer]
            for layer in range(self.model.n_layers)
        }
        self._declare()
        before = places_and_sums(self.model), places_and_sums(self.other)
        with self._aligned(), self.other.running():  # it is run block by block, too
            both = [
                passes(model, self.tokens, skip_first, batch_size, self.job.tick)
                for model in (self.model, self.other)
            ]
            total = len(split(self.tokens, batch_size)) * len(self.shares)
            done = 0
            for mine, theirs in zip(*both, strict=True):
                self.blocks += 2 * self.model.n_layers
                self.losses.add((0,), self._own_loss(mine, mine.states[-1]), mine.batch)
                self.losses.add((1,), self._other_loss(theirs, theirs.states[-1]), mine.batch)
                verified = verify if mine.batch.numbers[0] == 0 else 0
                for column, share in enumerate(self.shares.tolist()):
                    self._whole(mine, column, share)
                    self._layers(mine, theirs, column, share)
                    if column == len(self.shares) // 2:
                        self._verify(mine, share, verified)
                    self._emit(column)
                    done += 1
                    self.job.progress(done, total, f"{share:.0%} of the way")
        self._finish(before, verify)

    def _declare(self) -> None:
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            "layer": (("layer",), np.array(self.layers, dtype=np.int32)),
            "share": (("share",), self.shares),
            "mixed": (("mixed",), np.array(list(WAYS.values()))),
            "part": (("part",), np.array([words for words, _ in PARTS.values()])),
        }
        if self.align:
            coords["units"] = (("units",), np.array(self.align))
        only = [name for name in VARIABLES if self.align or name not in ALIGNED]
        sizes = {axis: len(values) for axis, (_, values) in coords.items()}
        self.job.declare(sizes, coords, only)

    @contextmanager
    def _aligned(self) -> Iterator[None]:
        """Hold the other's units in the order in which they are most like this model's."""
        if not self.align:
            yield
            return
        units = units_of(self.other, self.align)
        for one in (self.model, self.other):
            require_symmetric(one, units, self.seed)
        matched = match(self.model, self.other, units, self.seed, self.job.tick)
        with held(self.other, matched.numbers):
            self._emit_matched(units, matched)
            yield

    def _emit_matched(self, units: list[Units], matched: Matched) -> None:
        """How many units have moved, and how much nearer the layers have come."""
        moved = np.full((len(self.layers), len(self.align)), np.nan)
        for place, layer in enumerate(self.layers):
            for column, kind in enumerate(self.align):
                shares = [
                    float((order != torch.arange(one.count)).double().mean())
                    for one, order in zip(units, matched.orders, strict=True)
                    if one.kind == kind and one.layer in (layer, None)
                ]
                moved[place, column] = np.mean(shares) if shares else np.nan
        lengths = {
            name: np.array([length(p for p in pairs if p.layer == n) for n in self.layers])
            for name, pairs in (("length", self.pairs), ("length_baseline", self.unaligned))
        }
        self.job.emit({}, {"moved": moved, **lengths})
        self.job.note(rounds=matched.rounds)

    def _own_loss(self, one: Pass, state: Tensor) -> Tensor:
        """Loss of each token that counts, by this model's head as it is now."""
        return Outputs(self.model, one.batch, one.taken(state)).loss

    def _other_loss(self, one: Pass, state: Tensor) -> Tensor:
        """The same by the other model's head."""
        return Outputs(self.other, one.batch, one.taken(state)).loss

    def _whole(self, mine: Pass, column: int, share: float) -> None:
        """Weights of one kind in all layers, by passes of the whole model."""
        for name in self.parts:
            kinds = PARTS[name][1] if name in PARTS else KINDS
            pairs = self.unaligned if name == "unaligned" else self.pairs
            chosen = [pair for pair in pairs if pair.kind in kinds]
            with between(chosen, share, self.seed if name == "random" else None):
                loss = self._own_loss(mine, mine.without())
            self.blocks += self.model.n_layers
            self.parts[name].add((column,), loss, mine.batch)
            self.job.tick()

    def _layers(self, mine: Pass, theirs: Pass, column: int, share: float) -> None:
        """One layer after the other, in every way."""
        mixed = dict(self._cumulative(mine, share))
        for place, layer in enumerate(self.layers):
            own, turned = self.of_layer[layer], [pair.turned for pair in self.of_layer[layer]]
            later = range(layer, self.model.n_layers)
            with between(own, share):
                found = {"own": self._own_loss(mine, mine.run(mine.states[layer], later))}
            with between(own, share, self.seed):
                found["random"] = self._own_loss(mine, mine.run(mine.states[layer], later))
            with between(turned, 1 - share):
                found["other"] = self._other_loss(theirs, theirs.run(theirs.states[layer], later))
            found["cumulative"] = self._own_loss(mine, mine.run(mixed[layer], later[1:]))
            self.blocks += 4 * len(later) - 1
            for name, loss in found.items():
                self.ways[name].add((place, column), loss, mine.batch)
            self.job.tick()

    def _cumulative(self, mine: Pass, share: float) -> Iterator[tuple[int, Tensor]]:
        """States after each chosen layer with all layers up to it mixed."""
        state = mine.states[0]
        for layer in range(max(self.layers) + 1):
            with between(self.of_layer[layer], share):
                state = mine.run(state, [layer])
            self.blocks += 1
            if layer in self.layers:
                yield layer, state

    def _verify(self, mine: Pass, share: float, verify: int) -> None:
        """Layers mixed in this model, again by passes of the whole model."""
        for layer in self.layers[:verify]:
            with between(self.of_layer[layer], share):
                whole = self._own_loss(mine, mine.without())
                again = self._own_loss(
                    mine, mine.run(mine.states[layer], range(layer, self.model.n_layers))
                )
            self.blocks += 2 * self.model.n_layers - layer
            self.off = max(self.off, float((whole - again).nan_to_num().abs().max()))

    def _emit(self, column: int) -> None:
        """Losses so far at one point of the way, and barriers where all points are known."""
        losses = self.losses.mean()
        parts = np.stack([self.parts[name].mean() for name in PARTS])
        random = self.parts["random"].mean()
        ways = np.stack([self.ways[name].mean() for name in WAYS], 1)
        here = {
            "all_loss": parts[list(PARTS).index("all"), column],
            "all_loss_chance": random[column],
            "part_loss": parts[:, column],
            "layer_loss": ways[..., column],
        }
        if self.align:
            here["all_loss_baseline"] = self.parts["unaligned"].mean()[column]
        self.job.emit({"share": column}, here)
        self.job.emit({}, {"loss": losses[0], "other_loss": losses[1]})
        if np.isfinite(ways).all():
            found = {
                "barrier": (ways - self.over(ways[..., [0, -1]])).max(-1),
                "rise": (ways - self.over(losses)).max(-1),
                "part_barrier": (parts - self.over(parts[..., [0, -1]])).max(-1),
            }
            self.job.emit({}, found)

    def over(self, ends: np.ndarray) -> np.ndarray:
        """The straight line between losses at both ends ``[..., 2]``: ``[..., share]``."""
        found: np.ndarray = (1 - self.shares) * ends[..., :1] + self.shares * ends[..., 1:]
        return found

    def _finish(self, before: tuple[Any, Any], verify: int) -> None:
        self.job.note(
            passes=self.blocks / self.model.n_layers,
            method="restart from the state before the layer; whole passes for parts",
            direction=f"from {self.model.name} to {self.other.name}",
            other=self.other.name,
        )
        losses, whole = self.losses.mean(), self.parts["all"].mean()
        what = "loss with all weights of either model in this one, against that model's own"
        error = max(abs(float(whole[0] - losses[0])), abs(float(whole[-1] - losses[1])))
        self.job.check("ends of the way", error, tolerance(self.model), what)
        if self.align:
            what = "loss with the other's weights, in the order that was found and in their own"
            error = abs(float(whole[-1] - self.parts["unaligned"].mean()[-1]))
            self.job.check("same function", error, tolerance(self.model), what)
        after = places_and_sums(self.model), places_and_sums(self.other)
        changed = sum(
            one != two
            for was, now in zip(before, after, strict=True)
            for one, two in zip(was, now, strict=True)
        )
        what = "weights whose sum or place in memory is not what it was"
        self.job.check("weights are back", changed, 0, what)
        if verify:
            what = "loss of a token against passes of the whole model with the layer mixed"
            self.job.check("naive agreement", self.off, tolerance(self.model), what)
