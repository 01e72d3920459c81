"""Angular distance of layers: against a naive loop, and where the answer is known."""

from __future__ import annotations

import measuring
import numpy as np
import pytest
import torch

from layerlens.errors import InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model


@pytest.mark.parametrize("family", measuring.FAMILIES)
@pytest.mark.parametrize("token", ["all", "last"])
def test_against_plain_hooks(family: str, token: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(
        model, "angular_distance", options={"angular_distance": {"token": token}}
    )
    points = model.n_layers + 1
    pairs: list[list[list[float]]] = [[[] for _ in range(points)] for _ in range(points)]
    for text in measuring.TEXTS:
        stream = [h.double()[1:] for h in measuring.states(model, text)]
        for l, one in enumerate(stream):  # noqa: E741
            for m, other in enumerate(stream):
                cosine = torch.nn.functional.cosine_similarity(one, other, -1).clamp(-1, 1)
                angle = (cosine.arccos() / np.pi).tolist()
                pairs[l][m] += angle if token == "all" else angle[-1:]
    expected = np.array([[np.mean(cell) for cell in row] for row in pairs])
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found["angular_distance"], expected, atol=1e-5)
    np.testing.assert_allclose(found["angular_distance_next"], np.diagonal(expected, 1), atol=1e-5)
    apart = [np.diagonal(expected, n).mean() for n in range(points)]
    np.testing.assert_allclose(found["angular_distance_mean"], apart, atol=1e-5)


def test_reflection_rotation_and_identity() -> None:
    """-h is at distance 1, a right angle 0.5, the same state 0."""

    def right(h: torch.Tensor) -> torch.Tensor:
        return torch.stack([-h[..., 1::2], h[..., 0::2]], -1).flatten(-2)

    model = measuring.planted(8, [lambda h: -h, right, lambda h: 3 * h])
    found = measuring.measure(model, "angular_distance")["angular_distance"]
    expected = [[0, 1, 0.5, 0.5], [1, 0, 0.5, 0.5], [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_zero_state_counts_as_a_right_angle() -> None:
    model = measuring.planted(8, [lambda h: 0 * h])
    found = measuring.measure(model, "angular_distance")["angular_distance"]
    np.testing.assert_allclose(found, [[0, 0.5], [0.5, 0]])


def test_an_identity_block_and_small_angles() -> None:
    """Distance 0 across a block that writes nothing; else about sqrt(2 BI) / pi where small."""
    model = LensModel.wrap(tiny_model("llama", seed=2), None, name="identity", prove=False)
    measuring.identity(model, 1)
    found = measuring.measure(model, "angular_distance")
    assert found["angular_distance_next"][1] < 1e-7
    near = measuring.planted(64, [lambda h: h + 0.01 * torch.roll(h, 1, -1)])
    found = measuring.measure(near, ["angular_distance", "block_influence"], [[5]], skip_first=0)
    small = np.sqrt(2 * found["block_influence"]) / np.pi
    np.testing.assert_allclose(found["angular_distance_next"], small, rtol=1e-3)


def test_a_token_that_is_neither() -> None:
    with pytest.raises(InputError, match="token is 'all' or 'last', not 'first'"):
        measuring.measure(
            measuring.tiny("llama"),
            "angular_distance",
            options={"angular_distance": {"token": "first"}},
        )


@pytest.mark.parametrize("token", ["all", "last"])
def test_padding_and_merging(token: str) -> None:
    model = measuring.tiny("gpt2")
    options = {"angular_distance": {"token": token}}
    measuring.assert_padding_is_nothing(model, "angular_distance", options=options)
    measuring.assert_merged_is_single(model, "angular_distance", options=options)
