"""Layers with an adapter around them: LoRA and its kin, from peft or made by hand.

Such a layer computes one matrix, its own and the adapters' together. It is measured by what the
module computes, whatever the kind of adapter, however many are active, merged or switched off.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from layerlens.errors import InputError
from layerlens.model.settled import settled

#: Rows of the unit matrix that go through a layer at once.
ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class Adapted:
    """A layer with adapters.

    Attributes
    ----------
    module
        What the model calls.
    base
        The layer below the adapters.
    """

    module: nn.Module
    base: nn.Module

    @property
    def parameter(self) -> nn.Parameter:
        """The weight of the layer below."""
        weight: nn.Parameter = self.base.weight  # type: ignore[assignment]
        return weight

    @torch.no_grad()
    def matrix(self) -> Tensor:
        """What the module multiplies with, ``[out, in]``: its output for each unit vector.

        Raises
        ------
        InputError
            If the module is not affine, so that it has no matrix.
        """
        weight = self.parameter
        width = weight.shape[0] if isinstance(self.base, Conv1D) else weight.shape[1]
        unit = torch.eye(width, dtype=weight.dtype, device=weight.device)
        with settled(self.module):
            zero = self.module(torch.zeros_like(unit[:1]))
            parts = [self.module(rows) - zero for rows in unit.split(ROWS_AT_ONCE)]
            found = torch.cat(parts).mT
            self._require_affine(found, zero)
        return found

    def _require_affine(self, found: Tensor, zero: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, found.shape[1], generator=generator).to(found)
        given, expected = self.module(x), x @ found.mT + zero
        off = (given - expected).double().norm()
        if not off <= 16 * torch.finfo(found.dtype).eps * (x.abs() @ found.abs().mT).norm():
            raise InputError(
                f"A layer with an adapter ({type(self.module).__name__}) does not multiply with "
                "one matrix, so there are no weights to measure: give the base model."
            )


def embedded(module: nn.Module) -> Tensor | None:
    """The vectors of an embedding, ``[entries, d]``, with what an adapter adds to them."""
    base = _below(module)
    if isinstance(base, nn.Embedding) and base is not module:
        with torch.no_grad(), settled(module):
            ids = torch.arange(base.num_embeddings, device=base.weight.device)
            found: Tensor = module(ids)
            return found
    return getattr(module, "weight", None)


def adapted(module: nn.Module) -> Adapted | None:
    """See a layer with adapters in a module; None where it is none."""
    base: nn.Module | None = _below(module)
    if base is module and isinstance(module, nn.Linear):
        more = {name for name, _ in module.named_parameters()} - {"weight", "bias"}
        return Adapted(module, base) if more or list(module.children()) else None
    if base is module:
        base = _base(module)
    return Adapted(module, base) if isinstance(base, nn.Linear | Conv1D) else None


def _below(module: nn.Module) -> nn.Module:
    """The layer below the adapters of peft, else the module itself."""
    peft = sys.modules.get("peft.tuners.tuners_utils")  # absent: nobody has such a layer
    if peft is None or not isinstance(module, peft.BaseTunerLayer):
        return module
    base: nn.Module = module.get_base_layer()
    return base


def _base(module: nn.Module) -> nn.Module | None:
    """The layer that a module made by hand adapts by products of narrower ones."""
    below = [part for part in module.modules() if isinstance(part, nn.Linear)]
    for base in module.children():
        if not isinstance(base, nn.Linear):
            continue
        into, out = base.in_features, base.out_features
        others = [part for part in below if part is not base]
        first = [part for part in others if part.in_features == into]
        second = [part for part in others if part not in first and part.out_features == out]
        ranks = sorted(part.out_features for part in first)
        pairs = ranks and ranks == sorted(part.in_features for part in second)
        if pairs and ranks[-1] < min(into, out) and 2 * len(ranks) == len(others):
            return base
    return None
