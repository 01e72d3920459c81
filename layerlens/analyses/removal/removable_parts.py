"""The parts of a model that can be removed one by one, and what is put in their place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError
from layerlens.model.integers import wholes
from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.where import row_shapes

if TYPE_CHECKING:
    from layerlens.analyses.sweeps.cell_sweep import Place
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.base import Base

KINDS = {
    "head": "z",
    "layer": "resid_post",
    "attn": "attn_out",
    "mlp": "mlp_out",
    "neuron": "mlp_post",
}
"""Unit to the site that holds its output; of a layer, what it adds to the stream is meant."""


@dataclass(frozen=True)
class Unit:
    """One part that is removed."""

    layer: int
    index: int | None
    place: Place


class Units:
    """All units of one kind, in chosen layers.

    Parameters
    ----------
    unit
        ``head``, ``layer``, ``attn``, ``mlp`` or ``neuron``.
    layers
        Numbers of the layers.
    neurons
        Numbers of the neurons; None for all.

    Attributes
    ----------
    layers
        Those that have such a part.
    axis
        The axis beside ``layer``, and its values; empty without one.

    Raises
    ------
    InputError
        For an unknown unit, or neurons that do not exist.
    SiteError
        If no layer has such a part.
    """

    def __init__(
        self, model: LensModel, unit: str, layers: Sequence[int], neurons: Sequence[int] | None
    ) -> None:
        if unit not in KINDS:
            raise nearest(unit, list(KINDS), "unit of ablate_sweep:")
        self.model, self.unit, self.kind = model, unit, KINDS[unit]
        taps = [model.anatomy.blocks[layer].taps for layer in layers]
        self.layers = [layer for layer, tap in zip(layers, taps, strict=True) if self.kind in tap]
        if not self.layers:
            model.anatomy.tap(Site(self.kind, layers[0]))  # raises, and says why
        self.axis: dict[str, list[int]] = {}
        self._counts = {layer: model.anatomy.blocks[layer].n_heads for layer in self.layers}
        if unit == "head":
            self.axis = {"head": list(range(model.n_heads))}
        elif unit == "neuron":
            shapes = row_shapes(model, [Site(self.kind, layer) for layer in self.layers])
            self._counts = {site.block: shape[-1] for site, shape in shapes.items()}
            self.axis = {"neuron": _asked(max(self._counts.values()), neurons)}

    def __iter__(self) -> Iterator[Unit]:
        """Every unit, layer by layer."""
        for row, layer in enumerate(self.layers):
            if not self.axis:
                yield Unit(layer, None, {"layer": row})
            for name, values in self.axis.items():
                for place, index in enumerate(values):
                    if index < self._counts[layer]:
                        yield Unit(layer, index, {"layer": row, name: place})

    def gaps(self) -> Iterator[Place]:
        """Places of the grid where a layer has no such unit."""
        for row, layer in enumerate(self.layers):
            for name, values in self.axis.items():
                for place, index in enumerate(values):
                    if index >= self._counts[layer]:
                        yield {"layer": row, name: place}

    def output(self, trace_of: Any, layer: int) -> Tensor:
        """What the units of a layer put out in a recorded run: ``[position, (unit,) width]``."""
        value: Tensor = trace_of[Site(self.kind, layer)][0]
        before: Tensor | None = trace_of[Site("resid_pre", layer)] if self.unit == "layer" else None
        return value if before is None else value - before[0]

    def change(self, unit: Unit, base: Base, value: Tensor | float, where: Sequence[int]) -> Change:
        """Put ``value`` in place of a unit's output.

        Parameters
        ----------
        value
            A number, or ``[position or 1, (head,) width]`` for the whole layer.
        where
            Positions.
        """
        columns = tuple(where)
        site, neurons = Site(self.kind, unit.layer), None
        new: Tensor | float = value
        if self.unit == "layer":
            before = base.state(unit.layer)[list(columns)]
            new = before if isinstance(value, float) else before + value
        elif self.unit == "head":
            site = Site(self.kind, unit.layer, unit.index)
            new = value if isinstance(value, float) else value[:, unit.index]
        elif self.unit == "neuron":
            assert unit.index is not None
            neurons = (unit.index,)
            new = value if isinstance(value, float) else value[:, [unit.index]]
        return Change(site, "set", new, positions=columns, neurons=neurons)

    def sites(self) -> list[Site]:
        """Everything that has to be recorded of a run."""
        found = [Site(self.kind, layer) for layer in self.layers]
        if self.unit == "layer":
            found += [Site("resid_pre", layer) for layer in self.layers]
        return found


def _asked(width: int, asked: Sequence[int] | None) -> list[int]:
    if asked is None:
        return list(range(width))
    given = wholes(asked, "neurons")
    for neuron in given:
        if not 0 <= neuron < width:
            raise InputError(f"Neuron {neuron} does not exist: there are 0 to {width - 1}.")
    return sorted(given)
