"""The part of the proof that is about heads: z, the pattern and what heads write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.model.anatomy import BlockAnatomy, Tap
from layerlens.model.conventions import attention_of, choose_attention
from layerlens.model.evidence import Proof, ProofLine, error, limit
from layerlens.model.families import GATED_Z
from layerlens.model.linear import offset
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.model.text import Tokens
from layerlens.model.watch import first_tensor, stream_argument, swapped
from layerlens.run.attention import Watch, watching
from layerlens.run.forward import model_inputs, run_model, through_scales
from layerlens.run.gate import Gate
from layerlens.run.spy import spy_on

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Values = dict[Site, Tensor]
Layers = dict[int, dict[str, Tensor]]


def prove_heads(model: LensModel, tokens: Tokens, values: Values, proof: Proof) -> None:
    """Add the lines on heads, or notes on why there are none.

    Parameters
    ----------
    values
        Every available site and ``result``, from one pass over ``tokens``.
    """
    blocks = model.anatomy.blocks
    _note_missing(blocks, proof)
    if not any(block.attention for block in blocks):
        return
    layers: Layers = {}
    for site, value in values.items():
        if site.layer is not None and blocks[site.layer].attention:
            layers.setdefault(site.layer, {})[site.kind] = value
    _prove_writes(model, layers, proof)
    _prove_z(model, tokens, layers, proof)
    _prove_rows(model, layers, proof)
    _prove_pattern(model, tokens, layers, proof)
    _prove_crossing(model, values, proof)


def _note_missing(blocks: tuple[BlockAnatomy, ...], proof: Proof) -> None:
    mixing = [block for block in blocks if block.mixer]
    unseen = [block for block in mixing if not block.attention]
    if unseen:
        which = (
            "no block has"
            if len(unseen) == len(mixing)
            else (f"{len(unseen)} of {len(mixing)} blocks that mix positions do not have")
        )
        proof.notes.append(f"{which} a softmax attention that can be watched: no heads there")
    if any(block.attention and "z" not in block.taps for block in blocks):
        proof.notes.append("the attention does not end in one linear projection: no z")


def through(model: LensModel, path: str, value: Tensor, tap: Tap) -> Tensor:
    """Say what a projection makes of a value at the place where the sublayer's output is read.

    Between the two there may be a norm (sandwich and post-norm blocks) and a scale.
    """
    with model.running():
        out: Tensor = model.hf.get_submodule(path)(value)
    return behind(model, out, tap)


def behind(model: LensModel, out: Tensor, tap: Tap) -> Tensor:
    """Say what a projection's output becomes where the sublayer's output is read."""
    module = model.hf.get_submodule(tap.module)
    if is_norm(module):
        with model.running():
            out = module(out)
    return through_scales(model, tap, out)


def _prove_writes(model: LensModel, layers: Layers, proof: Proof) -> None:
    """Compare: what the heads write adds up to the projection's output, and that is attn_out."""
    summed = given = 0.0
    for layer, got in layers.items():
        if "z" not in got:
            continue
        block = model.anatomy.blocks[layer]
        projection = model.hf.get_submodule(block.out_proj or "")
        with model.running():
            whole = projection(got["z"].flatten(-2))
            bias = offset(projection, got["z"].flatten(-2))
        writes = got["result"]
        total, size = writes.sum(-2), writes.float().abs().sum(-2)
        if bias is not None:  # each head's write was computed with the bias and freed of it
            total, size = total + bias, size + writes.shape[-2] * bias.float().abs()
        summed = max(summed, error(total, whole, size))
        again = through(model, block.out_proj or "", got["z"].flatten(-2), block.taps["attn_out"])
        given = max(given, error(again, got["attn_out"]))
    what = "z through the output projection, summed over heads"
    proof.lines.append(ProofLine("heads", summed, limit(model), what))
    what = "z through the output projection is attn_out"
    proof.lines.append(ProofLine("attn_out", given, limit(model), what))


def _prove_z(model: LensModel, tokens: Tokens, layers: Layers, proof: Proof) -> None:
    """Pattern times v is z, or what the attention gave before its gate or norm."""
    gated = model.anatomy.family in GATED_Z
    given = _attention_outputs(model, tokens, layers) if gated else {}
    worst = 0.0
    for layer, got in layers.items():
        v = got["v"]
        groups = got["pattern"].shape[1] // v.shape[2]
        v = v.repeat_interleave(groups, dim=2)
        pattern = got["pattern"].to(v.dtype)
        z, size = (torch.einsum("bhqk,bkhd->bqhd", pattern, x) for x in (v, v.abs()))
        if gated:
            worst = max(worst, error(z, given[layer], size))
        elif "z" in got:
            worst = max(worst, error(z, got["z"], size))
    what = "what the attention gives before it is gated or normed" if gated else "z"
    proof.lines.append(ProofLine("z", worst, limit(model), f"pattern times v is {what}"))


def _attention_outputs(model: LensModel, tokens: Tokens, layers: Layers) -> dict[int, Tensor]:
    """Return what each layer's attention function gives, ``[batch, position, head, width]``."""
    given: dict[int, Tensor] = {}
    gate = Gate()

    def see(layer: int, kind: str, value: Tensor) -> None:
        given[layer] = value

    with model.running(), ExitStack() as stack:
        for layer in layers:
            watch = Watch(frozenset({"out"}), partial(see, layer))
            block = model.anatomy.blocks[layer]
            mixer = model.hf.get_submodule(block.mixer or "")
            if block.attention == "interface":
                stack.enter_context(watching(mixer, watch))
            else:
                spy_on(mixer, watch, block.n_heads, gate, stack)
        model.hf(**model_inputs(model, tokens, None))
    return given


