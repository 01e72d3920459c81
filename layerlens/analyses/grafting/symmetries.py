"""What in a model can be put in another order and leaves what it computes as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layerlens.errors import InputError
from layerlens.metrics.projections import Projection, projections
from layerlens.model.block_weights import parameters_of, parameters_outside
from layerlens.model.evidence import error, limit
from layerlens.run.forward import forward
from layerlens.run.pointed import pointed

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

SYMMETRIES = ("neurons", "heads", "values", "stream")
"""Neurons of an MLP; attention heads; channels that v and the output have within a head; channels
of the residual stream."""
READS, WRITES = ("q", "k", "v", "gate", "up"), ("o", "down")
"""Projections out of the stream, and into it."""


@dataclass(frozen=True, eq=False)
class Slot:
    """Where units stand along one axis of a parameter.

    Attributes
    ----------
    name
        Of the parameter, in the model.
    index
        ``[unit, entry]``: the numbers along the axis ``dim`` that belong to each unit.
    """

    name: str
    dim: int
    index: Tensor

    def rows(self, numbers: Tensor) -> Tensor:
        """``[unit, the rest]`` of the parameter's numbers, float32."""
        chosen = numbers.index_select(self.dim, self.index.flatten().to(numbers.device))
        return chosen.movedim(self.dim, 0).float().reshape(len(self.index), -1)

    def reordered(self, numbers: Tensor, order: Tensor) -> Tensor:
        """A copy of the numbers in which unit ``order[i]`` stands at place ``i``."""
        old, new = (x.flatten().to(numbers.device) for x in (self.index[order], self.index))
        return numbers.index_copy(self.dim, new, numbers.index_select(self.dim, old))


@dataclass(frozen=True, eq=False)
class Units:
    """Units that may change places with each other, in all their slots at once.

    Attributes
    ----------
    kind
        One of :data:`SYMMETRIES`.
    layer
        None for the stream.
    slots
        Where they stand.
    shared
        Where what several of them share stands: a key-value head, with the query heads that use
        it, changes places as a whole. Empty where nothing is shared.
    """

    kind: str
    layer: int | None
    slots: tuple[Slot, ...]
    shared: tuple[Slot, ...] = ()

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.slots[0].index)

    @property
    def groups(self) -> int:
        """How many things are shared; as many as units where nothing is."""
        return len(self.shared[0].index) if self.shared else self.count

    def of_groups(self, order: Tensor) -> Tensor:
        """The order of what is shared, from that of the units."""
        size = self.count // self.groups
        return order[::size] // size

    def drawn(self, random: torch.Generator) -> Tensor:
        """A random order that is allowed."""
        size = self.count // self.groups
        inside = torch.stack([torch.randperm(size, generator=random) for _ in range(self.groups)])
        first = torch.randperm(self.groups, generator=random)[:, None] * size
        return (first + inside).flatten()

    def reorder(self, numbers: dict[str, Tensor], order: Tensor) -> None:
        """Put units (and what they share) in another order, in every parameter of ``numbers``."""
        for slot in self.slots:
            numbers[slot.name] = slot.reordered(numbers[slot.name], order)
        for slot in self.shared:
            numbers[slot.name] = slot.reordered(numbers[slot.name], self.of_groups(order))


def symmetries(align: str | Sequence[str] | None) -> tuple[str, ...]:
    """Kinds of units that an option names: one, several, ``"all"``, or None for none.

    Raises
    ------
    InputError
        A name is none of :data:`SYMMETRIES`.

    Examples
    --------
    >>> symmetries(["heads", "neurons"])
    ('neurons', 'heads')
    """
    named: tuple[str, ...] = (align,) if isinstance(align, str) else tuple(align or ())
    if named == ("all",):
        return SYMMETRIES
    for name in named:
        if name not in SYMMETRIES:
            raise InputError(
                f"align has {name!r}; expected 'all' or some of {', '.join(map(repr, SYMMETRIES))}."
            )
    return tuple(name for name in SYMMETRIES if name in named)


