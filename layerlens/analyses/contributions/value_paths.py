"""A path through values of heads and through MLPs, and a direction that is taken back along it.

Attention patterns and the statistics of norms stay as they are in the run; what a head then hands
on is linear in what it reads. An MLP is not: its derivative at what it was given stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.analyses.contributions.head_matrices import HeadMaps, HeadMatrices
from layerlens.analyses.contributions.split_sublayer import split_sublayer
from layerlens.errors import InputError, ModelError
from layerlens.model.evidence import limit
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.norms import measure_norm

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True, order=True)
class Node:
    """A head (by its values), or the MLP of a layer (``head`` -1), which comes after its heads."""

    layer: int
    mlp: bool
    head: int = -1

    def __str__(self) -> str:
        return f"{self.layer}.{'mlp' if self.mlp else self.head}"

    @property
    def write(self) -> Site:
        """What it is a part of, or all of."""
        return Site("mlp_out" if self.mlp else "attn_out", self.layer)

    def reads(self, model: LensModel) -> Site:
        """The state that it reads."""
        kind = "mid" if self.mlp and "resid_mid" in model.anatomy.blocks[self.layer].taps else "pre"
        return Site(f"resid_{kind}", self.layer)

    def follows(self, model: LensModel, other: Node) -> bool:
        """Whether it reads what the other one writes."""
        beside = self.reads(model).kind == "resid_pre"
        return self.layer > other.layer or (
            self.layer == other.layer and self.mlp and not other.mlp and not beside
        )


def parse_path(model: LensModel, path: Any) -> list[Node]:
    """The nodes of a path, in the order in which they are passed.

    Raises
    ------
    InputError
        One does not exist, or does not read what the one before it writes.
    """
    given = [path] if isinstance(path, tuple) and path and _one_step(path) else list(path or ())
    nodes = [_node(model, place) for place in given]
    for before, after in pairwise(nodes):
        if not after.follows(model, before):
            raise InputError(f"path: {after} does not read what {before} writes; name later ones.")
    return nodes


def _one_step(place: tuple[Any, ...]) -> bool:
    """Whether this is one node and not several."""
    return len(place) == 2 and not isinstance(place[0], tuple | list)


def _node(model: LensModel, place: Any) -> Node:
    if not isinstance(place, tuple | list) or len(place) != 2:
        raise InputError(f"A step of a path is (layer, head) or (layer, 'mlp'), not {place!r}.")
    layer = model.layers(whole(place[0], "The layer of a step"))[0]
    block = model.anatomy.blocks[layer]
    if place[1] == "mlp":
        if "mlp_out" not in block.taps:
            raise InputError(f"Layer {layer} has no MLP that a path could pass.")
        return Node(layer, True)
    head = whole(place[1], "The head of a step")
    if not 0 <= head < block.n_heads:
        raise InputError(f"Head {head} does not exist: layer {layer} has {block.n_heads} heads.")
    return Node(layer, False, head)


def between(model: LensModel, first: int, last: int) -> float:
    """What a write in one block is multiplied with until it stands before another one."""
    gain = 1.0
    for block in model.anatomy.blocks[first:last]:
        gain *= block.gain
    return gain


@dataclass
class Step:
    """A node on one text: what the observable takes from what it reads and writes.

    Attributes
    ----------
    along
        ``[position, d_model]`` float64: directions in the state that it reads.
    contribution
        ``[position]``: that state along them.
    carried
        What it writes, along the directions there: all that passes through it.
    """

    along: Tensor
    contribution: Tensor
    carried: float


class PathRun:
    """One text, recorded, on which directions are taken back.

    Parameters
    ----------
    values
        Sites of the run, ``[position, ...]`` each: see :meth:`sites`.
    allowed
        How far sums may be off, in units of the observable.
    """

    def __init__(
        self,
        model: LensModel,
        tokens: Tokens,
        values: dict[Site, Tensor],
        maps: HeadMaps | None,
        allowed: float,
    ) -> None:
        self.model, self.tokens, self.values = model, tokens, values
        self.maps, self.allowed = maps, allowed
        self.error = 0.0

    @staticmethod
    def sites(model: LensModel, nodes: Sequence[Node]) -> list[Site]:
        """What has to be recorded."""
        found = []
        for node in nodes:
            found += [node.reads(model), node.write]
            if not node.mlp:
                found += [Site(kind, node.layer) for kind in ("z", "v", "pattern")]
        return found

    def back(self, node: Node, along: Tensor) -> Step:
        """Take directions ``[position, d_model]`` in what a node writes back to what it reads."""
        taken, carried = self._mlp(node, along) if node.mlp else self._head(node, along)
        state = self.values[node.reads(self.model)].cpu().double()
        return Step(taken, (taken * state).sum(-1), carried)

    def _mlp(self, node: Node, along: Tensor) -> tuple[Tensor, float]:
        """By the derivative of the MLP, with the statistics of its norms held."""
        written = self.values[node.write].cpu().double()
        model, given = self.model, self.values[node.reads(self.model)]
        leaf = torch.zeros_like(given).requires_grad_()
        found: list[Tensor] = []

        def keep(_: Site, value: Tensor) -> None:
            found.append(value[0])
            raise _Enough

        change = Change(node.reads(model), "add", leaf)
        block = model.hf.get_submodule(model.anatomy.blocks[node.layer].path)
        with ExitStack() as stack:
            stack.enter_context(suppress(_Enough))
            for module in filter(is_norm, block.modules()):
                if sum(p.numel() for p in module.parameters()) in (0, *self._norm_sizes):
                    handle = module.register_forward_hook(_holding(model, module, given[0]))
                    stack.callback(handle.remove)
            forward(
                model,
                self.tokens,
                [node.write],
                keep,
                logits=None,
                changes=[change],
                gradients=True,
            )
        (taken,) = torch.autograd.grad(found[0], leaf, along.to(found[0]))
        return taken.cpu().double(), float((along * written).sum())

    @property
    def _norm_sizes(self) -> tuple[int, int]:
        """Parameters of a norm of the stream: a gain, or a gain and an offset."""
        return self.model.d_model, 2 * self.model.d_model

    def _head(self, node: Node, along: Tensor) -> tuple[Tensor, float]:
        """By the head's values: pattern and norms as they are."""
        assert self.maps is not None  # the path has a head
        maps = self.maps.of(node.layer)
        z = self.values[Site("z", node.layer)]
        pulled = torch.zeros(len(z), z.shape[-1], dtype=torch.float64)
        for place in along.abs().sum(-1).nonzero()[:, 0].tolist():
            whole_head, _ = split_sublayer(
                self.model, Site("z", node.layer), z[place].flatten(), along[place : place + 1]
            )
            pulled[place] = whole_head.unflatten(-1, z.shape[1:])[0, node.head]
        carried = float((pulled * z[:, node.head].cpu().double()).sum())
        pattern = self.values[Site("pattern", node.layer)][node.head].cpu().double()
        gathered = pattern.T @ pulled  # [source, width]
        shared = int(maps.shared[node.head])
        v = self.values[Site("v", node.layer)][:, shared].cpu().double()
        self._require(float((gathered * v).sum()) - carried, node, "gates or norms what it gathers")
        scale = self._scale(maps)
        weight = maps.v[shared].cpu().double()
        state = self.values[Site("resid_pre", node.layer)].cpu().double()
        linear = scale[:, None] * (state @ weight.T)
        # What is left of v is its bias, the same everywhere.
        bias = (v - linear).mean(0)
        off = (gathered * (v - linear - bias)).sum()
        self._require(float(off), node, "has values that are not linear in what it reads")
        return scale[:, None] * (gathered @ weight), carried

    def _scale(self, maps: HeadMatrices) -> Tensor:
        """``[position]``: one over the statistic of the norm that the heads read through."""
        state = self.values[Site("resid_pre", maps.layer)]
        if maps.norm is None:
            return torch.ones(len(state), dtype=torch.float64)
        module = self.model.hf.get_submodule(maps.norm)
        gain, offset, centred = measure_norm(self.model, module, state[0])
        with self.model.running():
            given = module(state).cpu().double() - offset
        x = state.cpu().double()
        linear = gain * (x - x.mean(-1, keepdim=True) if centred else x)
        scale: Tensor = (given * linear).sum(-1) / linear.square().sum(-1)
        off = (given - scale[:, None] * linear).norm() / given.norm()
        if not off <= limit(self.model, 64):
            raise ModelError(
                f"{maps.norm} is not a scaling of what it is given (off by {off:.2g}), so no "
                "direction can be taken back through it."
            )
        return scale

    def _require(self, off: float, node: Node, why: str) -> None:
        self.error = max(self.error, abs(off))
        if not abs(off) <= self.allowed:
            raise ModelError(
                f"No direction can be taken back through head {node} of {self.model.name}, which "
                f"{why}: it is off by {abs(off):.2g}, allowed is {self.allowed:.2g}."
            )


def _holding(model: LensModel, module: nn.Module, like: Tensor) -> Any:
    """A hook by which a norm gives what it gives, and passes derivatives as if only scaling.

    Without it nothing would come of a state along itself, because a norm does not see its length.
    """
    gain, offset, centred = (
        x.to(like) if isinstance(x, Tensor) else x for x in measure_norm(model, module, like)
    )

    def linear(x: Tensor) -> Tensor:
        return gain * (x - x.mean(-1, keepdim=True) if centred else x)

    def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        x, y = args[0], output.detach()
        along = linear(x.detach())
        size = along.square().sum(-1, keepdim=True).clamp(min=torch.finfo(along.dtype).tiny)
        scale = ((y - offset) * along).sum(-1, keepdim=True) / size
        return y + scale * linear(x - x.detach())

    return hook


class _Enough(Exception):  # noqa: N818 - no error: ends a pass that has shown what it was run for
    """What was wanted of a pass has been read."""
