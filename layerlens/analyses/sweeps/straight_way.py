"""Derivatives along a straight way between two activations: at how many places, and where."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

INSIDE = 24
"""States that a block keeps of each token for its way back, about."""
FEWEST, TIMES = 16, 4
"""Places at first, and how many times as many where they were not enough."""
WITHIN = 0.01
"""Share of what is divided by which the parts may miss it."""


def places(steps: int) -> tuple[Tensor, Tensor]:
    """Shares of the way and their weights, ``[steps]`` float64 each: nodes of Gauss-Legendre.

    Examples
    --------
    >>> shares, weights = places(2)
    >>> round(float((weights * shares**3).sum()), 9)  # the integral of x ** 3 from 0 to 1
    0.25
    """
    nodes, sizes = np.polynomial.legendre.leggauss(steps)
    return torch.tensor((nodes + 1) / 2), torch.tensor(sizes / 2)
