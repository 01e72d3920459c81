"""Collect the parts of an answer into arrays, and know which cells are still missing."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from layerlens.result.strings import any_string

Where = Mapping[str, "int | slice"]
"""Axis name to index or slice; axes that are not named are whole."""

Coords = Mapping[str, tuple[tuple[str, ...], Any]]


@dataclass(frozen=True)
class Variable:
    """One array of an answer.

    Parameters
    ----------
    dims
        Axis names; one that ends in ``?`` is there only where it is declared. A leading
        ``batch`` is added when several texts were given, unless it is a ``summary``.
    dtype
        NumPy dtype name.
    units
        Unit, "1" for pure numbers.
    long_name
        What it is, in words for an axis title.
    missing
        Value of cells that were not computed: NaN in floats; for integers one that cannot occur.
    is_token
        Whether the values are token ids, whose display strings are stored beside the data.
    summary
        Whether it sums up several texts: it has no ``batch`` axis, and exists only where
        several were given.
    source, formula
        Where the method comes from and its definition, where the variables of one analysis
        differ in them.
    signed
        Whether its numbers lie on both sides of 0, which then is the middle of their colours.
    unclipped
        Whether a chart has room for all of its numbers, where a few lie far off the others: they
        are what it is about.
    hidden
        Whether no picture shows it: it is there to compute with.
    of_input
        Whether it says something of what goes in, so that a picture of one depth at a time begins
        at the first.
    """

    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str
    missing: float = -1
    is_token: bool = False
    summary: bool = False
    source: str = ""
    formula: str = ""
    signed: bool = False
    unclipped: bool = False
    hidden: bool = False
    of_input: bool = False

    @property
    def fill(self) -> float:
        """The value that marks a missing cell."""
        return float("nan") if np.dtype(self.dtype).kind == "f" else self.missing

    def axes(self, sizes: Container[str]) -> tuple[str, ...] | None:
        """Its axes, without ``batch``, given those that were declared; None if one lacks."""
        found = tuple(axis.rstrip("?") for axis in self.dims if axis.rstrip("?") in sizes)
        needed = [axis for axis in self.dims if not axis.endswith("?")]
        return found if all(axis in sizes for axis in needed) else None


def with_interval(name: str, variable: Variable, over: str = "texts") -> dict[str, Variable]:
    """A variable and the two ends of its 95 % interval.

    Parameters
    ----------
    name
        Of the variable; the ends are called like it, with ``_low`` and ``_high``.
    over
        What was drawn anew for the interval.

    Examples
    --------
    >>> list(with_interval("kl", Variable(("layer",), "float64", "nats", "KL divergence")))
    ['kl', 'kl_low', 'kl_high']
    """
    ends = {
        name + end: replace(
            variable, long_name=f"{variable.long_name}, {side} end of the 95 % interval over {over}"
        )
        for end, side in (("_low", "lower"), ("_high", "upper"))
    }
    return {name: variable, **ends}


class Parts:
    """Arrays that are filled part by part.

    Parameters
    ----------
    variables
        By name; those with an axis that ``sizes`` lacks are left out.
    sizes
        Length of each axis.
    coords
        Name to (axes, values).
    batched
        Whether every variable gets a leading ``batch`` axis.
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        sizes: Mapping[str, int],
        coords: Coords,
        *,
        batched: bool,
    ) -> None:
        self.sizes = dict(sizes)
        self.coords = dict(coords)
        self.variables: dict[str, Variable] = {}
        self.dims: dict[str, tuple[str, ...]] = {}
        for name, variable in variables.items():
            axes = variable.axes(sizes)
            if axes is not None and (batched or not variable.summary):
                lead = ("batch",) if batched and not variable.summary else ()
                self.variables[name], self.dims[name] = variable, lead + axes
        self.arrays: dict[str, np.ndarray] = {}
        self._seen: dict[str, np.ndarray] = {}
        for name, variable in self.variables.items():
            shape = tuple(sizes[axis] for axis in self.dims[name])
            self.arrays[name] = np.full(shape, variable.fill, dtype=variable.dtype)
            self._seen[name] = np.zeros(shape, dtype=bool)

    def put(self, where: Where, arrays: Mapping[str, np.ndarray]) -> None:
        """Store a part; an axis given by an int is absent from the arrays."""
        for name, array in arrays.items():
            index = tuple(where.get(axis, slice(None)) for axis in self.dims[name])
            self.arrays[name][index] = array
            self._seen[name][index] = True

    def shorten(self, axis: str, length: int) -> None:
        """Leave only the first ``length`` places of an axis."""
        for name, dims in self.dims.items():
            here = tuple(slice(length) if dim == axis else slice(None) for dim in dims)
            self.arrays[name], self._seen[name] = self.arrays[name][here], self._seen[name][here]
        for name, (dims, values) in self.coords.items():
            if axis in dims:
                cut = np.take(np.asarray(values), range(length), dims.index(axis))
                self.coords[name] = (dims, cut)
        self.sizes[axis] = length

    @property
    def begun(self) -> bool:
        """Whether any part was stored."""
        return any(seen.any() for seen in self._seen.values())

    def missing(self) -> dict[str, list[Any]]:
        """For each unfinished variable, the labels along its first axis where a part is missing.

        The first axis is the one after ``batch``; a variable of no axis at all has no label.
        """
        gaps: dict[str, list[Any]] = {}
        for name, seen in self._seen.items():
            if seen.all():
                continue
            axes = [axis for axis in self.dims[name] if axis != "batch"] or list(self.dims[name])
            if not axes:
                gaps[name] = []
                continue
            kept = self.dims[name].index(axes[0])
            absent = ~seen.all(axis=tuple(i for i in range(seen.ndim) if i != kept))
            labels = self._labels(axes[0])
            gaps[name] = [labels[i] for i in np.flatnonzero(absent)]
        return gaps

    def _labels(self, axis: str) -> list[Any]:
        if axis in self.coords:
            return list(np.asarray(self.coords[axis][1]).tolist())
        return list(range(self.sizes[axis]))

    def token_ids(self) -> set[int]:
        """Every token id that occurs in the arrays."""
        found: set[int] = set()
        for name, variable in self.variables.items():
            if variable.is_token:
                found.update(np.unique(self.arrays[name]).tolist())
        return {i for i in found if i >= 0}

    def dataset(self, attributes: Mapping[str, Any]) -> xr.Dataset:
        """Label the arrays."""
        data: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]] = {}
        for name, variable in self.variables.items():
            about: dict[str, Any] = {
                "long_name": variable.long_name,
                "units": variable.units,
            }
            for detail in ("source", "formula"):
                if words := getattr(variable, detail):
                    about[detail] = words
            if np.dtype(variable.dtype).kind in "iu":
                about["missing"] = variable.missing
            flags = ("is_token", "signed", "unclipped", "hidden", "of_input")
            about |= {flag: 1 for flag in flags if getattr(variable, flag)}
            data[name] = (self.dims[name], self.arrays[name], about)
        coords = {name: (dims, np.asarray(values)) for name, (dims, values) in self.coords.items()}
        with any_string():
            return xr.Dataset(data, coords=coords, attrs=dict(attributes))
