"""The sample: the same whatever the batching, bounded, and uniform."""

from __future__ import annotations

import measuring
import numpy as np
import pytest
import torch

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape
from layerlens.metrics.batch import Batch, split
from layerlens.metrics.cka import Cka
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics

TEXTS = [[(7 * i + j) % 40 for j in range(3 + i % 9)] for i in range(30)]


def sampled(size: int | None, unit: str = "token", sample: int = 20) -> Cka:
    model = measuring.tiny("llama")
    metric = Cka(ModelShape.of(model), sample=sample, unit=unit)
    run_metrics(model, split(model.tokens(TEXTS), size), MetricSet(metric.shape, [metric]))
    return metric


@pytest.mark.parametrize("unit", ["token", "text"])
def test_it_does_not_depend_on_batches(unit: str) -> None:
    alone, together = sampled(1, unit), sampled(30, unit)
    for name in ("keys", "text", "id"):
        np.testing.assert_array_equal(alone.arrays[name], together.arrays[name])
    np.testing.assert_allclose(alone.arrays["states"], together.arrays["states"], atol=1e-5)
    assert len(alone.arrays["keys"]) == 20
    assert (np.diff(alone.arrays["keys"].astype(float)) > 0).all()


def test_it_holds_the_states_of_the_smallest_keys() -> None:
    model = measuring.tiny("llama")
    metric = sampled(4)
    batch = Batch(model.tokens(TEXTS), range(30), 1)
    order = np.argsort(batch.keys)[:20]
    for place, index in enumerate(order):
        row, position = int(batch.kept.text[index]), int(batch.kept.position[index])
        assert metric.arrays["text"][place] == row
        assert metric.arrays["id"][place] == TEXTS[row][position]
        stream = torch.stack(measuring.states(model, TEXTS[row]))[:, position]
        np.testing.assert_allclose(metric.arrays["states"][place], stream, atol=1e-5)


def test_mean_states_of_texts() -> None:
    metric = sampled(7, "text")
    model = measuring.tiny("llama")
    for place, text in enumerate(metric.arrays["text"]):
        stream = torch.stack(measuring.states(model, TEXTS[text]))[:, 1:].mean(1)
        np.testing.assert_allclose(metric.arrays["states"][place], stream, atol=1e-5)


def test_samples_that_are_alike_share_their_states() -> None:
    model = measuring.tiny("llama")
    metrics = measuring.gather(
        model, ["cka", "intrinsic_dimension", "rsa"], split(model.tokens(TEXTS), 5)
    )
    one, two, other = (metric.arrays["states"] for metric in metrics.metrics)
    assert one is two
    assert one is not other


def test_merging_keeps_the_smallest() -> None:
    model = measuring.tiny("llama")
    batches = split(model.tokens(TEXTS), 6)
    options = {"cka": {"sample": 25}}
    single = measuring.gather(model, "cka", batches, options=options)
    first = measuring.gather(model, "cka", batches[::2], options=options)
    first.merge(measuring.gather(model, "cka", batches[1::2], options=options))
    for name, array in single.metrics[0].arrays.items():
        np.testing.assert_array_equal(first.metrics[0].arrays[name], array)


def test_every_token_is_as_likely() -> None:
    model = measuring.tiny("llama")
    counts = np.zeros(8)
    for start in range(0, 4000, 10):
        batch = Batch(model.tokens([[0] * 9] * 10), range(start, start + 10), 1)
        order = np.argsort(batch.keys)[:20]
        counts += np.bincount(batch.kept.position.numpy()[order] - 1, minlength=8)
    assert counts.sum() == 8000
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)


def test_quick_values_are_the_last_full_ones() -> None:
    metric = sampled(10)
    assert np.isnan(metric.value(intervals=False)["cka"]).all()
    full = metric.value()["cka"]
    np.testing.assert_array_equal(metric.value(intervals=False)["cka"], full)


def test_a_state_of_another_size_is_refused() -> None:
    metric = sampled(10)
    arrays = {**metric.state(), "keys": metric.arrays["keys"][:3]}
    with pytest.raises(InputError, match="not one of cka"):
        Cka.from_state(metric.shape, metric.options, arrays)
