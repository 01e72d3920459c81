"""Weights on the straight way between two models, for a while in the place of a model's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layerlens.errors import InputError
from layerlens.model.block_weights import parameters_of, parameters_outside, require_alike
from layerlens.run.pointed import pointed

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

ATTENTION, MLP, NORMS, ENDS = "attention", "MLP", "norms", "embedding and head"
KINDS = (ATTENTION, MLP, NORMS, ENDS)
"""What a weight is part of."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A weight of one model, and that of another in the same place.

    Attributes
    ----------
    kind
        One of :data:`KINDS`.
    layer
        Of the block it is in; None outside of them.
    """

    own: nn.Parameter
    theirs: nn.Parameter
    kind: str
    layer: int | None = None

    @property
    def turned(self) -> Pair:
        """The same as the other model sees it."""
        return Pair(self.theirs, self.own, self.kind, self.layer)

    def as_it_is(self) -> Pair:
        """The same with the other's numbers of now, wherever its weight points later."""
        theirs = nn.Parameter(self.theirs.data, requires_grad=False)
        return Pair(self.own, theirs, self.kind, self.layer)


def pairs_of(model: LensModel, other: LensModel) -> list[Pair]:
    """Every weight of a model beside the other's in its place.

    Raises
    ------
    InputError
        A weight has no counterpart of its shape, is quantised, or is in several blocks at once.
    """
    require_alike(model, other)
    found: list[Pair] = []
    for layer in range(model.n_layers):
        theirs = parameters_of(other, layer)
        prefix, mixer = model.anatomy.blocks[layer].path, model.anatomy.blocks[layer].mixer
        for name, own in parameters_of(model, layer).items():
            kind = _kind(model, f"{prefix}.{name}", mixer)
            found.append(Pair(own, theirs[name], kind, layer))
    outside, theirs = parameters_outside(model), parameters_outside(other)
    for name in outside.keys() | theirs.keys():
        shapes = [tuple(w[name].shape) if name in w else "missing" for w in (outside, theirs)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"{name} is {shapes[0]} in {model.name} and {shapes[1]} in {other.name}: give two "
                "checkpoints of one architecture."
            )
    for name, own in outside.items():
        kind = NORMS if _kind(model, name, None) == NORMS else ENDS
        found.append(Pair(own, theirs[name], kind))
    for one, weights in ((model, [p.own for p in found]), (other, [p.theirs for p in found])):
        if len({id(weight) for weight in weights}) < len(found):
            raise InputError(
                f"{one.name} uses one weight in several blocks, so its blocks cannot be changed "
                "one by one: give models whose blocks have weights of their own."
            )
    return found


def _kind(model: LensModel, path: str, mixer: str | None) -> str:
    """What a weight is part of, by where it is: a module without a matrix is a norm."""
    module = model.hf.get_submodule(path.rpartition(".")[0])
    if all(weight.dim() < 2 for weight in module.parameters(recurse=False)):
        return NORMS
    return ATTENTION if mixer is not None and path.startswith(f"{mixer}.") else MLP


def length(pairs: Iterable[Pair]) -> float:
    """How far the weights of one model are from the other's, as one vector each."""
    squares = [
        float((pair.own.data.float() - pair.theirs.data.to(pair.own.device).float()).square().sum())
        for pair in pairs
    ]
    return math.sqrt(sum(squares))


@contextmanager
def between(pairs: Sequence[Pair], share: float, seed: int | None = None) -> Iterator[None]:
    """Let weights be ``(1 - share) * own + share * other`` in a ``with`` block.

    Parameters
    ----------
    share
        Of the other's numbers; at 0 and 1 the numbers of either model as they are.
    seed
        Go as far in a random direction instead: of each weight, to its own numbers plus normal
        noise as long as its difference from the other's.
    """
    with pointed([pair.own for pair in pairs]) as point:
        # What is outside of inference mode can be pointed to.
        with torch.inference_mode(False), torch.no_grad():
            random = torch.Generator().manual_seed(seed or 0)
            for pair in pairs:
                own = pair.own.data
                theirs = pair.theirs.data.to(device=own.device, dtype=own.dtype)
                if seed is not None:
                    theirs = _elsewhere(own, theirs, random)
                if share == 1:
                    point(pair.own, theirs)
                elif share != 0:
                    mixed = torch.lerp(own.float(), theirs.float(), share)
                    point(pair.own, mixed.to(own.dtype))
        yield


def _elsewhere(own: Tensor, theirs: Tensor, random: torch.Generator) -> Tensor:
    """As far from ``own`` as ``theirs`` is, in a random direction."""
    drawn = torch.randn(own.shape, generator=random).to(own.device)
    far = (theirs.float() - own.float()).norm() / drawn.norm()
    found: Tensor = (own.float() + far * drawn).to(own.dtype)
    return found
