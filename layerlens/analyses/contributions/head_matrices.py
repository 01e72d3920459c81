"""The weights of heads as maps on the residual stream: what each reads, scores and writes.

Nothing of a model is changed. What stands between the stream and a head's own weights and is
linear by itself is folded into copies: gain and centring of the norm that the attention reads
through, of norms on q and k, of one behind the output projection, and of one on the latent that v
is made through. Left out are the statistics of these norms (a positive number for each position),
biases, and the rotation of rotary embeddings, so that q and k stand to each other as at the same
position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.heads_seen import Seen, see_heads
from layerlens.errors import ModelError
from layerlens.metrics.projections import Projection, projections
from layerlens.model.sums import is_norm
from layerlens.run.forward import through_scales
from layerlens.run.norms import measure_norm

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel

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
        ``[head, size, d_model]``; None where it was not asked for.
    k
        ``[key-value head, size, d_model]``; likewise.
    v
        ``[key-value head, size of v, d_model]``.
    o
        ``[head, d_model, size of v]``.
    norm
        Path of the norm that the attention reads through; None where it reads the stream.
    folded
        In words, what was folded in.
    q_norm
        The norm on q, with a gain ``[heads, size]`` or ``[1, all heads]``; None where there is
        none, or q was not asked for.
    """

    layer: int
    q: Tensor | None
    k: Tensor | None
    v: Tensor
    o: Tensor
    norm: str | None
    folded: tuple[str, ...]
    q_norm: Norm | None = None

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return len(self.o)

    @cached_property
    def shared(self) -> Tensor:
        """``[head]``: the key-value head that each query head uses."""
        group = self.n_heads // len(self.v)
        return torch.arange(self.n_heads, device=self.v.device) // group

    def qk_of_heads(self) -> tuple[Tensor, Tensor]:
        """``[head, size, d_model]`` each: q, and k as each query head sees it."""
        assert self.q is not None  # the caller asked for both
        assert self.k is not None
        return self.q, self.k[self.shared]

    def norm_on_q(self, head: int) -> Norm | None:
        """The norm on one head's q, if there is one."""
        if self.q_norm is None:
            return None
        return Norm(self.q_norm.gain.reshape(self.n_heads, -1)[head], self.q_norm.centred)

    def v_of_heads(self) -> Tensor:
        """``[head, size of v, d_model]``: v as each query head sees it."""
        return self.v[self.shared]


