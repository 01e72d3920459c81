"""Sentences against their words swapped: kinds of words are told from sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from torch import Tensor

from layerlens.analyses.neurons.beyond_kinds import Beats, Beyond, beyond
from layerlens.analyses.neurons.periodic import Rates, centred

WORDS, COUNT = 4, 40
RATES = Rates(WORDS, WORDS * COUNT)
KINDS = torch.tensor([2.0, -1.0, 0.5, -1.5]).repeat(COUNT)[:, None]
"""The same for every word of a kind: a rhythm that swapped words have too."""


def noise(seed: int, units: int = 600) -> Tensor:
    return torch.randn(WORDS * COUNT, units, generator=torch.Generator().manual_seed(seed))


def compared(own: Tensor, swapped: Tensor) -> Beyond:
    pair = [Beats.of(RATES, centred(signals)) for signals in (own, swapped)]
    return beyond(pair[0], pair[1], 60, 0.05, 0, lambda: None)


def test_what_marks_kinds_of_words_is_not_beyond_them_and_a_rhythm_of_sentences_is() -> None:
    own, swapped = noise(0) + KINDS, noise(1) + KINDS
    sentence = torch.cos(torch.pi * torch.arange(WORDS * COUNT) / 2)
    own[:, 7] += 1.5 * sentence  # beside the kinds
    own[:, 9] = noise(2)[:, 9] + 1.5 * sentence  # alone
    swapped[:, 9] = noise(3)[:, 9]
    swapped[:, 11] += 1.5 * sentence  # less in order than swapped
    found = compared(own, swapped)
    assert np.flatnonzero(found.tags).tolist() == [7, 9]
    assert found.false_tags.mean() < 0.01


def test_shares_are_those_of_the_whole_signal_and_without_a_sentence_those_of_the_rest() -> None:
    signals = centred(noise(0, 5))
    beats, ones = Beats.of(RATES, signals), torch.ones(1, COUNT)
    np.testing.assert_allclose(beats.shares(ones)[0], RATES.shares(signals)[0], rtol=1e-4)
    power = torch.fft.rfft(signals[WORDS:].double(), dim=0)[COUNT - 1].abs().square() * 2
    total = (COUNT - 1) * WORDS * signals[WORDS:].double().square().sum(0)
    ones[0, 0] = 0
    np.testing.assert_allclose(beats.shares(ones)[0], power / total, rtol=1e-4)


def test_the_interval_is_about_that_of_resampled_sentences_and_covers_no_difference() -> None:
    own, swapped = (0.3 * noise(seed, 1) + KINDS * (1 + noise(seed + 2, 1)) for seed in (4, 5))
    found = compared(own, swapped)
    assert found.low < 0 < found.high and found.mean < found.chance
    beats = [Beats.of(RATES, centred(one)) for one in (own, swapped)]

    def difference(numbers: np.ndarray) -> float:
        weights = torch.bincount(torch.from_numpy(numbers), minlength=COUNT).float()[None]
        return float(beats[0].shares(weights) - beats[1].shares(weights))

    drawn = bootstrap(
        (np.arange(COUNT),), difference, n_resamples=400, vectorized=False, method="percentile",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found.high - found.low == pytest.approx(4 * drawn.standard_error, rel=0.25)


def test_units_that_are_never_on_are_no_finding() -> None:
    own, swapped = noise(0, 3), noise(1, 3)
    own[:, 1] = swapped[:, 1] = 0
    found = compared(own, swapped)
    assert not found.tags[1] and np.isfinite([found.mean, found.low, found.chance]).all()
