"""Curvature: paths whose angles are known, and a naive loop."""

from __future__ import annotations

import math
from itertools import pairwise

import measuring
import numpy as np
import pytest
import torch

from layerlens.metrics.base import ModelShape
from layerlens.metrics.curvature import Curvature
from layerlens.metrics.textmeans import TextStates


def curvature(rows: torch.Tensor) -> tuple[float, float]:
    second, first = Curvature(ModelShape(1, 1, rows.shape[1], 9)).measure(TextStates(rows[None]))
    return float(second), float(first)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", measuring.FAMILIES)
def test_against_plain_hooks(family: str) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, "curvature")
    second, first = [], []
    for text in measuring.TEXTS:
        for h in measuring.states(model, text):
            rows = h.double()[1:].numpy()
            steps = np.diff(rows, axis=0)
            second.append(
                np.mean([_angle(a, b) for a, b in pairwise(steps)]) if len(steps) > 1 else np.nan
            )
            rows = rows - rows.mean(0)
            first.append(np.mean([_angle(a, b) for a, b in pairwise(rows)]))
    for name, values in (("curvature", second), ("curvature_first", first)):
        expected = np.nanmean(np.reshape(values, (len(measuring.TEXTS), -1)), 0)
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)


def _angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


def test_straight_line_and_zigzag() -> None:
    direction = random(6)
    line = torch.outer(torch.arange(9.0, dtype=torch.float64), direction)
    assert curvature(line)[0] == pytest.approx(0, abs=1e-7)
    zigzag = torch.outer(torch.tensor([0.0, 1] * 5, dtype=torch.float64), direction)
    assert curvature(zigzag)[0] == pytest.approx(math.pi, abs=1e-7)


@pytest.mark.parametrize("k", [3, 4, 6, 12])
def test_polygon(k: int) -> None:
    angles = 2 * math.pi * torch.arange(2 * k, dtype=torch.float64) / k
    path = torch.stack([angles.cos(), angles.sin()], -1)
    second, first = curvature(path)
    assert second == pytest.approx(2 * math.pi / k, abs=1e-9)
    assert first == pytest.approx(2 * math.pi / k, abs=1e-9)
    moved = 7 * path @ torch.linalg.qr(random(2, 2)).Q + 5
    assert curvature(moved)[0] == pytest.approx(second, abs=1e-9)


def test_random_points_and_random_walk() -> None:
    points = random(400, 2000)
    assert curvature(points)[0] == pytest.approx(2 * math.pi / 3, abs=0.01)
    assert curvature(points.cumsum(0))[0] == pytest.approx(math.pi / 2, abs=0.01)


def test_repeated_states_have_no_angle() -> None:
    corner = torch.tensor([[0.0, 0], [1, 0], [1, 0], [2, 0], [2, 1]])
    assert curvature(corner)[0] == pytest.approx(math.pi / 2)
    assert math.isnan(curvature(corner[:2])[0])
    assert all(map(math.isnan, curvature(torch.zeros(5, 2))))


def test_padding_and_merging() -> None:
    model = measuring.tiny("gpt_neox")
    measuring.assert_padding_is_nothing(model, "curvature")
    measuring.assert_merged_is_single(model, "curvature")
