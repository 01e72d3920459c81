"""The resampler that every interval shares."""

from __future__ import annotations

import numpy as np
import pytest

from layerlens.metrics.bootstrap import DRAWS, ends, resamples


def test_each_draw_holds_as_many_texts_as_there_are() -> None:
    draws = resamples(7)
    assert draws.shape == (DRAWS, 7)
    assert (draws.sum(1) == 7).all()
    assert (resamples(7) == draws).all()
    assert (resamples(7, seed=1) != draws).any()


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(size=400)
    found = (resamples(400) @ values / 400)[:, None]
    low, high = ends(found, np.array([True]))
    error = values.std() / np.sqrt(400)
    assert (high - low)[0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low[0] < values.mean() < high[0]


def test_a_wider_level_and_cells_without_several_texts() -> None:
    found = np.random.default_rng(0).normal(size=(DRAWS, 2))
    found[3, 0] = np.nan
    low, high = ends(found, np.array([True, False]), level=0.5)
    wide = ends(found, np.array([True, False]))
    assert wide[0][0] < low[0] < high[0] < wide[1][0]
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(ends(found, np.array([False, False]))).all()
