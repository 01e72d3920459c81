"""Growth of variance: against plain hooks, and laws of growth that are known."""

from __future__ import annotations

import measuring
import numpy as np
import pytest
import torch

from layerlens.metrics.variance import growth, medians


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_against_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, "variance_growth")
    streams = [measuring.states(model, text) for text in measuring.TEXTS]
    for point in range(model.n_layers + 1):
        values = np.concatenate([s[point][1:].double().numpy().var(-1) for s in streams])
        np.testing.assert_allclose(found["variance_growth"][point], values.mean(), rtol=1e-5)
        ordered = np.sort(values)
        middle = ordered[(len(values) - 1) // 2]
        np.testing.assert_allclose(found["variance_growth_median"][point], middle, rtol=0.011)


def test_independent_increments_add_their_variance() -> None:
    """Variance l + s0 after l unit increments, so a power law with exponent about 1."""
    generator = torch.Generator().manual_seed(1)

    def write(h: torch.Tensor) -> torch.Tensor:
        return h + torch.randn(h.shape, generator=generator)

    model = measuring.planted(1024, [write] * 20)
    with torch.no_grad():
        model.hf.transformer.wte.weight.mul_(0.1)
    texts = [[i % 7 for i in range(8)]] * 2
    found = measuring.measure(model, "variance_growth", texts)
    np.testing.assert_allclose(found["variance_growth"], 0.01 + np.arange(21), rtol=0.03)
    assert abs(found["variance_growth_power"] - 1) < 0.03
    assert found["variance_growth_power_r2"] > 0.999
    assert found["variance_growth_rate_r2"] < 0.95


def test_scaling_grows_exponentially() -> None:
    """h (1 + e) each block: rate 2 log(1 + e), whichever curve is fitted."""
    model = measuring.planted(16, [lambda h: 1.1 * h] * 8)
    for fit in ("median", "mean"):
        found = measuring.measure(
            model, "variance_growth", options={"variance_growth": {"fit": fit}}
        )
        np.testing.assert_allclose(found["variance_growth_rate"], 2 * np.log(1.1), rtol=0.01)
        assert found["variance_growth_rate_r2"] > 0.999


def test_a_constant_changes_the_norm_and_not_the_variance() -> None:
    model = measuring.planted(16, [lambda h: h + 5])
    found = measuring.measure(model, ["variance_growth", "residual_norm"])
    before, after = found["variance_growth"]
    np.testing.assert_allclose(after, before, rtol=1e-5)
    assert found["residual_norm"][1] > 2 * found["residual_norm"][0]


def test_medians_are_not_led_by_a_few() -> None:
    histogram = np.zeros((1, 80 * 64), dtype=np.int64)
    histogram[0, 40 * 64] = 10  # variance 1
    histogram[0, -1] = 9
    assert abs(medians(histogram)[0] - 1) < 0.011
    assert np.isnan(medians(histogram * 0)[0])


def test_too_few_points_fit_no_law() -> None:
    slope, quality = growth(np.array([1.0, 2.0, 4.0, 8.0]), np.arange(4.0))
    assert np.isnan(slope)
    assert np.isnan(quality)


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_padding(family: str) -> None:
    model = measuring.tiny(family)
    alone = measuring.measure(model, "variance_growth", size=1)
    for side in ("left", "right"):
        padded = measuring.measure(model, "variance_growth", size=4, padding_side=side)
        np.testing.assert_allclose(padded["variance_growth"], alone["variance_growth"], rtol=1e-4)
        np.testing.assert_allclose(
            padded["variance_growth_median"], alone["variance_growth_median"], rtol=0.012
        )
