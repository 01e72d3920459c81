"""Voids: the worked example of the method, and against a loop over tokens."""

from __future__ import annotations

import itertools

import measuring
import numpy as np
import pytest
import torch

from layerlens.metrics.voids import VoidRule


def mask(norms: list[float], alpha: float) -> list[bool]:
    """Which layers are void for one token, by the definition alone."""
    gains = np.diff(norms)
    found = []
    for layer, gain in enumerate(gains):
        before = gains[:layer]
        found.append(bool(gain < (alpha * np.ptp(before) if layer else 0.0)))
    return found


def test_the_worked_example() -> None:
    rule = VoidRule(0.8)
    norms = [10.0, 12.0, 13.0, 20.0, 21.0]
    gains = [torch.tensor([b - a]) for a, b in itertools.pairwise(norms)]
    assert [bool(rule(gain)) for gain in gains] == [False, False, False, True]
    assert mask(norms, 0.8) == [False, False, False, True]


@pytest.mark.parametrize("family", measuring.FAMILIES)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8])
def test_against_a_loop(family: str, alpha: float) -> None:
    model = measuring.tiny(family)
    found = measuring.measure(model, "voids", size=1, options={"voids": {"alpha": alpha}})
    masks = []
    for text in measuring.TEXTS:
        norms = torch.stack([h.norm(dim=-1) for h in measuring.states(model, text)], -1)
        masks += [mask(row, alpha) for row in norms[1:].double().tolist()]
    np.testing.assert_allclose(found["voids"], np.mean(masks, 0))


def test_growing_gains_are_no_voids() -> None:
    """Gains that only increase reach every earlier range."""
    model = measuring.planted(8, [lambda h, s=s: h * s for s in (1.1, 1.3, 1.6, 2.0)])
    assert (measuring.measure(model, "voids")["voids"] == 0).all()


def test_a_larger_alpha_finds_more() -> None:
    model = measuring.tiny("llama")
    shares = [
        measuring.measure(model, "voids", options={"voids": {"alpha": a}})["voids"]
        for a in (0.0, 0.5, 1.0)
    ]
    assert all((more >= less).all() for less, more in itertools.pairwise(shares))
