"""Where the parts of this very model are: blocks, sublayers, norms, embedding, head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from layerlens.errors import SiteError
from layerlens.model.sites import CROSS, GLOBAL, NAMES, Site


@dataclass(frozen=True)
class HeadColumns:
    """Which columns of a tensor are the heads.

    Attributes
    ----------
    starts
        First column of each head.
    width
        Columns of one head.
    """

    starts: tuple[int, ...]
    width: int

    def index(self, device: torch.device) -> Tensor:
        """``[head, width]`` numbers of the columns."""
        first = torch.tensor(self.starts, device=device)
        return first[:, None] + torch.arange(self.width, device=device)

    def read(self, tensor: Tensor) -> Tensor:
        """``[..., head, width]`` of ``[..., columns]``; what all columns are is no copy."""
        own = tuple(range(0, tensor.shape[-1], self.width))
        if self.starts == own and own[-1] + self.width == tensor.shape[-1]:
            whole: Tensor = tensor.unflatten(-1, (-1, self.width))
            return whole
        return tensor[..., self.index(tensor.device)]

    def write(self, tensor: Tensor, heads: Tensor) -> Tensor:
        """A copy of the tensor with other heads in it."""
        index = self.index(tensor.device).flatten()
        return tensor.index_copy(-1, index, heads.flatten(-2).to(tensor.dtype))


@dataclass(frozen=True)
class Tap:
    """One place where a tensor passes: the input or output of a module.

    Attributes
    ----------
    module
        Path of the module in the model.
    side
        ``"input"`` or ``"output"``.
    scale
        What the tensor is multiplied with to become the site's value.
    volatile
        The model writes into this tensor later in the same pass; a copy is taken.
    plus
        Paths of modules whose outputs are added to this one's (before the scale), where a
        sublayer is the sum of several modules.
    columns
        The site's value is these columns only, by heads; None for all of it.
    vector
        Name of the model's parameter that the tensor is multiplied with besides, unit by unit
        (BEiT's layer scale, which no module applies), or "".
    """

    module: str
    side: str
    scale: float = 1.0
    volatile: bool = False
    plus: tuple[str, ...] = ()
    columns: HeadColumns | None = None
    vector: str = ""

    def factor(self, hf: nn.Module) -> float | Tensor:
        """What the tensor is multiplied with: one number, or ``[d_model]`` of them."""
        return self.scale * hf.get_parameter(self.vector).detach() if self.vector else self.scale

    def scaled(self, hf: nn.Module, tensor: Tensor) -> Tensor:
        """The site's value for what passes, ``[..., d_model]``; itself where nothing scales it."""
        factor = self.factor(hf)
        if isinstance(factor, Tensor):
            return tensor * factor.to(tensor)
        return tensor if factor == 1 else tensor * factor

    def unscaled(self, hf: nn.Module, value: Tensor) -> Tensor:
        """What has to pass for a site's value: the opposite of `scaled`."""
        factor = self.factor(hf)
        if isinstance(factor, Tensor):
            return value / factor.to(value)
        return value if factor == 1 else value / factor


@dataclass(frozen=True)
class BlockAnatomy:
    """The parts of one block.

    Attributes
    ----------
    path
        Path of the block.
    layout
        ``"sequential"``: ``mid = pre + attn_out; post = mid + mlp_out``;
        ``"parallel"``: ``post = pre + attn_out + mlp_out``;
        ``"single"``: one sublayer only.
    taps
        Site kind -> where its value passes.
    mid_norm, post_norm
        Path of a norm that is applied to the sum itself (post-norm blocks), or None.
    pre_norm
        Path of a norm that replaces the stream at the beginning of the block, so that
        sublayers add to its output, or None.
    gain
        The block multiplies its whole output with this; 1 in nearly all families.
    out_proj
        Path of the attention's output projection, whose input is ``z``, or None.
    mixer
        Path of the child of the block that mixes positions, or None.
    attention
        How q, k, v and the pattern are reached: ``"interface"`` (transformers' attention
        interface), ``"spy"`` (the family's own code, watched while it runs), or None.
    n_heads, n_kv_heads
        Query heads and key-value heads of this block; 0 where it has no attention.
    rotary
        q and k are rotated on the way to the scores: ``q`` and ``k`` are what they are before it
        (at their taps), ``rot_q`` and ``rot_k`` what the scores are made of.
    cross_norm
        As ``mid_norm``, for the sum behind a second attention that looks at an encoder's states.
    cross_mixer
        Path of that second attention where it is reached by transformers' attention interface
        and has as many heads as the first, or None.
    """

    path: str
    layout: str
    taps: dict[str, Tap] = field(repr=False)
    mid_norm: str | None = None
    post_norm: str | None = None
    pre_norm: str | None = None
    gain: float = 1.0
    out_proj: str | None = None
    mixer: str | None = None
    attention: str | None = None
    n_heads: int = 0
    n_kv_heads: int = 0
    rotary: bool = False
    cross_norm: str | None = None
    cross_mixer: str | None = None

    def watched(self, kind: str) -> str | None:
        """What the attention function calls a kind of site that it is given or makes.

        None for sites that are read elsewhere, or that this block does not have.
        """
        if kind in ("v", "attn_scores", "pattern"):
            return kind
        if kind in ("q", "k"):
            return None if self.rotary else kind
        return kind.removeprefix("rot_") if self.rotary and kind in ("rot_q", "rot_k") else None

    @property
    def scored(self) -> tuple[str, str]:
        """Kinds of the sites that the scores are made of."""
        return ("rot_q", "rot_k") if self.rotary else ("q", "k")


@dataclass(frozen=True)
class Pool:
    """Where the rows of all positions become one on the way to the logits.

    Attributes
    ----------
    how
        ``"first"``, ``"last"``, ``"mean"``, ``"mean of the first two"``, ``"mean of the rest"``
        (all behind some), ``"first and mean of the rest"`` (side by side); ``"within"``: a module
        does it.
    at
        Before which module of the chain; the head is the last, and one more stands for after it.
        ``"within"``: which module.
    position
        The one position whose row it is, counted from the end where negative; None for several.
    skipped
        Positions before the rest.
    """

    how: str
    at: int
    position: int | None = None
    skipped: int = 1


@dataclass(frozen=True)
class HeadAnatomy:
    """From the last residual stream to the logits.

    Attributes
    ----------
    chain
        Paths of the modules between the last block and the head, in order; the first
        norm among them is the final norm.
    scale_in
        The head's input is the chain's output times this.
    head
        Path of the module that yields one number a vocabulary entry.
    operations
        ``(operation, value)`` applied to its output, in order.
    norm
        Path of the final norm, or None where it is not used there alone.
    widens
        The model takes the head's output to float32 before the operations; else it rounds to its
        own dtype after each, which in bfloat16 moves a logit capped at 5 by up to 0.02.
    pool
        The head answers once for all positions (a classifier), which are pooled so; None where it
        answers at each.
    offset
        Name of a tensor of the model's that it adds to the head's output, or None.
    """

    chain: tuple[str, ...]
    head: str
    scale_in: float = 1.0
    operations: tuple[tuple[str, float], ...] = ()
    norm: str | None = None
    widens: bool = False
    pool: Pool | None = None
    offset: str | None = None


@dataclass(frozen=True)
class Anatomy:
    """Where everything is, for one model.

    Attributes
    ----------
    family
        ``model_type`` of the configuration.
    embedding
        Path of the token embedding; "" where positions are no tokens.
    blocks
        One entry a block, in the order in which they run.
    head
        None for a model without a head.
    d_model
        Width of the residual stream.
    d_vocab
        Logits of a position, or entries of the embedding where there is no head.
    """

    family: str
    embedding: str
    blocks: tuple[BlockAnatomy, ...]
    head: HeadAnatomy | None
    d_model: int
    d_vocab: int

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def entry(self) -> Site:
        """Where the input becomes states: the tokens' embeddings, else what block 0 is given."""
        return Site("embed") if self.embedding else Site("resid_pre", 0)

    def tap(self, site: Site) -> Tap:
        """Where the value of a site passes.

        Raises
        ------
        SiteError
            If this model has no such place, with the reason.
        """
        if site.kind == "embed":
            if not self.embedding:
                raise SiteError(f"{site} cannot be read: this model embeds no tokens.")
            return Tap(self.embedding, "output")
        if site.kind in GLOBAL:
            return self._head_tap(site)
        block = self.blocks[site.layer or 0]
        kind = "z" if site.kind == "result" else site.kind
        if kind in block.taps:
            return block.taps[kind]
        raise SiteError(f"{site} cannot be read: {self._why_missing(block, kind)}.")

    def _head_tap(self, site: Site) -> Tap:
        if self.head is None:
            raise SiteError(f"{site} cannot be read: the model has no language-model head.")
        if self.head.pool is not None and site.kind == "head_input":
            raise SiteError(
                f"{site} cannot be read: the head of this model answers once for all positions."
            )
        if site.kind == "head_input":
            return Tap(self.head.head, "input")
        if self.head.norm is None:
            raise SiteError(f"{site} cannot be read: the model has no final norm of its own.")
        return Tap(self.head.norm, "output")

    def _why_missing(self, block: BlockAnatomy, kind: str) -> str:
        if kind == "resid_mid" and block.layout == "parallel":
            return "attention and MLP run in parallel in this family, so there is no state between"
        if block.layout == "single":
            return f"{block.path} holds one sublayer only"
        if kind in CROSS or kind == "cross_z":
            return f"{block.path} has no second attention, to an encoder, that could be watched"
        if kind == "z" and block.attention:
            return (
                f"the attention of {block.path} does not end in one linear projection (one that "
                "rounds what it is given to few bits is not linear)"
            )
        if kind in ("rot_q", "rot_k") and block.attention and not block.rotary:
            return f"{block.path} has no rotary embeddings; read {kind.removeprefix('rot_')}"
        if kind in ("q", "k") and block.rotary:
            return (
                f"in {block.path} it is put together from several modules; what the scores are "
                f"made of, after rotation, is rot_{kind}"
            )
        if kind in ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z"):
            return f"{block.path} has no softmax attention that could be watched"
        return f"{block.path} has no single tensor of that kind (a mixture of experts has many)"

    def available(self) -> list[Site]:
        """Every site that can be read, in the order of the blocks.

        ``result`` (heads' writes into the stream) is left out of the list, because it is
        ``n_heads`` times as large as the stream; it is read when asked for by name.
        """
        sites = [Site("embed")] if self.embedding else []
        for layer, block in enumerate(self.blocks):
            kinds = [kind for kind in NAMES if kind in block.taps]
            if block.attention:
                kinds += [*block.scored, "v", "attn_scores", "pattern"]
            if block.cross_mixer:
                kinds += CROSS
            sites += [Site(kind, layer) for kind in NAMES if kind in kinds]
        if self.head is not None:
            sites += [Site("normalized")] if self.head.norm else []
            sites += [] if self.head.pool else [Site("head_input")]
        return sites

    def points(
        self, kinds: Sequence[str] = ("embed", "mid", "post")
    ) -> list[tuple[str, Site, int]]:
        """The residual points of the model from the embedding upwards.

        Returns
        -------
        list of (label, site, layer)
            ``("embed", resid_pre of block 0, -1)``, then ``("0_mid", ..., 0)`` where the
            block has a state between its sublayers, ``("0_post", ..., 0)`` and so on.
        """
        points = [("embed", Site("resid_pre", 0), -1)] if "embed" in kinds else []
        return points + [
            (f"{layer}_{kind}", Site(f"resid_{kind}", layer), layer)
            for layer, block in enumerate(self.blocks)
            for kind in ("mid", "post")
            if kind in kinds and f"resid_{kind}" in block.taps
        ]

    def __str__(self) -> str:
        first = self.blocks[0]
        head = self.head
        lines = [
            f"{self.family}: {self.n_layers} blocks, d = {self.d_model}, {first.layout} layout",
            f"  blocks     {first.path} ... {self.blocks[-1].path}",
            f"  embedding  {self.embedding or '(no tokens)'}",
            f"  attention  {first.mixer} ({first.attention or 'not watched'}),"
            f" {first.n_heads} heads, {first.n_kv_heads} key-value heads",
        ]
        lines += [
            f"  {kind:<10} {tap.side} of {' + '.join([tap.module, *tap.plus])}"
            + (f" x {tap.scale:g}" if tap.scale != 1 else "")
            + (f" x {tap.vector}" if tap.vector else "")
            for kind, tap in first.taps.items()
        ]
        if head is not None:
            steps = " -> ".join([*head.chain, head.head])
            after = "".join(f", {name} {value:g}" for name, value in head.operations)
            lines.append(f"  head       {steps}{after}")
        return "\n".join(lines)