def has_sinks(model: LensModel, layer: int) -> bool:
    """Whether part of each row of the pattern falls on a sink that is no position."""
    mixer = model.hf.get_submodule(model.anatomy.blocks[layer].mixer or "")
    return any("sink" in name for name, _ in mixer.named_parameters())


def _prove_crossing(model: LensModel, values: Values, proof: Proof) -> None:
    """Compare: what heads take from an encoder's states is cross_z, and writes cross_attn_out."""
    taken = written = 0.0
    layers = [i for i, block in enumerate(model.anatomy.blocks) if block.cross_mixer]
    for layer in layers:
        block = model.anatomy.blocks[layer]
        got = {site.kind: value for site, value in values.items() if site.layer == layer}
        if "cross_z" not in got:
            continue
        v = got["cross_v"].repeat_interleave(block.n_heads // block.n_kv_heads, dim=2)
        pattern = got["cross_pattern"].to(v.dtype)
        z, size = (torch.einsum("bhqk,bkhd->bqhd", pattern, x) for x in (v, v.abs()))
        taken = max(taken, error(z, got["cross_z"], size))
        path, tap = block.taps["cross_z"].module, block.taps["cross_attn_out"]
        again = through(model, path, got["cross_z"].flatten(-2), tap)
        written = max(written, error(again, got["cross_attn_out"]))
    if layers:
        what = "cross_pattern times cross_v is cross_z"
        proof.lines.append(ProofLine("cross", taken, limit(model), what))
        what = "cross_z through the output projection is cross_attn_out"
        proof.lines.append(ProofLine("cross_attn_out", written, limit(model), what))


def _prove_rows(model: LensModel, layers: Layers, proof: Proof) -> None:
    """Compare: the rows of the pattern sum to 1, to at most 1 where there are sinks."""
    worst, sinks = 0.0, False
    for layer, got in layers.items():
        over = got["pattern"].float().sum(-1) - 1
        if has_sinks(model, layer):
            over, sinks = over.clamp(min=0), True
        worst = max(worst, over.abs().max().item())
    what = "the pattern's rows sum to 1" + (", or less where there are sinks" if sinks else "")
    proof.lines.append(ProofLine("rows", worst, limit(model), what))


def _prove_pattern(model: LensModel, tokens: Tokens, layers: Layers, proof: Proof) -> None:
    """Compare: the pattern is the one of the model's own eager implementation."""
    watched = {
        layer: got
        for layer, got in layers.items()
        if model.anatomy.blocks[layer].attention == "interface"
    }
    if not watched:
        return
    eager, outputs = _eager_patterns(model, tokens, watched)
    if len(eager) < len(watched):
        proof.notes.append("the family's eager attention hands out no pattern to compare with")
        return
    allowed = limit(model, 32)
    if any(error(outputs[layer], got["resid_post"]) > allowed for layer, got in watched.items()):
        proof.notes.append(
            "the family's eager attention computes something else than the one in use, so the "
            "pattern has nothing to be compared with"
        )
        return
    worst = 0.0
    for layer, got in watched.items():
        ours, theirs = got["pattern"].float(), eager[layer].float()
        if has_sinks(model, layer):  # some families hand out rows without the sink's share
            ours, theirs = (rows / rows.sum(-1, keepdim=True) for rows in (ours, theirs))
        worst = max(worst, error(ours, theirs))
    what = "the pattern equals that of the eager implementation"
    proof.lines.append(ProofLine("pattern", worst, allowed, what))


def _eager_patterns(
    model: LensModel, tokens: Tokens, layers: Layers
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Patterns that the attention modules hand out in an eager pass, and the blocks' outputs.

    Every block is given the recorded stream, so that roundings of earlier blocks, which
    differ between implementations, do not add up.
    """
    patterns: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    length = tokens.ids.shape[-1]

    def enter(layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        recorded = layers[layer]["resid_pre"].clone()
        old = stream_argument(args, kwargs)
        return swapped(args, kwargs, old, recorded.reshape(old.shape))

    def keep(layer: int, output: Any) -> None:
        for item in output if isinstance(output, tuple) else ():
            if isinstance(item, Tensor) and item.dim() == 4 and item.shape[-1] == length:
                patterns[layer] = item

    def leave(layer: int, output: Any) -> None:
        like = layers[layer]["resid_post"]
        outputs[layer] = first_tensor(output).reshape(like.shape).clone()

    with model.running(), eager(model.hf), ExitStack() as stack:
        for layer in layers:
            block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
            mixer = model.hf.get_submodule(model.anatomy.blocks[layer].mixer or "")
            before = partial(lambda layer, _, args, kwargs: enter(layer, args, kwargs), layer)
            after = partial(lambda layer, _, __, output: leave(layer, output), layer)
            inside = partial(lambda layer, _, __, output: keep(layer, output), layer)
            stack.callback(block.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(after).remove)
            for module in mixer.modules():
                stack.callback(module.register_forward_hook(inside).remove)
        run_model(model, tokens, None, Gate(), stack)
    return patterns, outputs


@contextmanager
def eager(hf: nn.Module) -> Iterator[None]:
    """Use the eager attention for a while; every configuration gets back what it had."""
    configs: dict[int, Any] = {
        id(module.config): module.config
        for module in hf.modules()
        if attention_of(getattr(module, "config", None)) is not None
    }
    before = [(config, attention_of(config)) for config in configs.values()]
    try:
        for config, _ in before:
            choose_attention(config, "eager")
        yield
    finally:
        for config, name in before:
            choose_attention(config, name)
