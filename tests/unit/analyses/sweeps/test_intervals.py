"""Means over texts and their bootstrap intervals."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.analyses.sweeps.intervals import mean_interval


def test_the_mean_is_a_ratio_of_means_where_it_is_asked_for() -> None:
    values = np.array([[1.0, 2.0], [3.0, 6.0]])
    mean, _, _ = mean_interval(values)
    np.testing.assert_allclose(mean, [2, 4])
    ratio, low, high = mean_interval(values, np.array([2.0, 6.0]))
    np.testing.assert_allclose(ratio, [0.5, 1.0])
    # Resamples of two texts: the first twice, both, the second twice.
    np.testing.assert_allclose(low, [0.5, 1.0])
    np.testing.assert_allclose(high, [0.5, 1.0])


def test_the_interval_is_that_of_the_normal_for_many_texts() -> None:
    values = np.random.default_rng(5).normal(2.0, 3.0, size=(400, 1))
    mean, low, high = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert float(mean[0] - low[0]) == pytest.approx(half, rel=0.15)
    assert float(high[0] - mean[0]) == pytest.approx(half, rel=0.15)
    again = mean_interval(values)
    np.testing.assert_array_equal(again, (mean, low, high))


def test_texts_without_a_cell_are_left_out() -> None:
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    mean, low, high = mean_interval(values)
    np.testing.assert_allclose(mean, [2, 5, np.nan])
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True, True]
    ratio, _, _ = mean_interval(values, np.array([1.0, 10.0]))
    np.testing.assert_allclose(ratio, [4 / 11, 0.5, np.nan])
