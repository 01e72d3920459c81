"""Layers that are treated together around each of a sweep's layers."""

from __future__ import annotations

from layerlens.errors import InputError


def window_layers(layer: int, window: int, n_layers: int) -> range:
    """The layers of a window around one, clipped at the ends, as in the code of ROME.

    Raises
    ------
    InputError
        If the window is empty.

    Examples
    --------
    >>> window_layers(7, 10, 30), window_layers(7, 9, 30), window_layers(7, 1, 30)
    (range(2, 12), range(3, 12), range(7, 8))
    """
    if window < 1:
        raise InputError(f"window is {window}; expected at least 1 layer.")
    return range(max(0, layer - window // 2), min(n_layers, layer + (window + 1) // 2))
