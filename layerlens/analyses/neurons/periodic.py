"""Whether signals repeat with the sentences they come from: power at their rates, and its test."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import false_discovery_control
from torch import Tensor


def periods(words: int) -> list[float]:
    """What has sentences of so many words as its period has all its power at these, in words.

    Examples
    --------
    >>> periods(4), periods(5)
    ([4.0, 2.0], [5.0, 2.5])
    """
    return [words / j for j in range(1, words // 2 + 1)]


def levelling(time: int) -> Tensor:
    """``[time, time]`` float64: what takes a straight drift from signals and leaves their mean."""
    line = torch.linspace(-1, 1, time, dtype=torch.float64)
    return torch.eye(time, dtype=torch.float64) - line.outer(line) / line.square().sum()


def detrended(signals: Tensor) -> Tensor:
    """Signals ``[time, unit]`` without their mean and without a straight drift; float32."""
    return centred(levelling(len(signals)) @ signals.double())


def centred(signals: Tensor) -> Tensor:
    """Signals ``[time, unit]`` without their mean; float32."""
    return (signals.double() - signals.double().mean(0)).float()


class Rates:
    """The waves of the rates of sentences.

    Parameters
    ----------
    words
        Of a sentence.
    time
        Words of a signal, a multiple of it.

    Attributes
    ----------
    waves
        ``[wave, time]`` float32, orthonormal and without a mean. A rate has a cosine and a sine;
        the fastest of an even number of words, every second word, has its one sign.
    """

    def __init__(self, words: int, time: int) -> None:
        places = torch.arange(time, dtype=torch.float64) * 2 * torch.pi
        waves, self._first = [], [0]
        for period in periods(words):
            pair = [(places / period).cos(), (places / period).sin()]
            waves += pair[:1] if period == 2 else pair
            self._first.append(len(waves))
        both = torch.stack(waves)
        self.waves = (both / both.norm(dim=1, keepdim=True)).float()
        self.time, self.words = time, words

    def squares(self, signals: Tensor, waves: Tensor | None = None) -> Tensor:
        """Sums of squares at each rate, ``[rate, unit]``, of signals ``[time, unit]``."""
        found = ((self.waves if waves is None else waves) @ signals).square()
        return torch.stack([found[a:b].sum(0) for a, b in pairwise(self._first)])

    def shares(self, signals: Tensor) -> Tensor:
        """Shares of the variance that each rate has, ``[rate, unit]``; 0 where all is constant."""
        return _share(self.squares(signals), signals.square().sum(0))

    def shuffled(self, signals: Tensor, draws: int, seed: int, tick: Callable[[], None]) -> Tensor:
        """The same of signals whose words were put into another order: ``[draw, rate, unit]``."""
        generator = torch.Generator().manual_seed(seed)
        whole = signals.square().sum(0)
        found = []
        for _ in range(draws):
            tick()
            order = torch.randperm(self.time, generator=generator)
            found.append(_share(self.squares(signals, self.waves[:, order]), whole))
        return torch.stack(found)


def _share(squares: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, squares / whole, 0.0)


def chances(shares: Tensor, null: Tensor) -> np.ndarray:
    """How probable shares as large are by chance, ``[rate, unit]`` float64.

    Parameters
    ----------
    shares
        ``[rate, unit]``.
    null
        ``[draw, rate, unit]``. A share does not depend on how large a unit's signal is, so that
        one distribution, of all units and draws of a rate, serves them all.

    Examples
    --------
    >>> null = torch.tensor([[[0.1, 0.2]], [[0.3, 0.4]]])
    >>> chances(torch.tensor([[0.35, 0.5]]), null).tolist()
    [[0.4, 0.2]]
    """
    found = []
    for rate in range(len(shares)):
        known = np.sort(null[:, rate].flatten().numpy())
        above = len(known) - np.searchsorted(known, shares[rate].numpy(), side="left")
        found.append((1 + above) / (1 + len(known)))
    return np.stack(found)


def tagged(shares: Tensor, null: Tensor, level: float) -> np.ndarray:
    """Which units follow which rate, ``[rate, unit]`` bool.

    Among those named, a share of at most ``level`` is expected to be named wrongly (Benjamini and
    Hochberg, 1995), over units and rates together.
    """
    found = false_discovery_control(chances(shares, null).ravel()).reshape(shares.shape)
    tags: np.ndarray = found <= level
    return tags


def spectra(signals: Tensor) -> Tensor:
    """Shares of the variance at each frequency, ``[frequency, unit]``: they sum to 1.

    From 1 cycle in all ``time`` words to every second word; NaN where all is constant.
    """
    time = signals.shape[0]
    power: Tensor = torch.fft.rfft(signals.double(), dim=0)[1:].abs().square() * 2
    if time % 2 == 0:
        power[-1] /= 2
    return power / (time * signals.double().square().sum(0))


def overlap(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Dice's overlap of two sets of units, and that of two independent ones of their sizes.

    Examples
    --------
    >>> overlap(np.array([True, True, False, False]), np.array([True, False, False, False]))
    (0.6666666666666666, 0.3333333333333333)
    """
    sizes = int(one.sum()) + int(other.sum())
    if sizes == 0:
        return float("nan"), float("nan")
    chance = float(one.sum()) * float(other.sum()) / one.size
    return 2 * int((one & other).sum()) / sizes, 2 * chance / sizes