class HeadMaps:
    """The maps of the heads of some layers, one layer at a time.

    Runs one token through the model, to see which norms stand where.

    Parameters
    ----------
    scores
        Whether q and k are wanted. Without them v may also be made through a latent (DeepSeek).

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

    def __init__(
        self, job: Job, model: LensModel, layers: Sequence[int], *, scores: bool = True
    ) -> None:
        self._model, self._scores = model, scores
        self.layers = [layer for layer in layers if model.anatomy.blocks[layer].n_heads]
        if not self.layers:
            raise ModelError(f"{model.name} has no attention heads in the layers asked for.")
        self._parts = {
            layer: {part.name: part for part in projections(model, layer)} for layer in self.layers
        }
        for layer in self.layers:
            _require_output(model, layer, self._parts[layer])
        tokens = job.tokens([model.d_vocab_in // 2])
        self._seen = see_heads(model, tokens, self._parts)
        for layer in self.layers if scores else ():
            _require_scores(model, layer, self._parts[layer], self._seen[layer])

    def shape(self, layer: int) -> tuple[int, int, int]:
        """Sizes of q and k, of v, and the width of the stream."""
        sites = self._seen[layer].sites
        return sites["q"].shape[-1], sites["v"].shape[-1], self._model.d_model

    def of(self, layer: int) -> HeadMatrices:
        """The maps of one layer.

        Raises
        ------
        ModelError
            q, k or v is not one product of what the attention reads.
        """
        with torch.inference_mode():
            kinds = "qkv" if self._scores else "v"
            return _matrices(self._model, layer, self._parts[layer], self._seen[layer], kinds)


def _require_output(model: LensModel, layer: int, parts: Mapping[str, Projection]) -> None:
    if "o" not in parts or "z" not in model.anatomy.blocks[layer].taps:
        raise ModelError(
            f"The heads of layer {layer} of {model.name} cannot be read from weights: what they "
            "hand on is led into the stream by no one matrix."
        )


def _require_scores(
    model: LensModel, layer: int, parts: Mapping[str, Projection], seen: Seen
) -> None:
    """Raise ModelError where no one map says which query meets which key."""
    lacking = [name for name in "qk" if name not in parts]
    if lacking and seen.latent("v"):
        raise ModelError(
            f"Queries and keys of layer {layer} of {model.name} cannot be read from weights: part "
            "of each key comes through a norm on a latent and part does not, so that their shares "
            "of a score differ by position; only what heads write for what they read is one map."
        )
    if lacking:
        raise ModelError(
            f"The heads of layer {layer} of {model.name} cannot be read from weights: "
            f"{lacking[0]} is not one matrix there, nor known rows of one."
        )


def _matrices(
    model: LensModel, layer: int, parts: Mapping[str, Projection], seen: Seen, kinds: str
) -> HeadMatrices:
    block = model.anatomy.blocks[layer]
    counts = {"q": block.n_heads, "k": block.n_kv_heads, "v": block.n_kv_heads}
    found: dict[str, Tensor | None] = dict.fromkeys("qkv")
    folded: tuple[str, ...] = ()
    q_norm = None
    for kind in kinds:
        through = _through(model, layer, kind, parts, seen)
        path, reading, word = _reading(model, layer, through.took, seen)
        rows = through.rows if reading is None else reading.read_through(through.rows)
        found[kind] = rows.unflatten(0, (counts[kind], -1))
        folded += (*word, *through.folded)
        q_norm = through.norm if kind == "q" else q_norm
    tap = block.taps["attn_out"]
    written = through_scales(model, tap, parts["o"].weights[0].float().T).T
    o = written.unflatten(1, (block.n_heads, -1)).transpose(0, 1)
    if is_norm(model.hf.get_submodule(tap.module)):
        o = norm_of(model, tap.module, seen.stream.new_ones(model.d_model)).write_through(o)
        folded += (f"{tap.module} behind it",)
    assert found["v"] is not None  # it is always among the kinds
    words = tuple(dict.fromkeys(folded))
    return HeadMatrices(layer, found["q"], found["k"], found["v"], o, path, words, q_norm)


@dataclass(frozen=True, eq=False)
class _Through:
    """Rows of q, k or v that read what its first projection is given.

    Attributes
    ----------
    rows
        ``[all heads, width]`` float32.
    took
        What the projection was given for the one token, ``[width]``.
    folded
        In words, the norms that are folded into the rows.
    norm
        The one on what the projection gives, if any.
    """

    rows: Tensor
    took: Tensor
    folded: tuple[str, ...]
    norm: Norm | None = None


def norm_of(model: LensModel, path: str, x: Tensor) -> Norm:
    """A norm of a model without its statistics; ``x`` is an input of it."""
    gain, _, centred = measure_norm(model, model.hf.get_submodule(path), x)
    return Norm(gain, centred)


def _reading(
    model: LensModel, layer: int, took: Tensor, seen: Seen
) -> tuple[str | None, Norm | None, tuple[str, ...]]:
    """The norm whose output the attention reads; None where it reads the stream itself."""
    if (norm := seen.norm_that_gave(took)) is not None:
        return (
            norm.path,
            norm_of(model, norm.path, norm.took.flatten()),
            (f"{norm.path} before it",),
        )
    if torch.equal(seen.stream, took):
        return None, None, ()
    raise ModelError(
        f"What the attention of layer {layer} of {model.name} reads is neither the "
        "stream nor what a norm makes of it, so its heads are no maps on the residual stream."
    )


def _through(
    model: LensModel, layer: int, kind: str, parts: Mapping[str, Projection], seen: Seen
) -> _Through:
    """Rows of q, k or v, through a norm on it where there is one; held against the model's own."""
    if kind not in parts:
        return _through_latent(model, layer, kind, parts, seen)
    call = seen.linear[parts[kind].matrices[0].name]
    rows, own = parts[kind].weights[0].float(), parts[kind].rows
    gave = call.gave if own is None else call.gave[own.to(call.gave.device)]
    site, word, through = seen.sites[kind], tuple[str, ...](), None
    for norm in seen.norms:
        if norm.took.numel() == gave.numel() and torch.equal(norm.took.flatten(), gave):
            # Its input has a head or all of them along the last axis.
            gain, _, centred = measure_norm(model, model.hf.get_submodule(norm.path), norm.took)
            wide = rows.unflatten(0, (-1, norm.took.shape[-1]))
            through = Norm(gain.reshape(-1, norm.took.shape[-1]), centred)
            rows = through.write_through(wide).flatten(0, 1)
            gave, word = norm.gave.flatten(), (f"{norm.path} on {kind}",)
            break
    mine, theirs = (x.float().flatten().view(len(site), -1).norm(dim=1) for x in (gave, site))
    # Rotation, another order of a head's entries and a scale keep what heads have in proportion.
    off = (theirs * mine.norm() - mine * theirs.norm()).abs().max()
    if not bool(off <= ALIKE * mine.norm() * theirs.norm()):
        raise _no_product(model, layer, kind)
    return _Through(rows, call.took, word, through)


def _through_latent(
    model: LensModel, layer: int, kind: str, parts: Mapping[str, Projection], seen: Seen
) -> _Through:
    """Rows through a latent: up of a norm (or of nothing) of some channels of down."""
    latent = seen.latent(kind)
    if latent is None:
        raise _no_product(model, layer, kind)
    weights = {part.matrices[0].name: part.weights[0].float() for part in parts.values()}
    up, down = (weights[path] for path in latent.paths)
    rows = up[latent.rows.to(up.device)]
    word: tuple[str, ...] = (f"{kind} through {latent.paths[1]} and {latent.paths[0]}",)
    if latent.norm is not None:
        norm = norm_of(model, latent.norm.path, latent.norm.took.flatten())
        rows, word = norm.read_through(rows), (*word, f"{latent.norm.path} between them")
    return _Through(rows @ down[latent.channels], latent.took, word)


def _no_product(model: LensModel, layer: int, kind: str) -> ModelError:
    return ModelError(
        f"{kind} of layer {layer} of {model.name} is not one product of what the attention "
        "reads, so its heads cannot be read from weights."
    )
