"""Which blocks an option means."""

from __future__ import annotations

from typing import Any

from layerlens.errors import InputError
from layerlens.model.integers import wholes


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
        found = sorted({_number(n_layers, layer) for layer in wholes(which, "layers")})
    if not found:
        raise InputError("layers is empty: name at least one block.")
    return found


def _number(n_layers: int, layer: int) -> int:
    if not -n_layers <= layer < n_layers:
        raise InputError(f"Layer {layer} does not exist: the model has layers 0 to {n_layers - 1}.")
    return layer % n_layers
