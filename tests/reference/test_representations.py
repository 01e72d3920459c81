"""CKA, entropy and intrinsic dimension against other packages (see the script beside)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from layerlens.metrics.base import ModelShape
from layerlens.metrics.cka import Cka
from layerlens.metrics.entropy import EffectiveRank
from layerlens.metrics.intrinsic import squared_distances, two_nn
from layerlens.metrics.textmeans import TextStates

STORED = json.loads(Path(__file__).with_name("representations.json").read_text())
KINDS = ("gaussian", "curved", "clusters")


def states(kind: str) -> np.ndarray:
    """The inputs of the script."""
    random = np.random.default_rng(0)
    if kind == "gaussian":
        return random.normal(size=(300, 8))
    if kind == "curved":
        turn, height = random.uniform(1.5, 4.5, 400) * np.pi, random.uniform(0, 20, 400)
        roll = np.stack([turn * np.cos(turn), height, turn * np.sin(turn)], -1)
        return roll @ random.normal(size=(3, 10))
    return 5 * random.normal(size=(6, 30))[np.arange(300) % 6] + random.normal(size=(300, 30))


@pytest.mark.parametrize("batch", [300, 60])
def test_cka(batch: int) -> None:
    gaussian, clusters = states("gaussian"), states("clusters")
    mixed = np.tanh(gaussian @ np.random.default_rng(1).normal(size=(8, 12)))
    metric = Cka(ModelShape(1, 1, 8, 9), sample=300, batch=batch)
    one = torch.from_numpy(gaussian)[:, None]
    for name, other in (("mixed", mixed), ("clusters", clusters)):
        found = metric.between(one, torch.from_numpy(other)[:, None])[0, 0]
        expected = STORED["cka"][str(batch)][f"gaussian, {name}"]
        assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_effective_rank(kind: str) -> None:
    rows = torch.from_numpy(states(kind)[:100])
    found = EffectiveRank(ModelShape(1, 1, rows.shape[1], 9)).measure(TextStates(rows[None]))[0]
    assert found == pytest.approx(STORED["effective_rank"][kind], rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_intrinsic_dimension(kind: str) -> None:
    found = two_nn(squared_distances(torch.from_numpy(states(kind))))
    assert found == pytest.approx(STORED["intrinsic_dimension"][kind], rel=1e-8)
