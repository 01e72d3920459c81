"""Transcoders whose features write into several layers: where each decoder lies.

Each layer has an encoder, and a decoder for itself and every later layer that was learned with it:
what is written into a layer is the sum over the features of all layers up to it (Ameisen et al.,
2025, Circuit Tracing). The decoders past a layer's own lie in one array, ``W_dec_later``: first
those of the first layer, for each later layer in turn, then those of the second.
"""

from __future__ import annotations

LATER = "W_dec_later"


def later_of(place: int, layers: int) -> slice:
    """Where the decoders past its own of a layer lie.

    Parameters
    ----------
    place
        The layer, counted among those that were learned together.
    layers
        How many these are.

    Examples
    --------
    >>> [later_of(place, 3) for place in range(3)]
    [slice(0, 2, None), slice(2, 3, None), slice(3, 3, None)]
    """
    start = sum(layers - 1 - one for one in range(place))
    return slice(start, start + layers - 1 - place)
