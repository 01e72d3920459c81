"""Largest entries and overflow: against plain hooks, and for states that are known."""

from __future__ import annotations

import measuring
import numpy as np
import pytest
import torch


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_against_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, "number_range", skip_first=2)
    streams = [measuring.states(model, text) for text in measuring.TEXTS]
    for point in range(model.n_layers + 1):
        every = torch.cat([stream[point].flatten() for stream in streams]).double()
        np.testing.assert_allclose(found["number_range"][point], every.abs().max(), rtol=1e-5)
        assert found["number_range_float16"][point] == 0
    measuring.assert_padding_is_nothing(model, "number_range")
    measuring.assert_merged_is_single(model, "number_range")


def test_entries_that_a_format_cannot_hold_are_counted() -> None:
    """One of 16 entries is planted: 300, then 500, then 70,000."""

    def put(value: float):
        def write(h: torch.Tensor) -> torch.Tensor:
            new = h.clone()
            new[..., 3] = -value
            return new

        return write

    model = measuring.planted(16, [put(300), put(500), put(70_000)])
    found = measuring.measure(model, "number_range")
    np.testing.assert_allclose(found["number_range"][1:], [300, 500, 70_000])
    share = 1 / 16
    np.testing.assert_allclose(found["number_range_float8_e4m3fnuz"], [0, share, share, share])
    np.testing.assert_allclose(found["number_range_float8_e4m3fn"], [0, 0, share, share])
    np.testing.assert_allclose(found["number_range_float16"], [0, 0, 0, share])
    assert (found["number_range"][1:] > 1.1 * found["number_range_chance"][1:]).all()


def test_normal_entries_reach_as_far_as_chance_says() -> None:
    model = measuring.planted(1024, [lambda h: torch.randn_like(h)])
    found = measuring.measure(model, "number_range", [list(range(30))] * 4)
    np.testing.assert_allclose(found["number_range"][1], found["number_range_chance"][1], rtol=0.2)
