"""Frequencies of numbers: against NumPy's FFT on plain models, planted ones, a toy that groks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.numbers.cyclic_basis import CyclicBasis, PlanePower
from layerlens.errors import ActivationError, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.load import load
from layerlens.result import Result

from ..by_hooks import FAMILIES, embedding, part, plain, wrapped

NUMBERS = [3, 40, 12, 7, 25, 61, 9]
P = len(NUMBERS)
PLUS, EQUALS = 70, 71
TRAINED = [(0, 1), (2, 2), (6, 3), (5, 5)]
ASKED: dict[str, Any] = {
    "numbers": NUMBERS, "prompt": ["a", PLUS, "b", EQUALS], "pairs": 9, "draws": 3,
}  # fmt: skip


def ask(model: LensModel, **options: Any) -> Result:
    return ll.fourier(model, **{**ASKED, **options})


def logits(hf: Any, spoilt: Tensor | None = None) -> np.ndarray:
    """``[a, b, answer]`` of a plain model, in float64; ``spoilt`` replaces embeddings."""
    ids = torch.tensor([[a, PLUS, b, EQUALS] for a in NUMBERS for b in NUMBERS])
    hooks = []
    if spoilt is not None:
        table = embedding(hf).weight.detach().clone()
        table[NUMBERS] = spoilt.to(table)
        hooks.append(embedding(hf).register_forward_hook(lambda _, given, out: table[given[0]]))
    with torch.no_grad():
        found = hf(ids).logits[:, -1, NUMBERS].double().numpy()
    for hook in hooks:
        hook.remove()
    found -= found.mean(-1, keepdims=True)
    return found.reshape(P, P, P)


def loss(of: np.ndarray, answers: np.ndarray) -> float:
    right = np.take_along_axis(of, answers[..., None], -1)[..., 0]
    return float((np.log(np.exp(of).sum(-1)) - right).mean())


def folded(k: int, spectrum: np.ndarray) -> float:
    """Power of a frequency and its mirror in NumPy's transform along the first axis."""
    return float((np.abs(spectrum[k]) ** 2 + np.abs(spectrum[-k]) ** 2).sum() / P)


@pytest.mark.parametrize("family", FAMILIES)
def test_spectra_and_losses_equal_the_fft_of_a_plain_model(family: str) -> None:
    hf = plain(family)
    found = ask(wrapped(family), key=[2], trained=TRAINED)
    every = logits(hf)
    place = np.arange(P)
    sums = (place[:, None] + place) % P
    mean = np.stack([every[sums == s].mean(0) for s in place])
    spectrum, total = np.fft.fft(mean, axis=0), every.reshape(-1, P)
    varied = ((total - total.mean(0)) ** 2).sum()
    power = [P * folded(k, spectrum) / varied for k in (1, 2, 3)]
    assert found.data.logit_power.values == pytest.approx(power, rel=1e-4, abs=1e-9)
    only = np.zeros_like(spectrum)
    only[[2, -2]] = spectrum[[2, -2]]
    wave = np.fft.ifft(only, axis=0).real
    assert float(found.data.restricted_loss) == pytest.approx(loss(mean.mean(0) + wave, place))
    assert float(found.data.loss_alone[1]) == float(found.data.restricted_loss)
    a, b = np.array(TRAINED).T
    excluded = loss(every[a, b] - wave[sums[a, b]], sums[a, b])
    assert float(found.data.excluded_loss) == pytest.approx(excluded, abs=1e-5)
    assert float(found.data.loss_without[1]) == pytest.approx(excluded, abs=1e-5)
    assert float(found.data.loss) == pytest.approx(loss(every[a, b], sums[a, b]), abs=1e-5)
    others = np.ones((P, P), bool)
    others[a, b] = False
    apart = loss(every[others], sums[others])
    assert float(found.data.held_out_loss) == pytest.approx(apart, abs=1e-5)
    assert found.checks.ok


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_equal_a_transform_of_both_numbers(family: str) -> None:
    hf, read = plain(family), []
    hook = part(hf, 1, "neurons").register_forward_pre_hook(lambda _, given: read.append(given[0]))
    logits(hf)
    hook.remove()
    neurons = read[0][:, -1].detach().double().numpy().reshape(P, P, -1)
    found = ask(wrapped(family), layers=[1]).data
    spectrum = np.abs(np.fft.fft2(neurons, axes=(0, 1))) ** 2
    varied = spectrum.sum((0, 1)) - spectrum[0, 0]
    shares = []
    for k in (1, 2, 3):
        rows = [0, k, -k]
        shares.append(spectrum[np.ix_(rows, rows)].sum((0, 1)) - spectrum[0, 0])
    assert found.neuron_power.values[0] == pytest.approx(
        [share.sum() / varied.sum() for share in shares], rel=1e-4
    )
    best = np.array(shares).argmax(0) + 1
    assert found.neuron_frequency.values[0].tolist() == best.tolist()
    assert found.neuron_share.values[0] == pytest.approx(np.max(shares, 0) / varied, rel=1e-3)


