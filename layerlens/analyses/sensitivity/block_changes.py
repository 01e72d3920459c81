"""Changes of the weights of blocks: rounded, taken out, or averaged with those of the next one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layerlens.analyses.sensitivity.curvature import generator
from layerlens.analyses.sensitivity.hessian_run import block_weights
from layerlens.errors import InputError
from layerlens.metrics.projections import projections
from layerlens.model.matrices import Matrix, matrices
from layerlens.run.quantise import fake_quantise, require_quantisable

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

CHANGES = ("round", "remove", "average")
"""What may be done to a block."""


class BlockChanges:
    """What is added to the weights of each of some blocks.

    Parameters
    ----------
    how
        ``"round"``: to the nearest of ``2^bits - 1`` values, matrix by matrix. ``"remove"``: what
        writes into the stream (o and down, with their biases) is put to zero, so that the block
        adds nothing. ``"average"``: two neighbours both get the mean of their weights.
    layers
        Which blocks, ascending.

    Attributes
    ----------
    groups
        The weights of each block that are changed.
    pairs
        Which blocks are changed together, as places among ``layers``, ascending.

    Raises
    ------
    InputError
        The weights cannot be changed so.
    """

    def __init__(self, model: LensModel, how: str, layers: Sequence[int], bits: int) -> None:
        self.how, self.bits = how, bits
        every = range(len(layers))
        if how == "average":
            self.groups = [block_weights(model, layer) for layer in layers]
            self.pairs = [(i, i + 1) for i in every[:-1] if layers[i + 1] == layers[i] + 1]
            self._require_alike(layers)
            return
        require_quantisable(model, layers)
        self.pairs = list(combinations(every, 2))
        if how == "round":
            self._matrices = [matrices(model, layer) for layer in layers]
            self.groups = [[m.parameter for m in own] for own in self._matrices]
        else:
            self.groups = [_writers(model, layer) for layer in layers]
        for layer, group in zip(layers, self.groups, strict=True):
            if not group:
                raise InputError(f"Layer {layer} has no weights that {how!r} could change.")

    def of(self, place: int, partner: int) -> Tensor:
        """What is added to a block when it is changed together with another, ``[n]``."""
        own = [p.detach() for p in self.groups[place]]
        if self.how == "average":
            other = [p.detach() for p in self.groups[partner]]
            moved = [(b - a) / 2 for a, b in zip(own, other, strict=True)]
        elif self.how == "remove":
            moved = [-p for p in own]
        else:
            moved = [_error(matrix, self.bits) for matrix in self._matrices[place]]
        return torch.cat([part.reshape(-1) for part in moved])

    @property
    def paired(self) -> bool:
        """Whether what is added to a block depends on its partner."""
        return self.how == "average"

    def random(self, place: int, partner: int, seed: int) -> Tensor:
        """A random change, as long as the true one in each of the block's tensors."""
        source = generator(seed, place, partner)
        sizes = [p.numel() for p in self.groups[place]]
        found = []
        for part in self.of(place, partner).split(sizes):
            drawn = torch.randn(part.shape, generator=source).to(part)
            found.append(drawn * (part.norm() / drawn.norm()))
        return torch.cat(found)

    def _require_alike(self, layers: Sequence[int]) -> None:
        if not self.pairs:
            raise InputError(
                f"layers are {list(layers)}, of which no two are neighbours, and only neighbours "
                "are averaged: name some that follow each other."
            )
        for one, other in self.pairs:
            shapes = [[tuple(p.shape) for p in self.groups[place]] for place in (one, other)]
            if shapes[0] != shapes[1]:
                raise InputError(
                    f"Layers {layers[one]} and {layers[other]} have weights of other shapes, so "
                    "they have no mean: name layers that are built alike."
                )


def _error(matrix: Matrix, bits: int) -> Tensor:
    """What rounding adds to a matrix, in the order of its parameter."""
    weight = matrix.weight.detach()
    error = fake_quantise(weight, bits) - weight
    return error.mT if matrix.turned else error


def _writers(model: LensModel, layer: int) -> list[nn.Parameter]:
    """The parameters of the modules that write into the stream."""
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    found: dict[int, nn.Parameter] = {}
    for part in projections(model, layer):
        if part.name.rpartition(".")[2] not in ("o", "down"):
            continue
        for matrix in part.matrices:
            found[id(matrix.parameter)] = matrix.parameter
            bias = (
                None if matrix.stacked else getattr(block.get_submodule(matrix.name), "bias", None)
            )
            if isinstance(bias, nn.Parameter):
                found[id(bias)] = bias
    return list(found.values())
