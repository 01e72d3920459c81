"""Where the entries of an axis of numbers stand along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr

_EVEN = 1.001  # by so much steps may differ that only rounding tells apart
_UNEVEN = 30  # steps of which the smallest could not be seen beside the largest
_COUNTED = frozenset(
    {"layer", "head", "position", "query", "key"}
)  # in order, whatever is left out


def spots(values: np.ndarray) -> np.ndarray | None:
    """Return where numbers stand along an axis; None where their order shows it as well.

    Each stands at itself, and by the logarithm of its distance from 0 where they span decades, as
    in the live views (js/src/marks/places.ts).

    Parameters
    ----------
    values : numpy.ndarray
        ``[n]``, numbers.

    Returns
    -------
    numpy.ndarray or None
        ``[n]``, float64; None where numbers do not rise, or rise by even steps.

    Examples
    --------
    >>> import numpy as np
    >>> spots(np.array([-4.0, -1.0, 0.0, 1.0, 4.0]))
    array([-4., -1.,  0.,  1.,  4.])
    >>> spots(np.array([0.0, 0.5, 1.0])) is None
    True
    """
    numbers = values.astype(np.float64)
    steps = np.diff(numbers)
    if steps.size < 1 or not (steps > 0).all() or steps.max() <= _EVEN * steps.min():
        return None
    if steps.max() < _UNEVEN * steps.min():
        return numbers
    sizes = np.abs(numbers)
    spread: np.ndarray = np.sign(numbers) * np.log1p(sizes / sizes[sizes > 0].min())
    return spread


def places_of(data: xr.Dataset | xr.DataArray, dim: str) -> np.ndarray:
    """Return where the entries of an axis stand: at their numbers, else one beside the other.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataArray
        What has the axis.
    dim : str
        Its name.

    Returns
    -------
    numpy.ndarray
        ``[n]``, float64.

    Examples
    --------
    >>> import xarray as xr
    >>> places_of(xr.DataArray([1, 2, 3], dims="dose", coords={"dose": [0, 1, 4]}), "dose")
    array([0., 1., 4.])
    """
    even = np.arange(data.sizes[dim], dtype=np.float64)
    if dim in _COUNTED or dim not in data.coords or data[dim].dtype.kind not in "iuf":
        return even
    found = spots(data[dim].values)
    return even if found is None else found
