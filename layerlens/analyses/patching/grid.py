"""Which part of a run each cell of a patching grid replaces, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.contract.options import nearest
from layerlens.analyses.texts.text_pair import Pair
from layerlens.errors import InputError
from layerlens.model.integers import wholes
from layerlens.model.sites import HEADS, KEY_VALUE, Site, parse_site
from layerlens.run.cell import Cell
from layerlens.run.changes import SQUARE, Change
from layerlens.run.where import editable_sites, row_shapes

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.record import Trace

KINDS = (
    "embed",
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "z",
    "q",
    "k",
    "v",
    "rot_q",
    "rot_k",
    "pattern",
    "mlp_post",
)
"""Sites that can be patched."""

AXES = {
    "position": ("layer", "position"),
    "head": ("layer", "head"),
    "head_position": ("layer", "head", "position"),
    "neuron": ("layer", "neuron"),
}
"""What the cells of a grid are told apart by, to its axes."""

EMBED_LAYER = -1


@dataclass(frozen=True)
class Part:
    """What one cell replaces.

    Attributes
    ----------
    place
        Its place in the grid: axis to index.
    layer, head, neuron
        As numbers of the model; None for all.
    positions
        Positions of the run that is patched.
    """

    place: dict[str, int]
    layer: int
    head: int | None
    neuron: int | None
    positions: tuple[int, ...]


class PatchGrid:
    """The grid of a patching sweep.

    Parameters
    ----------
    site
        One of ``KINDS``, or a name with its layer (and head): ``"z.7.3"``.
    by
        One of ``AXES``; None for heads where the site has heads, else positions.
    layers, heads, neurons
        Numbers, or None for all.
    window
        How many layers, centred on a cell's own, are patched together.

    Attributes
    ----------
    kind, by, axes, layers, heads, neurons
        Resolved; ``heads`` and ``neurons`` are None where no axis tells them apart and all are
        patched.

    Raises
    ------
    InputError
        If an option does not fit.
    SiteError
        If the site does not exist in this model or cannot be changed, with the reason.
    """

    def __init__(
        self,
        model: LensModel,
        site: str,
        by: str | None,
        *,
        layers: Any = None,
        heads: Any = None,
        neurons: Any = None,
        window: int = 1,
    ) -> None:
        named = parse_site(site)
        self.model, self.kind = model, named.kind
        if self.kind not in KINDS:
            raise InputError(f"{site} cannot be patched by a sweep: use {', '.join(KINDS)}.")
        self.by = _by(self.kind, by)
        self.axes = AXES[self.by]
        if layers is None and named.layer is not None:
            layers = [named.layer]
        if heads is None and named.head is not None:
            heads = [named.head]
        self.layers = self._layers(layers)
        self.window = window
        if window < 1 or (window > 1 and self.kind == "embed"):
            raise InputError(f"window is {window}; expected 1 or more layers, and 1 for embed.")
        self.heads = self._heads(heads)
        self.neurons = self._neurons(layers, neurons)

    @classmethod
    def of(cls, model: LensModel, options: Mapping[str, Any]) -> PatchGrid:
        """Make the grid from the options of an analysis, some of which are others'."""
        names = ("layers", "heads", "neurons", "window")
        own = {name: options[name] for name in names if name in options}
        return cls(model, options["site"], options["by"], **own)

    def _layers(self, wanted: Any) -> list[int]:
        if self.kind == "embed":
            return [EMBED_LAYER]
        available = {
            site.layer for site in self.model.anatomy.available() if site.kind == self.kind
        }
        layers = indices("layer", wanted, self.model.n_layers)
        if wanted is None and available:
            layers = [layer for layer in layers if layer in available]
        editable_sites(self.model, self.kind, layers)
        return layers

    def _heads(self, wanted: Any) -> list[int] | None:
        if self.kind not in HEADS:
            if wanted is not None:
                raise InputError(f"{self.kind} has no heads: leave out heads=.")
            return None
        count = max(self.n_heads(layer) for layer in self.layers)
        if wanted is None and "head" not in self.axes:
            return None
        return indices("key-value head" if self.kind in KEY_VALUE else "head", wanted, count)

    def n_heads(self, layer: int) -> int:
        """Heads of the site in a layer; key-value heads for k and v."""
        block = self.model.anatomy.blocks[layer]
        return block.n_kv_heads if self.kind in KEY_VALUE else block.n_heads

    def _neurons(self, layers: Any, wanted: Any) -> list[int] | None:
        if self.by != "neuron":
            if wanted is not None:
                raise InputError("neurons= goes with by='neuron'.")
            return None
        if layers is None and wanted is None:
            raise InputError("by='neuron' has a cell for each neuron: name layers= or neurons=.")
        (width,) = row_shapes(self.model, [Site(self.kind, self.layers[0])]).values()
        return indices("neuron", wanted, width[-1])

    def span(self, layer: int) -> list[int]:
        """The layers that are patched together with one."""
        if self.window == 1:
            return [layer]
        first = max(0, layer - self.window // 2)
        last = min(self.model.n_layers, layer + -(-self.window // 2))
        available = self.model.anatomy.available()
        return [near for near in range(first, last) if Site(self.kind, near) in available]

    @property
    def sites(self) -> list[Site]:
        """The sites to record, all heads."""
        if self.kind == "embed":
            return [Site("embed")]
        layers = sorted({near for layer in self.layers for near in self.span(layer)})
        return [Site(self.kind, layer) for layer in layers]

    def sizes(self) -> dict[str, int]:
        """Lengths of the axes but ``position``."""
        lengths = {"layer": self.layers, "head": self.heads, "neuron": self.neurons}
        return {axis: len(lengths[axis] or []) for axis in self.axes if axis != "position"}

    def coords(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Coordinates of the axes but ``position``."""
        values = {"layer": self.layers, "head": self.heads, "neuron": self.neurons}
        return {
            axis: ((axis,), np.array(values[axis], dtype=np.int32))
            for axis in self.axes
            if axis != "position"
        }

    def parts(self, positions: Sequence[int], columns: Sequence[int]) -> Iterator[Part]:
        """Every cell of the grid, in its order.

        Parameters
        ----------
        positions
            Those that are patched: one a cell, or all of them in each.
        columns
            Their indices along the position axis.
        """
        for row, layer in enumerate(self.layers):
            if self.by == "position":
                for column, position in zip(columns, positions, strict=True):
                    place = {"layer": row, "position": column}
                    yield Part(place, layer, None, None, (position,))
            elif self.by == "neuron":
                for index, neuron in enumerate(self.neurons or []):
                    place = {"layer": row, "neuron": index}
                    yield Part(place, layer, None, neuron, tuple(positions))
            else:
                yield from self._by_head(row, layer, positions, columns)

    def _by_head(
        self, row: int, layer: int, positions: Sequence[int], columns: Sequence[int]
    ) -> Iterator[Part]:
        for index, head in enumerate(self.heads or []):
            if head >= self.n_heads(layer):
                continue
            place = {"layer": row, "head": index}
            if self.by == "head":
                yield Part(place, layer, head, None, tuple(positions))
                continue
            for column, position in zip(columns, positions, strict=True):
                yield Part({**place, "position": column}, layer, head, None, (position,))

    def cell(self, part: Part, pair: Pair, source: Trace) -> Cell:
        """The edits of one cell: values of the source run at the partners of its positions."""
        partners = [pair.partner[position] for position in part.positions]
        if self.kind == "embed":
            return Cell((_change(Site("embed"), part, partners, source),))
        together: list[int | None] = [None] if self.heads is None else [*self.heads]
        heads = together if self.by == "position" else [part.head]
        return Cell(
            tuple(
                _change(Site(self.kind, layer, head), part, partners, source)
                for layer in self.span(part.layer)
                for head in heads
                if head is None or head < self.n_heads(layer)
            )
        )


def site_rows(trace: Trace, site: Site) -> Tensor:
    """Values of a site of one text: ``[position, width]`` or ``[position, head, width]``."""
    values: Tensor = trace[site.whole][0]
    if site.kind in SQUARE:
        values = values.transpose(0, 1)
    return values if site.head is None else values[:, site.head]


def _change(site: Site, part: Part, partners: Sequence[int | None], source: Trace) -> Change:
    values = site_rows(source, site)[[p for p in partners if p is not None]]
    neurons = None if part.neuron is None else (part.neuron,)
    if part.neuron is not None:
        values = values[:, part.neuron : part.neuron + 1]
    return Change(site, "set", values, part.positions, neurons=neurons)


def _by(kind: str, by: str | None) -> str:
    if by is None:
        return "head" if kind in HEADS else "position"
    if by not in AXES:
        raise nearest(by, list(AXES), "by")
    if "head" in by and kind not in HEADS:
        raise InputError(f"{kind} has no heads: use by='position', or site='z' for heads.")
    if by == "neuron" and kind != "mlp_post":
        raise InputError(f"{kind} has no neurons: use site='mlp_post' with by='neuron'.")
    return by


def indices(what: str, wanted: Any, count: int) -> list[int]:
    """Numbers from None (all), a number, a slice or a list; negative ones count from the end.

    Raises
    ------
    InputError
        If one does not exist, or none is left.
    """
    if wanted is None or isinstance(wanted, slice):
        found = list(range(count))[wanted or slice(None)]
    else:
        given = wholes(wanted, f"a {what}")
        for number in given:
            if not -count <= number < count:
                raise InputError(
                    f"There is no {what} {number}: the model has {count} (0 to {count - 1})."
                )
        found = sorted({number % count for number in given})
    if not found:
        raise InputError(f"No {what} was chosen by {wanted!r}: ask for at least one.")
    return found
