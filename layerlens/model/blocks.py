"""Which blocks an option means."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

from layerlens.errors import InputError


def find_layers(n_layers: int, which: Any) -> list[int]:
    """Numbers of the blocks that are meant; see ``LensModel.layers``.

    Examples
    --------
    >>> find_layers(4, [-1, 0])
    [0, 3]
    >>> find_layers(4, slice(2, None))
    [2, 3]
    """
    if which is None or isinstance(which, slice):
        found = sorted(range(n_layers)[which or slice(None)])
    else:
        several = isinstance(which, Iterable) and not isinstance(which, str)
        found = sorted({_number(n_layers, one) for one in (which if several else [which])})
    if not found:
        raise InputError("layers is empty: name at least one block.")
    return found


def _number(n_layers: int, layer: Any) -> int:
    if isinstance(layer, bool) or not hasattr(layer, "__index__"):
        raise InputError(
            f"{layer!r} is no layer: give numbers from 0 to {n_layers - 1}, or None for all."
        )
    if not -n_layers <= index(layer) < n_layers:
        raise InputError(f"Layer {layer} does not exist: the model has layers 0 to {n_layers - 1}.")
    return index(layer) % n_layers
