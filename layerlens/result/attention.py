"""What a result of ``ll.attention`` holds, by part, weighting and layer.

A *part* is attention of one kind of layer between two rows of tokens. A decoder has one, called
``self``; an encoder-decoder has three. The names of the first part's variables, axes and
coordinates are plain (``pattern``, ``layer``, ``query``); those of the second begin with
``part1_`` and so on, those of a second text or model beside the first with ``other_``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.errors import ResultError

if TYPE_CHECKING:
    import xarray as xr

OTHER = "other_"

WEIGHTINGS = {
    "pattern": "pattern",
    "value": "value_weighted",
    "norm": "norm_weighted",
    "scores": "scores",
}
"""Name of a weighting to the variable that holds it."""


def prefix_of(index: int) -> str:
    """Return what the names of a part begin with."""
    return f"part{index}_" if index else ""


class AttentionData:
    """Reads the data of a result of one text.

    Parameters
    ----------
    data : xarray.Dataset
        Without a ``batch`` axis.

    Attributes
    ----------
    parts : list of str
        Names of the parts.
    weightings : list of str
        Those that were computed.
    beside : bool
        Whether there is a second text or model.
    """

    def __init__(self, data: xr.Dataset) -> None:
        self.data = data
        self.parts: list[str] = json.loads(data.attrs.get("parts", '["self"]'))
        self.weightings = [name for name, held in WEIGHTINGS.items() if held in data.data_vars]
        self.beside = f"{OTHER}pattern" in data.data_vars
        if "pattern" not in self.weightings:
            raise ResultError("This result holds no attention: it has no variable 'pattern'.")

    def prefix(self, part: str = "self", *, other: bool = False) -> str:
        """Return what the names of a part, or of what lies beside, begin with.

        Raises
        ------
        ResultError
            There is no such part, or nothing beside.
        """
        if part not in self.parts:
            raise ResultError(f"There is no part '{part}'; there are {', '.join(self.parts)}.")
        if not other:
            return prefix_of(self.parts.index(part))
        if not self.beside:
            raise ResultError("Nothing lies beside this attention: give other= a text or a model.")
        return OTHER

    def layers(self, part: str = "self", *, other: bool = False) -> list[int]:
        """Return the numbers of the layers."""
        found = self.data[f"{self.prefix(part, other=other)}layer"].values
        return [int(layer) for layer in found]

    def square(
        self, layer: int, weighting: str = "pattern", part: str = "self", *, other: bool = False
    ) -> np.ndarray:
        """Return the weights of a layer, ``[head, query, key]`` float32.

        Raises
        ------
        ResultError
            There is no such layer or weighting.
        """
        prefix = self.prefix(part, other=other)
        if weighting not in self.weightings:
            raise ResultError(
                f"There is no weighting '{weighting}' in it; there are "
                f"{', '.join(self.weightings)}."
            )
        layers = self.layers(part, other=other)
        if layer not in layers:
            raise ResultError(f"There is no layer {layer}; there are {layers}.")
        held = self.data[prefix + WEIGHTINGS[weighting]]
        values: np.ndarray = held.isel({f"{prefix}layer": layers.index(layer)}).values
        return values

    def coords(self) -> dict[str, Any]:
        """Return every coordinate by its name."""
        return {str(name): values.values for name, values in self.data.coords.items()}
