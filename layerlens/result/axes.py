"""What the entries of an axis are, by its name and its coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.result.layers import OTHER, RUN

if TYPE_CHECKING:
    import xarray as xr

_LAYERS = frozenset(
    {"layer", "layer_other", "other_layer", "point", "point_other", "skipped", "source", "target"}
)
"""Axes whose whole numbers are layers."""

_POSITIONS = frozenset({"position", "query", "key"})
"""Axes along which tokens of a text lie."""


def role_of(data: xr.Dataset, dim: str) -> str:
    """Return what the entries of an axis are: ``layer``, ``head``, ``position`` or ""."""
    if f"{dim}_layer" in data.coords:
        return "layer"
    own = dim.removeprefix(OTHER)
    if own in _LAYERS and (own.startswith("point") or _whole(data, dim)):
        return "layer"
    if own in _POSITIONS:
        return "position"
    return "head" if own == "head" else ""


def is_named(data: xr.Dataset, dim: str) -> bool:
    """Return whether entries are things with names, in no order that a line could follow.

    Moments of a training, states between layers and tokens have names too, and follow each other.

    Examples
    --------
    >>> import xarray as xr
    >>> data = xr.Dataset(coords={"module": ["0", "1"], "dose": [0.0, 0.5]})
    >>> is_named(data, "module"), is_named(data, "dose")
    (True, False)
    """
    own = dim.removeprefix(OTHER)
    known = dim in data.coords and data[dim].dtype.kind in "UO"
    return known and own != RUN and not role_of(data, dim)


def _whole(data: xr.Dataset, dim: str) -> bool:
    return dim in data.coords and data[dim].dtype.kind in "iu"
