"""Views whose rows are the points of a lens: which row is looked at, and its layer beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets as t

from layerlens.views.live import LiveView

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


class PointRows(LiveView):
    """Base of views of a lens; `row` and `layer` follow each other."""

    row = t.Int(-1, help="Index of the lens point that is looked at; -1: the last.").tag(sync=True)
    layer = t.Int(-1, help="Layer of that point, for linking views; -1: the embedding.").tag(
        sync=True
    )

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        self._row_given = "row" in keywords or "layer" in keywords
        super()._open(model, inputs, keywords)

    def _layers(self) -> list[int]:
        return list(self._shown_meta.get("layers", []))

    @t.validate("row")
    def _valid_row(self, proposal: Any) -> int:
        row, count = int(proposal["value"]), len(self._layers())
        return max(row, -1) if count == 0 else min(row if row >= 0 else count - 1, count - 1)

    @t.observe("row")
    def _row_changed(self, change: Any) -> None:
        self._row_given = True  # before the first picture, too
        layers = self._layers()
        if layers:
            self.layer = layers[self.row]

    @t.observe("layer")
    def _layer_changed(self, change: Any) -> None:
        self._row_given = True
        layers = self._layers()
        if not layers or layers[self.row] == self.layer:
            return
        nearest = min(layers, key=lambda layer: (abs(layer - self.layer), -layer))
        row = len(layers) - 1 - layers[::-1].index(nearest)
        if "layer" in self._property_lock:  # the page that moved the layer finds the row itself
            self._property_lock["row"] = row
        self.row = row
        self.layer = nearest

    def _follow_meta(self) -> None:
        """Keep the row inside the new picture, and beside the layer."""
        layers = self._layers()
        if not layers:
            return
        if not self._row_given:
            self.row, self._row_given = len(layers) - 1, True
            self.layer = layers[-1]
        elif self.row >= 0 and self.row < len(layers) and layers[self.row] == self.layer:
            pass
        elif self.row >= 0 and self.layer == -1:
            self.row = min(self.row, len(layers) - 1)
            self.layer = layers[self.row]
        else:
            self._layer_changed(None)


def valid_pin(pin: Any, limit: int | None) -> dict[str, int]:
    """Return a pin of a lens that can be followed; `limit` is the size of the vocabulary."""
    position, token = pin.get("position"), pin.get("id")
    whole = isinstance(position, int) and isinstance(token, int)
    if not whole or position < -1 or token < 0 or (limit is not None and token >= limit):
        raise t.TraitError(
            f"A pin is {{'position': int, 'id': int}} with a token of the vocabulary, not {pin!r}."
        )
    return {"position": position, "id": token}
