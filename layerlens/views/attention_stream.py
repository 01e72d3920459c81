"""The attention of one run, as a page asks for it: layer by layer, when it is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.export.attention_slices import Key, Slice, encode, slice_of
from layerlens.result.attention import OTHER, WEIGHTINGS
from layerlens.views.frames import Stream

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from layerlens.analyses.contract.parts import Coords


class AttentionStream(Stream):
    """Frames that carry what heads do, and the slices of weights that are there beside them.

    A layer is encoded when it is finished, an eighth of its size, so that pages can ask for it
    while the run goes on; the weights themselves are in the result when it ends.

    Attributes
    ----------
    data : xarray.Dataset or None
        The data of the result of one text, when the run has ended.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.data: xr.Dataset | None = None
        self._slices: dict[Key, Slice] = {}
        self._layers: dict[str, list[int]] = {}

    def declare(self, sizes: Mapping[str, int], coords: Coords) -> None:
        """Learn which layers there are."""
        super().declare(sizes, coords)
        names = {prefix: f"{prefix}layer" for prefix in ("", OTHER)}
        self._layers = {
            prefix: [int(layer) for layer in coords[name][1]]
            for prefix, name in names.items()
            if name in coords
        }

    def put(self, where: Mapping[str, int | slice], arrays: Mapping[str, np.ndarray]) -> None:
        """Take a finished layer."""
        super().put(where, arrays)
        for prefix, layers in self._layers.items():
            index = where.get(f"{prefix}layer")
            if not isinstance(index, int):
                continue
            for name, held in WEIGHTINGS.items():
                if prefix + held in arrays:
                    key = Key(layers[index], "self", name, bool(prefix))
                    self._slices[key] = encode(arrays[prefix + held], blank=name == "scores")

    def hold(self, data: xr.Dataset) -> None:
        """Keep the data of the result, of which exact rows are."""
        self.data = data

    def get(self, key: Key) -> Slice | None:
        """Return a slice; None where its layer is not finished.

        Raises
        ------
        ResultError
            There is no such layer, part or weighting.
        """
        found = self._slices.get(key)
        if found is None and self.data is not None:
            found = slice_of(self.data, key)
            if found is not None:
                self._slices[key] = found
        return found
