"""What the attention of some layers is given and gives for one token: which norms stand where."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.metrics.projections import Projection
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.anatomy import BlockAnatomy
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True, eq=False)
class Passed:
    """What a module was given and gave for the token; `took` has one axis but for norms."""

    path: str
    took: Tensor
    gave: Tensor


@dataclass(frozen=True, eq=False)
class Latent:
    """How a projection is made through a latent (DeepSeek's latent attention).

    Attributes
    ----------
    paths
        In the block: of the matrix that leads out of the latent, and of the one that leads in.
    rows
        Which outputs of the first are the projection.
    norm
        What stands between the two, if anything.
    channels
        Which outputs of the second are the latent.
    took
        What the second was given.
    """

    paths: tuple[str, str]
    rows: Tensor
    norm: Passed | None
    channels: slice
    took: Tensor


@dataclass(eq=False)
class Seen:
    """One layer, for one token at position 0.

    Attributes
    ----------
    linear
        Path of each matrix of the attention in the block to what passed through it.
    norms
        The norms of the block in their order.
    sites
        The values of q, k and v, ``[head, width]``.
    stream
        The state before the layer, ``[d_model]``.
    """

    linear: dict[str, Passed] = field(default_factory=dict)
    norms: list[Passed] = field(default_factory=list)
    sites: dict[str, Tensor] = field(default_factory=dict)
    stream: Tensor = field(default_factory=lambda: torch.zeros(0))

    def norm_that_gave(self, value: Tensor) -> Passed | None:
        """The norm whose output this is, if there is one."""
        for norm in self.norms:
            if norm.gave.numel() == value.numel() and torch.equal(norm.gave.flatten(), value):
                return norm
        return None

    def latent(self, kind: str) -> Latent | None:
        """Follow q, k or v back through a latent; None where it is not made through one."""
        for up in self.linear.values():
            rows = _rows_of(self.sites[kind], up.gave)
            if rows is None:
                continue
            norm = self.norm_that_gave(up.took)
            value = up.took if norm is None else norm.took.flatten()
            for down in self.linear.values():
                if (start := _start_of(value, down.gave)) is not None:
                    channels = slice(start, start + len(value))
                    return Latent((up.path, down.path), rows, norm, channels, down.took)
        return None


def _rows_of(site: Tensor, gave: Tensor) -> Tensor | None:
    """Which entries of an output are a site: the first or last of each head, or of all."""
    for groups in (len(site), 1):
        width = site.numel() // groups
        if len(gave) % groups or len(gave) // groups < width:
            continue
        entries = torch.arange(len(gave)).view(groups, -1)
        for rows in (entries[:, :width], entries[:, -width:]):
            if torch.equal(gave[rows.to(gave.device)].flatten(), site.flatten()):
                return rows.flatten()
    return None


def _start_of(value: Tensor, gave: Tensor) -> int | None:
    """Where a value begins in an output, if it is a part of it."""
    if len(gave) < len(value):
        return None
    found = (gave.unfold(0, len(value), 1) == value).all(-1).nonzero()
    return int(found[0, 0]) if len(found) else None


def see_heads(
    model: LensModel, tokens: Tokens, parts: Mapping[int, Mapping[str, Projection]]
) -> dict[int, Seen]:
    """Run one token and keep what the attention of each layer was given and gave."""
    found = {layer: Seen() for layer in parts}
    wanted = []
    with ExitStack() as stack:
        for layer, named in parts.items():
            block = model.anatomy.blocks[layer]
            wanted += [Site(kind, layer) for kind in ("resid_pre", *block.scored, "v")]
            for path in _matrices_of_attention(block, named):
                keep = _linear(found[layer].linear, path)
                module = model.hf.get_submodule(f"{block.path}.{path}")
                stack.callback(module.register_forward_hook(keep).remove)
            for name, module in model.hf.get_submodule(block.path).named_modules():
                if is_norm(module):
                    keep = _norm(found[layer].norms, f"{block.path}.{name}")
                    stack.callback(module.register_forward_hook(keep).remove)

        def see(site: Site, value: Tensor) -> None:
            if site.kind == "resid_pre":
                found[site.block].stream = value[0, 0].clone()
            else:
                found[site.block].sites[site.kind.removeprefix("rot_")] = value[0, 0].clone()

        stack.enter_context(model.running())
        forward(model, tokens, wanted, see, logits=None)
    return found


def _matrices_of_attention(block: BlockAnatomy, parts: Mapping[str, Projection]) -> list[str]:
    """Paths in the block; several projections may be in one matrix."""
    paths = [part.matrices[0].name for part in parts.values() if len(part.matrices) == 1]
    inside = [path for path in paths if f"{block.path}.{path}".startswith(f"{block.mixer}.")]
    return list(dict.fromkeys(inside))


def _linear(found: dict[str, Passed], path: str) -> Any:
    def keep(_: nn.Module, args: Any, output: Tensor) -> None:
        took, gave = (x.detach().flatten().clone() for x in (args[0], output))
        found[path] = Passed(path, took, gave)

    return keep


def _norm(found: list[Passed], path: str) -> Any:
    def keep(_: nn.Module, args: Any, output: Tensor) -> None:
        found.append(Passed(path, args[0].detach().clone(), output.detach().clone()))

    return keep