def units_of(model: LensModel, kinds: Collection[str]) -> list[Units]:
    """The units of a model that may change places; the stream's first, then layer by layer.

    Raises
    ------
    InputError
        The model has none of a kind, or its weights do not say which entries belong to which unit.
    """
    found: list[Units] = []
    parts = [{p.name: p for p in projections(model, n)} for n in range(model.n_layers)]
    if "stream" in kinds:
        found.append(_stream(model, parts))
    for layer, of_layer in enumerate(parts):
        block = model.anatomy.blocks[layer]
        if block.n_heads and ("heads" in kinds or "values" in kinds):
            found += _heads(model, layer, of_layer, kinds)
        if "mlp_out" in block.taps and "neurons" in kinds:
            _require(model, layer, of_layer, ("up", "down"), "neurons")
            wide = [of_layer[name] for name in ("gate", "up") if name in of_layer]
            slots = [slot for part in wide for slot in _outputs(model, layer, part)]
            found.append(Units("neurons", layer, (*slots, _input(model, layer, of_layer["down"]))))
    if missing := set(kinds) - {units.kind for units in found}:
        raise InputError(f"{model.name} has no {min(missing)} that could be aligned.")
    return found


def _heads(
    model: LensModel, layer: int, parts: Mapping[str, Projection], kinds: Collection[str]
) -> Iterator[Units]:
    """Heads, and within each key-value head the channels that v and the output have."""
    _require(model, layer, parts, ("q", "k", "v", "o"), "heads")
    block = model.anatomy.blocks[layer]
    query = [*_outputs(model, layer, parts["q"]), _input(model, layer, parts["o"])]
    keys = [slot for name in "kv" for slot in _outputs(model, layer, parts[name])]
    if "heads" in kinds:
        yield Units(
            "heads",
            layer,
            tuple(_by(slot, block.n_heads) for slot in query),
            tuple(_by(slot, block.n_kv_heads) for slot in keys),
        )
    if "values" in kinds:
        made = [_by(slot, block.n_kv_heads) for slot in _outputs(model, layer, parts["v"])]
        taken = _by(query[-1], block.n_heads)
        size = block.n_heads // block.n_kv_heads
        for head in range(block.n_kv_heads):
            own = taken.index[head * size : (head + 1) * size].T
            slots = [Slot(slot.name, slot.dim, slot.index[head][:, None]) for slot in made]
            yield Units("values", layer, (*slots, Slot(taken.name, taken.dim, own)))


def _stream(model: LensModel, parts: Sequence[Mapping[str, Projection]]) -> Units:
    """Every axis of every parameter that is the residual stream's."""
    slots: list[Slot] = []
    for layer, of_layer in enumerate(parts):
        known: set[str] = set()
        for part in {p.matrices[0].name: p for p in of_layer.values()}.values():
            _require(model, layer, of_layer, (part.name,), "stream")
            whole = Projection(part.name, part.matrices)  # all of a fused one's outputs
            outputs, taken = _outputs(model, layer, whole), _input(model, layer, whole)
            known |= {slot.name for slot in (*outputs, taken)}
            slots += [taken] if part.name in READS else outputs
        prefix = model.anatomy.blocks[layer].path
        rest = {f"{prefix}.{name}": w for name, w in parameters_of(model, layer).items()}
        slots += _of_width(model, {n: w for n, w in rest.items() if n not in known})
    return Units("stream", None, (*_of_width(model, parameters_outside(model)), *slots))


def _of_width(model: LensModel, weights: Mapping[str, nn.Parameter]) -> Iterator[Slot]:
    """The one axis of each weight that is as long as the stream is wide.

    Of an embedding and of the head it is the last, as many entries as the vocabulary may have.
    """
    head = model.anatomy.head
    for name, weight in weights.items():
        dims = [dim for dim, size in enumerate(weight.shape) if size == model.d_model]
        owner = name.rpartition(".")[0]
        ends = head is not None and owner == head.head
        if ends or isinstance(model.hf.get_submodule(owner), nn.Embedding):
            dims = [dim for dim in dims if dim == 1]
        if len(dims) > 1:
            raise InputError(
                f"{name} of {model.name} is {tuple(weight.shape)}, so that its shape does not say "
                "which axis is the stream's: leave 'stream' out of align."
            )
        if dims:
            yield Slot(name, dims[0], torch.arange(model.d_model)[:, None])


