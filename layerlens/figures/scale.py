"""Where the colours of numbers begin and end: the rules of the live views (js/src/theme/scale)."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import Normalize

_SLIGHT = 0.1
"""Numbers on the other side of 0, below this share of the largest, get no colours of their own;
`past` marks them."""


def range_scale(values: np.ndarray) -> tuple[Normalize, str]:
    """Return the norm and the colour map of numbers whose range is only known from them.

    To round ends, from 0 unless all lie far from it, and diverging where there are numbers on both
    sides.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low < -_SLIGHT * high:
        end = _up(max(-low, high), _step(max(-low, high)))
        return Normalize(-end, end), "signed"
    most = high if high > 0 else 1.0
    far = 0.5 * most < low
    step = _step(most - low if far and low < most else most)
    start = math.floor(low / step) * step if far else 0.0
    return Normalize(start, max(start + step, _up(most, step))), "viridis"


def signed_scale(values: np.ndarray, limit: float) -> tuple[Normalize, str]:
    """Return the norm and the colour map of an effect: 0 is the page, and no half of it is idle."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= -_SLIGHT * limit:
        return Normalize(0.0, limit), "base"
    if high <= _SLIGHT * limit:
        return Normalize(-limit, 0.0), "negative"
    return Normalize(-limit, limit), "signed"


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, so that about four fit into a span."""
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _up(value: float, step: float) -> float:
    return math.ceil(value / step - 1e-6) * step
