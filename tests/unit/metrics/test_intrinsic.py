"""Intrinsic dimension: cubes and Gaussians of known dimension, copies, invariances."""

from __future__ import annotations

import math

import measuring
import numpy as np
import pytest
import torch

from layerlens.errors import InputError
from layerlens.metrics.base import ModelShape
from layerlens.metrics.intrinsic import (
    IntrinsicDimension,
    participation,
    squared_distances,
    two_nn,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def dimension(rows: torch.Tensor, estimator: str = "fit") -> float:
    return two_nn(squared_distances(rows), estimator)


@pytest.mark.parametrize(("d", "expected"), [(1, 1.03), (2, 1.95), (5, 4.55)])
def test_cubes(d: int, expected: float) -> None:
    cube = torch.rand(3000, d, dtype=torch.float64, generator=generator())
    assert dimension(cube) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize(("d", "expected"), [(2, 2.03), (5, 5.04), (10, 9.6), (20, 16.7)])
def test_gaussians(d: int, expected: float) -> None:
    rows = torch.randn(3000, d, dtype=torch.float64, generator=generator())
    apart = squared_distances(rows)
    assert two_nn(apart) == pytest.approx(expected, rel=0.07)
    assert two_nn(apart, "mle") == pytest.approx(expected, rel=0.1)


def test_isometry_scale_padding_and_copies() -> None:
    rows = torch.randn(300, 6, dtype=torch.float64, generator=generator())
    value = dimension(rows)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator())).Q
    assert dimension(1000 * rows @ turn + 7) == pytest.approx(value, rel=1e-8)
    wide = torch.cat([rows, torch.zeros(300, 9)], -1)
    assert dimension(wide) == pytest.approx(value, rel=1e-9)
    noise = 1e-7 * torch.randn(300, 6, dtype=torch.float64, generator=generator())
    for copies in (rows, rows + noise):
        assert dimension(torch.cat([rows, copies])) == pytest.approx(value, rel=1e-9)


def test_a_naive_count_of_neighbours() -> None:
    rows = torch.randn(40, 3, dtype=torch.float64, generator=generator()).numpy()
    ratios = []
    for i in range(40):
        apart = np.sort([np.linalg.norm(rows[i] - rows[j]) for j in range(40) if j != i])
        ratios.append(math.log(apart[1] / apart[0]))
    found = dimension(torch.from_numpy(rows), "mle")
    assert found == pytest.approx(39 / sum(ratios), rel=1e-10)


def test_participation_has_no_bias() -> None:
    """Isotropic states in 50 dimensions give 50 also for few rows; planted spectra theirs."""
    found = [
        participation(
            torch.randn(60, 50, dtype=torch.float64, generator=generator().manual_seed(i))
        )
        for i in range(40)
    ]
    assert np.mean(found) == pytest.approx(50, rel=0.03)
    scales = torch.tensor([4.0, 3, 2, 1], dtype=torch.float64)
    rows = torch.randn(20000, 4, dtype=torch.float64, generator=generator()) * scales.sqrt()
    # hsic() works in chunks of the Gram matrix, so a part of the rows has to do.
    assert participation(rows[:4000]) == pytest.approx(100 / 30, rel=0.03)
    assert math.isnan(participation(torch.ones(8, 3, dtype=torch.float64)))


def test_of_a_model() -> None:
    model = measuring.tiny("llama")
    found = measuring.measure(model, "intrinsic_dimension")
    stream = [measuring.states(model, text) for text in measuring.TEXTS]
    for point in range(1, model.n_layers + 1):
        rows = torch.cat([h[point][1:] for h in stream]).double()
        expected = dimension(rows)
        assert found["intrinsic_dimension"][point] == pytest.approx(expected, rel=1e-3)


def test_a_plane_in_many_dimensions() -> None:
    plane = torch.randn(1024, 2, generator=generator()) @ torch.randn(2, 30, generator=generator())
    states = torch.stack([plane, 3 * plane], 1)
    found = IntrinsicDimension(ModelShape(1, 1, 30, 9)).compute(states)
    for name in ("", "_half", "_quarter"):
        np.testing.assert_allclose(found[f"intrinsic_dimension{name}"], 2, rtol=0.12)
    assert (found["intrinsic_dimension_linear"] <= 2.01).all()


def test_too_few_and_bad_options() -> None:
    model = measuring.tiny("llama")
    few = measuring.measure(model, "intrinsic_dimension", [[1, 2, 3]])
    assert np.isnan(few["intrinsic_dimension"]).all()
    for options, words in (
        ({"estimator": "both"}, "estimator is 'both'"),
        ({"sample": 2}, "sample is 2"),
        ({"unit": "word"}, "unit is 'word'"),
    ):
        with pytest.raises(InputError, match=words):
            measuring.measure(
                model, "intrinsic_dimension", options={"intrinsic_dimension": options}
            )


def test_merging() -> None:
    measuring.assert_merged_is_single(measuring.tiny("llama"), "intrinsic_dimension")
    measuring.assert_padding_is_nothing(
        measuring.tiny("llama"),
        "intrinsic_dimension",
        options={"intrinsic_dimension": {"estimator": "mle"}},
    )
