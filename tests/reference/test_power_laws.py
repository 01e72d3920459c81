"""Exponents of the default model's weights against the package powerlaw (see the script)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.metrics.projections import projections
from layerlens.metrics.spectra import eigenvalues, fit_power_law

STORED = json.loads(Path(__file__).with_name("power_laws.json").read_text())


def test_weights_of_the_default_model(default_model: ll.LensModel) -> None:
    for place, fit in STORED["fits"].items():
        layer, name = place.split(".")
        parts = {part.name: part for part in projections(default_model, int(layer))}
        (weight,) = parts[name].weights
        with torch.inference_mode():
            law = fit_power_law(eigenvalues(weight))
        assert law.alpha == pytest.approx(fit["alpha"], rel=1e-5), place
        assert law.xmin == pytest.approx(fit["xmin"], rel=1e-5), place
        assert law.distance == pytest.approx(fit["distance"], abs=1e-6), place


def test_drawn_numbers() -> None:
    rng = np.random.default_rng(0)
    drawn = {
        "pareto 2.5": (1 - rng.random(2000)) ** (-1 / 1.5),
        "pareto 4": (1 - rng.random(2000)) ** (-1 / 3),
        "lognormal": rng.lognormal(size=2000),
    }
    for name, values in drawn.items():
        law = fit_power_law(np.sort(values))
        assert law.alpha == pytest.approx(STORED["drawn"][name]["alpha"], rel=1e-6), name
        assert law.xmin == pytest.approx(STORED["drawn"][name]["xmin"], rel=1e-6), name
