"""What the entries of an axis are, by its name and its coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.result.layers import OTHER

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


def _whole(data: xr.Dataset, dim: str) -> bool:
    return dim in data.coords and data[dim].dtype.kind in "iu"