def _require(
    model: LensModel, layer: int, parts: Mapping[str, Projection], names: Iterable[str], kind: str
) -> None:
    """Raise InputError where one of the projections is not one plain matrix, or its rows."""
    for name in names:
        part = parts.get(name)
        if (
            part is None
            or len(part.matrices) > 1
            or part.matrices[0].stacked
            or part.matrices[0].layer is not None
            or name not in (*READS, *WRITES)
        ):
            raise InputError(
                f"{model.name} cannot be aligned by its {kind}: {name} of layer {layer} is not "
                f"one plain matrix of known place (experts and adapters are not); leave {kind!r} "
                "out of align."
            )


def _outputs(model: LensModel, layer: int, part: Projection) -> list[Slot]:
    """Output channels of a projection, one a unit: in its matrix, and in its bias if it has one."""
    matrix = part.matrices[0]
    prefix = model.anatomy.blocks[layer].path
    dim = 1 if matrix.turned else 0
    rows = torch.arange(matrix.parameter.shape[dim]) if part.rows is None else part.rows
    found = [Slot(f"{prefix}.{matrix.path}", dim, rows[:, None])]
    bias = matrix.path.removesuffix("weight") + "bias"
    if bias in dict(matrix.block.named_parameters()):
        found.append(Slot(f"{prefix}.{bias}", 0, rows[:, None]))
    return found


def _input(model: LensModel, layer: int, part: Projection) -> Slot:
    """Input channels of a projection, one a unit."""
    matrix = part.matrices[0]
    dim = 0 if matrix.turned else 1
    index = torch.arange(matrix.parameter.shape[dim])[:, None]
    return Slot(f"{model.anatomy.blocks[layer].path}.{matrix.path}", dim, index)


def _by(slot: Slot, count: int) -> Slot:
    """The same channels, so many units of equally many that stand side by side."""
    return Slot(slot.name, slot.dim, slot.index.view(count, -1))


def require_symmetric(model: LensModel, units: Sequence[Units], seed: int) -> None:
    """Draw an order of each kind of units, and require that the model computes the same.

    Raises
    ------
    InputError
        It does not: what it computes depends on which unit is where (as with ALiBi, whose heads
        each look back another way).
    """
    own = logits_of(model)
    random = torch.Generator().manual_seed(seed)
    for kind in dict.fromkeys(one.kind for one in units):
        numbers = numbers_of(model, units)
        for one in units:
            if one.kind == kind:
                one.reorder(numbers, one.drawn(random))
        with held(model, numbers):
            off = error(logits_of(model), own)
        if not off <= limit(model, 256.0):
            raise InputError(
                f"{model.name} cannot be aligned by its {kind}: in another order they compute "
                f"something else (its logits are off by {off:.2g} of their size), so each has a "
                f"part of its own; leave {kind!r} out of align."
            )


def logits_of(model: LensModel) -> Tensor:
    """What a model says to a short text that means nothing."""
    found = forward(model, model.probe(), (), lambda *_: None, logits="all")
    assert found is not None
    return found.float().cpu()


def numbers_of(model: LensModel, units: Sequence[Units]) -> dict[str, Tensor]:
    """The numbers of every parameter that has units, by name; nothing is copied."""
    weights = dict(model.hf.named_parameters())
    names = dict.fromkeys(s.name for one in units for s in (*one.slots, *one.shared))
    return {name: weights[name].data for name in names}


@contextmanager
def held(model: LensModel, numbers: Mapping[str, Tensor]) -> Iterator[None]:
    """Let parameters have other numbers in a ``with`` block."""
    weights = dict(model.hf.named_parameters())
    with model.lock, pointed([weights[name] for name in numbers]) as point:
        for name, data in numbers.items():
            point(weights[name], data)
        yield
