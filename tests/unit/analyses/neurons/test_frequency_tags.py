"""Rhythms of sentences: the transform and its test on signals that are known, and on a model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.neurons.frequency_tags import VARIABLES
from layerlens.analyses.neurons.periodic import (
    Rates,
    chances,
    detrended,
    overlap,
    spectra,
    tagged,
)
from layerlens.analyses.neurons.rhythm_texts import scrambled, varied
from layerlens.corpus.rhythm import four_word_sentences
from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.views.answer_cell import place_of
from tests.unit.analyses.by_hooks import part, wrapped

TIME = 80
BEATS = torch.arange(TIME, dtype=torch.float64)


def test_amplitudes_that_are_known() -> None:
    """cos of 4 words and half a cos of 2: |FFT| is 40 at both, and the variance 4 to 2."""
    signal = torch.cos(torch.pi * BEATS / 2) + 0.5 * torch.cos(torch.pi * BEATS)
    amplitude = np.abs(np.fft.rfft(signal.numpy()))
    assert amplitude[[TIME // 4, TIME // 2]] == pytest.approx([40, 40])
    shares = Rates(4, TIME).shares(signal[:, None].float())[:, 0]
    assert shares.tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-6)


@pytest.mark.parametrize("words", [3, 4, 5, 8])
def test_what_repeats_has_all_its_power_at_the_rates(words: int) -> None:
    generator = torch.Generator().manual_seed(words)
    one = torch.randn(words, 6, generator=generator)
    signals = one.repeat(120 // words, 1)
    signals = signals - signals.mean(0)
    shares = Rates(words, 120).shares(signals)
    assert shares.sum(0).numpy() == pytest.approx(1, abs=1e-5)
    spectrum = spectra(signals)
    places = [120 // words * j - 1 for j in range(1, words // 2 + 1)]
    assert spectrum[places].numpy() == pytest.approx(shares.numpy(), abs=1e-5)
    assert spectrum.sum(0).numpy() == pytest.approx(1, abs=1e-6)


def test_drift_and_what_is_constant_have_no_rhythm() -> None:
    signals = torch.stack([3 + 0.5 * BEATS, torch.full((TIME,), 7.0)], 1)
    left = detrended(signals)
    assert float(left.abs().max()) < 1e-4
    still = torch.zeros(TIME, 2)
    assert float(Rates(4, TIME).shares(still).sum()) == 0


def test_white_noise_is_below_five_per_cent_five_times_in_a_hundred() -> None:
    rates = Rates(4, TIME)
    noise = detrended(torch.randn(TIME, 2000, generator=torch.Generator().manual_seed(3)))
    null = rates.shuffled(noise, 60, 0, lambda: None)
    rate = (chances(rates.shares(noise), null) <= 0.05).mean(1)
    assert rate == pytest.approx([0.05, 0.05], abs=0.02)
    assert tagged(rates.shares(noise), null, 0.05).mean() < 0.005


def test_a_planted_rhythm_is_found_and_only_that() -> None:
    rates = Rates(4, TIME)
    signals = torch.randn(TIME, 400, generator=torch.Generator().manual_seed(4))
    signals[:, 7] += torch.cos(torch.pi * BEATS / 2).float() * 2
    signals[:, 9] += torch.cos(torch.pi * BEATS).float() * 2
    signals = detrended(signals)
    found = tagged(rates.shares(signals), rates.shuffled(signals, 60, 0, lambda: None), 0.05)
    assert np.flatnonzero(found[0]).tolist() == [7]
    assert np.flatnonzero(found[1]).tolist() == [9]


def test_no_old_neighbours_stay_and_each_word_comes_to_each_place() -> None:
    generator = np.random.default_rng(0)
    orders = np.array([scrambled(4, generator) for _ in range(400)])
    for order in orders:
        assert all(b != a + 1 for a, b in pairwise(order))
    counts = [(orders == word).mean(0) for word in range(4)]
    assert np.array(counts) == pytest.approx(0.25, abs=0.08)


def test_swapped_words_keep_their_places() -> None:
    sentences = [[f"{kind}{i}" for kind in "abcd"] for i in range(12)]
    rows = varied(sentences, "_swapped", 1)
    assert all([word[0] for word in row] == list("abcd") for row in rows)
    words = [word for row in rows for word in row]
    assert sorted(words) == sorted(word for one in sentences for word in one)
    assert any(row[0][1:] != row[1][1:] for row in rows)


def test_overlap_of_none() -> None:
    none = np.zeros(4, dtype=bool)
    assert np.isnan(overlap(none, none)).all()


def test_sentences_are_of_one_token_a_word_and_no_word_is_at_two_places() -> None:
    places: dict[str, set[int]] = {}
    for sentence in four_word_sentences():
        for place, word in enumerate(sentence.split()):
            places.setdefault(word, set()).add(place)
    assert [word for word, found in places.items() if len(found) > 1] == []


@pytest.fixture(scope="module")
def model() -> LensModel:
    return wrapped("llama")


SENTENCES = [[5, 9, 4, 7], [3, 8, 6, 2], [9, 3, 5, 4]] * 4


def test_signals_are_those_of_plain_hooks(model: LensModel) -> None:
    """One sentence over and over: every order is the same text, which a hook can read.

    Only which sentence is called which differs, to which the power at the rates is blind.
    """
    found = ll.frequency_tags(model, [SENTENCES[0]] * 12, runs=1, draws=40)
    seen: list[torch.Tensor] = []
    layer = part(model.hf, 1, "neurons")
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].float()))
    with torch.no_grad():
        model.hf(torch.tensor([SENTENCES[0] * 7]))
    hook.remove()
    signal = detrended(seen[0][4:]).numpy()
    power = np.abs(np.fft.rfft(signal, axis=0)) ** 2 * 2
    power[-1] /= 2
    shares = power[1:] / (len(signal) * (signal**2).sum(0))
    rates = [5, 11]
    spectrum = found.data.spectrum.values[1]
    assert spectrum[rates] == pytest.approx(shares.mean(1)[rates], abs=1e-4)
    means = found.data.spectrum_swapped.values.mean(0)
    assert found.data.mean_spectrum_baseline.values == pytest.approx(means, abs=1e-6)


def test_a_neuron_that_reads_one_token_is_tagged_with_it(model: LensModel) -> None:
    """Token 5 begins every sentence: what fires on it alone keeps time, unless words move."""
    sentences = [[5, *rest] for rest in np.random.default_rng(0).integers(6, 12, (30, 3)).tolist()]
    found = ll.frequency_tags(model, sentences, runs=4, draws=40)
    data = found.data
    assert found.checks.ok
    tags = data.tagged_sentence.max("layer")
    assert float(tags.sel(words="in order")) > 0.3
    assert float(tags.sel(words="swapped")) > 0.3
    assert float(tags.sel(words="shuffled")) < 0.1
    assert set(VARIABLES) <= set(data.data_vars)


def test_words_drawn_at_random_have_no_rhythm(model: LensModel) -> None:
    """However often they are read: the same few words at each place are no evidence."""
    sentences = np.random.default_rng(1).integers(6, 90, (30, 4)).tolist()
    found = ll.frequency_tags(model, sentences, runs=12, draws=40)
    assert float(found.data.tagged_sentence.max()) < 0.1
    assert float(found.data.tagged_faster.max()) < 0.1


def test_three_words_have_no_faster_rate(model: LensModel) -> None:
    found = ll.frequency_tags(model, [row[:3] for row in SENTENCES], words=3, runs=1, draws=20)
    assert found.data.rate.values.tolist() == ["sentence"]
    assert not [name for name in found.data.data_vars if "faster" in name or "overlap" in name]
    assert found.checks.ok


def test_a_cell_opens_the_neuron_that_is_named(model: LensModel) -> None:
    result = ll.frequency_tags(model, SENTENCES, runs=2, draws=40)
    assert result.given is not None
    place = place_of(result.data, {"array": "neuron_power", "index": [0, 0]})
    found = registry.get(result.analysis).open(model, *result.given, place)
    layer, neuron = (int(result.data[name][0, 0]) for name in ("neuron_layer", "neuron"))
    assert found.title == f"Neuron {neuron} of layer {layer}: its rhythm"
    again = eval(found.code, {"ll": ll, "model": model}).abs()
    marks = [mark for _, mark in found.texts[0]]
    assert marks == pytest.approx((again / again.max()).tolist(), abs=1e-5)
    means, shares = found.tables
    assert len(means.rows) == len(shares.rows) == 3


def test_what_is_asked_wrongly(model: LensModel) -> None:
    with pytest.raises(InputError, match="Sentence 0 has 4 words and words is 5"):
        ll.frequency_tags(model, SENTENCES, words=5)
    with pytest.raises(InputError, match="expected 12 or more"):
        ll.frequency_tags(model, SENTENCES[:4])
    with pytest.raises(InputError, match="Give fewer sentences"):
        ll.frequency_tags(model, SENTENCES * 3)
    with pytest.raises(InputError, match=r"draws is 30; expected 40"):
        ll.frequency_tags(model, SENTENCES, draws=30)
