"""The weights of heads as maps on the residual stream: what each reads, scores and writes.

Nothing of a model is changed. What stands between the stream and a head's own weights and is
linear by itself is folded into copies: gain and centring of the norm that the attention reads
through, of norms on q and k, and of one behind the output projection. Left out are the statistics
of these norms (a positive number for each position), biases, and the rotation of rotary
embeddings, so that q and k stand to each other as at the same position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.analyses.contributions.frozen_norm import measure_norm
from layerlens.analyses.contributions.logit_directions import norms_on_stream
from layerlens.errors import ModelError
from layerlens.metrics.projections import Projection, projections
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

ALIKE = 1e-3
"""Relative difference up to which two ways to the same vector agree."""


@dataclass(frozen=True)
class Norm:
    """A norm without its statistics: ``y ~ gain * (x - mean of x, or 0)``."""

    gain: Tensor
    centred: bool

    def read_through(self, rows: Tensor) -> Tensor:
        """Rows ``[..., d]`` that read what the norm gives, as rows that read what it is given."""
        rows = rows * self.gain.to(rows)
        return rows - rows.mean(-1, keepdim=True) if self.centred else rows

    def write_through(self, columns: Tensor) -> Tensor:
        """What the norm makes of columns ``[..., width, n]``."""
        if self.centred:
            columns = columns - columns.mean(-2, keepdim=True)
        return columns * self.gain.to(columns)[..., None]


@dataclass(frozen=True, eq=False)
class HeadMatrices:
    """The maps of one layer's heads, all float32, norms folded in.

    Attributes
    ----------
    q
        ``[head, size, d_model]``.
    k
        ``[key-value head, size, d_model]``.
    v
        ``[key-value head, size of v, d_model]``.
    o
        ``[head, d_model, size of v]``.
    norm
        Path of the norm that the attention reads through; None where it reads the stream.
    folded
        In words, what was folded in.
    """

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    norm: str | None
    folded: tuple[str, ...]

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return len(self.q)

    @cached_property
    def shared(self) -> Tensor:
        """``[head]``: the key-value head that each query head uses."""
        group = self.n_heads // len(self.k)
        return torch.arange(self.n_heads, device=self.q.device) // group

    def k_of_heads(self) -> Tensor:
        """``[head, size, d_model]``: k as each query head sees it."""
        return self.k[self.shared]

    def v_of_heads(self) -> Tensor:
        """``[head, size of v, d_model]``: v as each query head sees it."""
        return self.v[self.shared]


def require_plain_stream(model: LensModel) -> None:
    """Raise ModelError where blocks norm the stream itself: no one map leads from one to another.

    What a head writes is then rescaled, channel by channel, by every later block.
    """
    if paths := norms_on_stream(model):
        raise ModelError(
            f"{model.name} norms the residual stream itself ({paths[0]} and {len(paths) - 1} "
            "more), so what a head writes is rescaled by every later block: heads of different "
            "layers cannot be compared by their weights alone."
        )


class HeadMaps:
    """The maps of the heads of some layers, one layer at a time.

    Runs one token through the model, to see which norms stand where.

    Attributes
    ----------
    layers
        Those of them that have heads.

    Raises
    ------
    InputError
        Weights are quantised or not in memory.
    ModelError
        No layer has heads, or q, k or v of one is not one matrix.
    """

    def __init__(self, job: Job, model: LensModel, layers: Sequence[int]) -> None:
        self._model = model
        self.layers = [layer for layer in layers if model.anatomy.blocks[layer].n_heads]
        if not self.layers:
            raise ModelError(f"{model.name} has no attention heads in the layers asked for.")
        self._parts = {
            layer: {part.name: part for part in projections(model, layer)} for layer in self.layers
        }
        for layer in self.layers:
            _require_parts(model, layer, self._parts[layer])
        tokens = job.tokens([model.d_vocab_in // 2])
        self._seen = _Seen(model, tokens, self._parts)

    def shape(self, layer: int) -> tuple[int, int, int]:
        """Sizes of q and k, of v, and the width of the stream."""
        block = self._model.anatomy.blocks[layer]
        size = len(self._seen.gave[layer, "q"]) // block.n_heads
        size_v = len(self._seen.gave[layer, "v"]) // block.n_kv_heads
        return size, size_v, self._model.d_model

    def of(self, layer: int) -> HeadMatrices:
        """The maps of one layer.

        Raises
        ------
        ModelError
            q, k or v is not one product of what the attention reads.
        """
        with torch.inference_mode():
            return _matrices(self._model, layer, self._parts[layer], self._seen)


def _require_parts(model: LensModel, layer: int, parts: Mapping[str, Projection]) -> None:
    lacking = [name for name in ("q", "k", "v", "o") if name not in parts]
    if lacking or "z" not in model.anatomy.blocks[layer].taps:
        raise ModelError(
            f"The heads of layer {layer} of {model.name} cannot be read from weights: "
            f"{lacking[0] if lacking else 'o'} is not one matrix there, nor known rows of one."
        )


class _Seen:
    """What the attention of some layers was given and gave for one token at position 0.

    Attributes
    ----------
    took
        Layer to what its attention's projections were given, ``[width]``.
    norms
        Layer to the norms of its block in their order: path, input and output as they were.
    gave
        (layer, "q" or "k" or "v") to what the projection gave, ``[width]``.
    sites
        The values of q, k and v sites, ``[head, width]``.
    stream
        Layer to the state before it, ``[d_model]``.
    """

    def __init__(
        self, model: LensModel, tokens: Tokens, parts: Mapping[int, Mapping[str, Projection]]
    ) -> None:
        self.took: dict[int, Tensor] = {}
        self.norms: dict[int, list[tuple[str, Tensor, Tensor]]] = {layer: [] for layer in parts}
        self.gave: dict[tuple[int, str], Tensor] = {}
        self.sites: dict[tuple[int, str], Tensor] = {}
        self.stream: dict[int, Tensor] = {}
        wanted = []
        with ExitStack() as stack:
            for layer, found in parts.items():
                block = model.anatomy.blocks[layer]
                wanted += [Site(kind, layer) for kind in ("resid_pre", *block.scored, "v")]
                for kind in "qkv":
                    path = f"{block.path}.{found[kind].matrices[0].name}"
                    hook = self._projection(layer, kind, found[kind].rows)
                    module = model.hf.get_submodule(path)
                    stack.callback(module.register_forward_hook(hook).remove)
                for name, module in model.hf.get_submodule(block.path).named_modules():
                    if is_norm(module):
                        hook = self._norm(layer, f"{block.path}.{name}")
                        stack.callback(module.register_forward_hook(hook).remove)
            stack.enter_context(model.running())
            forward(model, tokens, wanted, self._see, logits=None)

    def _projection(self, layer: int, kind: str, rows: Tensor | None) -> Any:
        def hook(_: nn.Module, args: Any, output: Tensor) -> None:
            self.took[layer] = args[0].detach().flatten().clone()
            given = output.detach().flatten().clone()
            self.gave[layer, kind] = given if rows is None else given[rows.to(given.device)]

        return hook

    def _norm(self, layer: int, path: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Tensor) -> None:
            self.norms[layer].append((path, args[0].detach().clone(), output.detach().clone()))

        return hook

    def _see(self, site: Site, value: Tensor) -> None:
        if site.kind == "resid_pre":
            self.stream[site.block] = value[0, 0].clone()
        else:
            self.sites[site.block, site.kind.removeprefix("rot_")] = value[0, 0].clone()


def _matrices(
    model: LensModel, layer: int, parts: Mapping[str, Projection], seen: _Seen
) -> HeadMatrices:
    block = model.anatomy.blocks[layer]
    counts = {"q": block.n_heads, "k": block.n_kv_heads, "v": block.n_kv_heads}
    path, reading, folded = _reading(model, layer, seen)
    found: dict[str, Tensor] = {}
    for kind, count in counts.items():
        rows = parts[kind].weights[0].float()
        rows, word = _through_own_norm(model, layer, kind, rows, seen)
        folded += word
        rows = rows if reading is None else reading.read_through(rows)
        found[kind] = rows.unflatten(0, (count, -1))
    tap = block.taps["attn_out"]
    o = parts["o"].weights[0].float().unflatten(1, (block.n_heads, -1)).transpose(0, 1) * tap.scale
    if is_norm(model.hf.get_submodule(tap.module)):
        o = _norm_of(model, tap.module, seen.took[layer].new_ones(model.d_model)).write_through(o)
        folded += (f"{tap.module} behind it",)
    return HeadMatrices(layer, found["q"], found["k"], found["v"], o, path, folded)


def _norm_of(model: LensModel, path: str, x: Tensor) -> Norm:
    gain, _, centred = measure_norm(model, model.hf.get_submodule(path), x)
    return Norm(gain, centred)


def _reading(
    model: LensModel, layer: int, seen: _Seen
) -> tuple[str | None, Norm | None, tuple[str, ...]]:
    """The norm whose output the attention reads; None where it reads the stream itself."""
    took = seen.took[layer]
    for path, given, output in seen.norms[layer]:
        if output.numel() == took.numel() and torch.equal(output.flatten(), took):
            return path, _norm_of(model, path, given.flatten()), (f"{path} before it",)
    if torch.equal(seen.stream[layer], took):
        return None, None, ()
    raise ModelError(
        f"What the attention of layer {layer} of {model.name} reads is neither the "
        "stream nor what a norm makes of it, so its heads are no maps on the residual stream."
    )


def _through_own_norm(
    model: LensModel, layer: int, kind: str, rows: Tensor, seen: _Seen
) -> tuple[Tensor, tuple[str, ...]]:
    """Rows of q, k or v, through a norm on it where there is one; held against the model's own."""
    gave, site = seen.gave[layer, kind], seen.sites[layer, kind]
    word: tuple[str, ...] = ()
    for path, given, output in seen.norms[layer]:
        if given.numel() == gave.numel() and torch.equal(given.flatten(), gave):
            # Its input has a head or all of them along the last axis.
            gain, _, centred = measure_norm(model, model.hf.get_submodule(path), given)
            wide = rows.unflatten(0, (-1, given.shape[-1]))
            norm = Norm(gain.reshape(-1, given.shape[-1]), centred)
            rows = norm.write_through(wide).flatten(0, 1)
            gave, word = output.flatten(), (f"{path} on {kind}",)
            break
    mine, theirs = (x.float().flatten().view(len(site), -1).norm(dim=1) for x in (gave, site))
    # Rotation, another order of a head's entries and a scale keep what heads have in proportion.
    off = (theirs * mine.norm() - mine * theirs.norm()).abs().max()
    if not bool(off <= ALIKE * mine.norm() * theirs.norm()):
        raise ModelError(
            f"{kind} of layer {layer} of {model.name} is not one product of what the attention "
            "reads, so its heads cannot be read from weights."
        )
    return rows, word
