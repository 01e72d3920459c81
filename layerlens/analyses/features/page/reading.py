"""One feature over many texts, pass by pass: how often it is on, how strongly, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.analyses.features.page.spread import Example, Spread
from layerlens.analyses.features.replacing import Tick
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS
from layerlens.corpus.rows import Row
from layerlens.corpus.shard import batches

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

HELD = 8 * BATCH_TOKENS
"""Tokens of rows that are put into passes together, those of like length side by side."""


class Reading:
    """What is known of a feature from the texts that were read so far.

    Parameters
    ----------
    places, dictionary
        What is read.
    number
        Of the feature.
    sizes
        Examples that are kept of the strongest, one in a row, and of each bin of strengths.
    draws
        How often each row is shuffled.
    seed
        Of the shuffles, and of the draw of examples.

    Attributes
    ----------
    spread
        Its activations by strength.
    top
        The strongest first.
    draws
        How often each row is shuffled.
    counted, rows
        Activations that were encoded (a token in each layer), and rows.
    on
        ``[feature]`` float64: how many of these each feature was on for.
    mass, all_mass
        ``[layer]`` float64: sums of its activations, and of all features'.
    """

    def __init__(
        self,
        places: Places,
        dictionary: Dictionary,
        number: int,
        sizes: tuple[int, int],
        draws: int,
        seed: int,
    ) -> None:
        self.places, self.dictionary, self.number = places, dictionary, number
        self._most, each = sizes
        self.draws = draws
        self._generator = torch.Generator().manual_seed(seed)
        self.spread = Spread(each, seed)
        self.top: list[Example] = []
        self.counted = self.rows = self.passes = 0
        self.on = torch.zeros(dictionary.features, dtype=torch.float64)
        self.mass = torch.zeros(len(places.sites), dtype=torch.float64)
        self.all_mass = torch.zeros(len(places.sites), dtype=torch.float64)

    def see(self, tokens: Tokens, rows: list[Row], tick: Tick) -> None:
        """Take in a pass over some rows, and over the same shuffled."""
        kept = self.places.kept(tokens)
        self.rows += len(rows)
        self.passes += 1
        if not kept.any():
            return
        values, factors = self._encoded(tokens, kept, tick, count=True)

        def example(layer: int, row: int, position: int) -> Example:
            # A copy: a view would hold on to the whole pass.
            around = values[layer, row, : len(rows[row].ids)].clone()
            at = rows[row], layer, position, float(factors[layer, row, position])
            return Example(float(around[position]), *at, around)

        self.counted += int(kept.sum()) * len(values)
        on = (values > 0).nonzero()
        self.spread.add(values[tuple(on.T)], lambda index: example(*on[index].tolist()))
        self._keep_top(values, example)
        for _ in range(self.draws):
            other, _ = self._encoded(self._shuffled(tokens, kept), kept, tick)
            self.spread.add_shuffled(other[other > 0])
            self.passes += 1

    def _encoded(
        self, tokens: Tokens, kept: Tensor, tick: Tick, *, count: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The feature ``[layer, row, position]`` and its row's factor; NaN where none counts."""
        states = self.places.states(tokens, kept, tick)
        found = torch.full((states.shape[1], *kept.shape), torch.nan)
        factors = found.clone()
        for layer, x in enumerate(states.unbind(1)):
            features = self.dictionary.encode(x)
            found[layer][kept] = features[:, self.number]
            factors[layer][kept] = self.dictionary.factor(x)[:, 0]
            if count:
                self.on += (features > 0).sum(0)
                self.mass[layer] += features[:, self.number].double().sum()
                self.all_mass[layer] += features.double().sum()
            tick()
        return found, factors

    def _shuffled(self, tokens: Tokens, kept: Tensor) -> Tokens:
        """The same tokens in each row in another order; those that do not count stay."""
        ids = tokens.ids.clone()
        for row, counts in enumerate(kept):
            places = counts.nonzero().flatten()
            order = torch.randperm(len(places), generator=self._generator)
            ids[row, places] = ids[row, places[order]]
        return replace(tokens, ids=ids)

    def _keep_top(self, values: Tensor, example: Callable[[int, int, int], Example]) -> None:
        """Keep the strongest token of each of the strongest rows."""
        best, place = values.nan_to_num(0).transpose(0, 1).flatten(1).max(1)
        found = list(self.top)
        for row in (best > 0).nonzero().flatten().tolist():
            layer, position = divmod(int(place[row]), values.shape[2])
            found.append(example(layer, row, position))
        found.sort(key=lambda one: (-one.activation, one.row.number))
        self.top = found[: self._most]

    @property
    def largest(self) -> float:
        """Its largest activation; 1 where it was never on."""
        return self.spread.largest or 1.0

    def density(self) -> Tensor:
        """``[feature]``: share of what was encoded that each feature was on for."""
        return self.on / max(1, self.counted)

    def other(self) -> int:
        """The feature that is on about as often; -1 where no other ever is."""
        apart = (self.on - self.on[self.number]).abs()
        apart[self.on == 0] = torch.inf
        apart[self.number] = torch.inf
        nearest = int(apart.argmin())
        return nearest if bool(torch.isfinite(apart[nearest])) else -1

    def sparser(self) -> float:
        """Share of the dictionary's other features that are on less often."""
        others = max(1, len(self.on) - 1)
        return float((self.on < self.on[self.number]).sum()) / others

    def layer_shares(self) -> tuple[np.ndarray, np.ndarray]:
        """``[layer]``: where its activation lies, and that of all features."""
        found = [mass / mass.sum().clamp_min(1e-12) for mass in (self.mass, self.all_mass)]
        return found[0].float().numpy(), found[1].float().numpy()


def passes_of(model: LensModel, rows: Iterable[Row]) -> Iterator[tuple[Tokens, list[Row]]]:
    """Passes over rows in the order of the texts, a few thousand tokens of which are held."""
    held: list[Row] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row.ids)
        if size >= HELD:
            yield from _passes(model, held)
            held, size = [], 0
    yield from _passes(model, held)


def _passes(model: LensModel, held: list[Row]) -> Iterator[tuple[Tokens, list[Row]]]:
    known = {row.number: row for row in held}
    for tokens, numbers in batches(model, held, BATCH_TOKENS):
        yield tokens, [known[number] for number in numbers]
