"""A toy to measure with, and texts of its words."""

from __future__ import annotations

import random

import pytest

import layerlens as ll
from layerlens.model.lensmodel import LensModel

ANIMALS = ["cat", "owl", "fox", "bee", "ant", "dog", "hen", "ox", "pig", "rat"]


@pytest.fixture(scope="module")
def toy() -> LensModel:
    return ll.load("toy:induction", prove=False)


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices(ANIMALS, k=rng.randint(3, 40))) for _ in range(120)]
