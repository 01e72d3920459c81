"""Whether neurons keep time with sentences more than with the same words in other sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from layerlens.analyses.neurons.periodic import Rates, tagged

LEVEL = 0.95
"""Of the interval, and of the upper end of chance."""
TRIED = 5
"""Exchanges that are tested as if they were the sentences, to see what the test finds in chance."""


class Beats(NamedTuple):
    """What each sentence adds to the power at the rate of sentences.

    Attributes
    ----------
    waves
        ``[sentence, 2, unit]``: its part along the two waves of the rate.
    squares
        ``[sentence, unit]``: its part of the variance.
    """

    waves: Tensor
    squares: Tensor

    @classmethod
    def of(cls, rates: Rates, signals: Tensor) -> Beats:
        """Of signals ``[time, unit]`` without their mean."""
        sentences = signals.unflatten(0, (-1, rates.words))
        waves = rates.waves[:2].unflatten(1, (-1, rates.words))
        # Of length 1 over one sentence, so that sums of any number of them are divided by it.
        waves = waves * len(sentences) ** 0.5
        return cls(torch.einsum("ksw,swu->sku", waves, sentences), sentences.square().sum(1))

    def beside(self, other: Beats) -> Beats:
        """These sentences, then the other ones."""
        return Beats(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def shares(self, weights: Tensor) -> Tensor:
        """Shares of the variance ``[draw, unit]`` of sentences taken ``[draw, sentence]`` times."""
        along = torch.einsum("ds,sku->dku", weights, self.waves).square().sum(1)
        whole = weights.sum(1, keepdim=True) * (weights @ self.squares)
        return torch.where(whole > 0, along / whole, 0.0)


class Beyond(NamedTuple):
    """How much more power sentences have than their words swapped between sentences.

    Attributes
    ----------
    mean, low, high
        Difference of the shares of variance, mean over units, with its interval over sentences.
    chance
        Upper end of that mean when sentences are exchanged between the two at random.
    tags
        ``[unit]``: those with more power than exchanges leave.
    false_tags
        ``[try, unit]``: the same of exchanged sentences, held against the others.
    """

    mean: float
    low: float
    high: float
    chance: float
    tags: np.ndarray
    false_tags: np.ndarray


def beyond(
    own: Beats, swapped: Beats, draws: int, level: float, seed: int, tick: Callable[[], None]
) -> Beyond:
    """Test sentences against swapped ones.

    Were a sentence no more to a unit than the kinds of its words, sentences and swapped ones could
    be exchanged: that is done ``draws`` times for all units at once. The difference of a unit
    counts in its own spread over the exchanges, so that one distribution serves all units. The
    interval is the delete-one jackknife's (Tukey 1958), a sentence and a swapped one at a time;
    that words come in both makes it rather too wide.
    """
    tick()
    count = len(own.squares)
    both, ones = own.beside(swapped), torch.ones(1, count)
    found = own.shares(ones) - swapped.shares(ones)
    alive = (own.squares.sum(0) > 0) & (swapped.squares.sum(0) > 0)
    without = 1 - torch.eye(count)
    spread = (own.shares(without) - swapped.shares(without))[:, alive].mean(1).double()
    error = float(((count - 1) * spread.var(correction=0)).sqrt())
    reach = error * float(student.ppf((1 + LEVEL) / 2, count - 1))
    generator = torch.Generator().manual_seed(seed)
    here = torch.randint(2, (draws, count), generator=generator).float()
    tick()
    null = both.shares(torch.cat([here, 1 - here], 1)) - both.shares(torch.cat([1 - here, here], 1))
    mean = float(found[0, alive].double().mean())
    chance = float(np.quantile(null[:, alive].double().mean(1).numpy(), LEVEL))
    size = null.square().mean(0).sqrt().clamp_min(1e-12)
    null = torch.where(alive, null / size, 0.0)
    found = torch.where(alive, found / size, 0.0)
    tags = tagged(found, null[:, None], level)[0]
    tried = [tagged(null[[i]], null[:, None], level)[0] for i in range(min(TRIED, draws))]
    return Beyond(mean, mean - reach, mean + reach, chance, tags, np.stack(tried))