def test_taking_a_frequency_out_equals_other_embeddings() -> None:
    hf, place = plain("gpt2"), np.arange(P)
    rows = embedding(hf).weight.detach()[NUMBERS].double().numpy()
    spectrum = np.fft.fft(rows, axis=0)
    spectrum[[2, -2]] = 0
    spoilt = logits(hf, torch.from_numpy(np.fft.ifft(spectrum, axis=0).real))
    sums = (place[:, None] + place) % P
    right = float((spoilt.argmax(-1) == sums).mean())
    found = ask(wrapped("gpt2"), pairs=P**2).data
    assert float(found.loss_ablated[1]) == pytest.approx(loss(spoilt, sums), abs=1e-5)
    assert float(found.accuracy_ablated[1]) == pytest.approx(right)
    removed = ask(wrapped("gpt2"), remove=[2]).data
    assert float(removed.loss) == pytest.approx(loss(spoilt, sums), abs=1e-5)
    assert float(removed.embed_power[1]) == pytest.approx(0, abs=1e-12)


def test_planted_frequencies_are_the_key_ones() -> None:
    """Embeddings of two waves, of sizes 4 and 3: power 16 to 9, and nothing else."""
    numbers = list(range(10, 41))
    model = wrapped("llama")
    table = embedding(model.hf).weight
    turns = 2 * np.pi * np.arange(31) / 31
    width = table.shape[1]
    with torch.no_grad():
        waves = np.zeros((31, width))
        waves[:, :2] = 4 * np.stack([np.cos(4 * turns), np.sin(4 * turns)], 1)
        waves[:, 2:4] = 3 * np.stack([np.cos(9 * turns), np.sin(9 * turns)], 1)
        table[numbers] = torch.from_numpy(waves).to(table)
    found = ask(model, numbers=numbers, draws=20)
    expected = np.zeros(15)
    expected[[3, 8]] = 0.64, 0.36
    assert found.data.embed_power.values == pytest.approx(expected, abs=1e-6)
    assert found.data.attrs["key_frequencies"] == "[4, 9]"
    # The untrained model makes nothing of them.
    assert float(found.data.restricted_loss) > np.log(31) - 0.2


def test_waves_of_two_numbers_are_found() -> None:
    """cos(3a) cos(3b) - sin(3a) sin(3b) is cos(3 (a + b)): all of it at 3; a constant has none."""
    basis, angle = CyclicBasis(11), 2 * torch.pi * torch.arange(11).double() / 11
    power = PlanePower(basis, 3)
    for a in range(11):
        both = (3 * (angle[a] + angle)).cos()
        mixed = (2 * angle[a]).cos() * (5 * angle).cos()  # at no one frequency
        power.add(a, torch.stack([both, mixed, torch.ones(11)], dim=1))
    shares = power.shares()
    assert shares[:, 0].tolist() == pytest.approx([0, 0, 1, 0, 0], abs=1e-12)
    assert shares[:, 1].tolist() == pytest.approx([0] * 5, abs=1e-12)
    assert shares[:, 2].isnan().all()


def test_an_even_period_has_no_sine_at_its_end() -> None:
    basis = CyclicBasis(8)
    values = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).double()
    whole = basis.kept(values, list(basis.frequencies)) + values.mean(0)
    assert torch.allclose(whole, values)
    assert basis.waves[3, 1].abs().max() == 0


@pytest.fixture(scope="module")
def grokked() -> Result:
    return ll.fourier(load("toy:modular", prove=False), pairs=256, draws=4)


def test_the_grokked_toy_computes_with_its_key_frequencies(grokked: Result) -> None:
    data = grokked.data
    assert float(data.held_out_accuracy) > 0.999
    assert float(data.restricted_loss) < 0.05 < 4 < float(data.restricted_loss_chance)
    assert float(data.excluded_loss_chance) < 0.05 < 3 < float(data.excluded_loss)
    assert float(data.keyless_accuracy) < 0.1
    assert float(data.key_only_accuracy) > 0.99
    assert float(data.neuron_power.sum()) > 0.9
    assert grokked.checks.ok


def test_before_it_groks_it_is_the_other_way_round(grokked: Result) -> None:
    key = json.loads(grokked.data.attrs["key_frequencies"])
    early = ll.fourier(load("toy:modular@150", prove=False), key=key, pairs=16, draws=4).data
    assert float(early.accuracy) > 0.99
    assert float(early.held_out_accuracy) < 0.3
    assert float(early.restricted_loss) > 2 > float(early.excluded_loss)


def test_the_untrained_toy_has_no_key_frequency() -> None:
    model = load("toy:modular@0", prove=False)
    found = ll.fourier(model, numbers=[*range(31)], pairs=8)
    assert found.data.attrs["key_frequencies"] == "[]"
    notes = json.loads(found.data.attrs["notes"])
    assert any("no key one" in note for note in notes)
    assert any("not known" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"numbers": [3, 4]}, "2 different numbers"),
        ({"numbers": [3, 4, 3]}, "2 different numbers"),
        ({"numbers": None}, "0 different numbers"),
        ({"prompt": ["a", PLUS, EQUALS]}, "not one token each"),
        ({"prompt": ["b", PLUS, "a"]}, "a before b"),
        ({"key": [4]}, "key holds 4; of 7 numbers there are frequencies from 1 to 3"),
        ({"remove": [0]}, "remove holds 0"),
        ({"trained": [(0, 7)]}, r"places of numbers from 0 to 6"),
        ({"pairs": 0}, "pairs is 0"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ask(wrapped("gpt2"), **options)


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = wrapped("gpt2")
    with torch.no_grad():
        embedding(model.hf).weight[NUMBERS[3]] = torch.nan
    with pytest.raises(ActivationError, match="NaN"):
        ask(model)
