"""The numerical evidence that an anatomy is right.

Every line compares what layerlens says about a model with what the model itself
computes, on a short input, in the model's own dtype.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import ProofError
from layerlens.model.anatomy import BlockAnatomy
from layerlens.model.families import GATED_Z
from layerlens.model.find import probe_ids
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.model.watch import first_tensor, stream_argument
from layerlens.run.forward import forward, model_inputs
from layerlens.run.replay import capture_calls, replay

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True)
class ProofLine:
    """One comparison: the largest error, relative to the largest value, and its limit."""

    name: str
    error: float
    limit: float
    what: str

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit (never for NaN)."""
        return self.error <= self.limit


@dataclass
class Proof:
    """All comparisons that were made for one model.

    Attributes
    ----------
    lines
        The comparisons, in the order of the design: sites, sums, head, heads, replay.
    notes
        What could not be compared, and why.
    """

    model: str
    lines: list[ProofLine] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every line holds."""
        return all(line.ok for line in self.lines)

    @property
    def full(self) -> bool:
        """Whether every line holds and none had to be left out."""
        return self.ok and not self.notes

    def require(self) -> None:
        """Raise a ``ProofError`` that names the first line that fails."""
        for line in self.lines:
            if not line.ok:
                raise ProofError(
                    f"{self.model} is refused because its anatomy is not proven: {line.name} "
                    f"({line.what}) is off by {line.error:.2g}, allowed is {line.limit:.2g}; "
                    "load it with prove=False to look at it all the same."
                )

    def __str__(self) -> str:
        rows = [
            f"  {'ok ' if line.ok else 'NOT'}  {line.error:8.1e} <= {line.limit:7.1e}  "
            f"{line.name}: {line.what}"
            for line in self.lines
        ]
        notes = [f"  note  {note}" for note in self.notes]
        title = f"Proof of {self.model}: {'holds' if self.ok else 'FAILS'}"
        return "\n".join([title, *rows, *notes])


def prove_anatomy(model: LensModel) -> Proof:
    """Compare the anatomy of a model with the model itself.

    Costs seven short passes. See the lines of the returned :class:`Proof`.
    """
    proof = Proof(model.name)
    ids = probe_ids(model.d_vocab, length=7, seed=1)
    tokens = Tokens(ids, torch.ones_like(ids, dtype=torch.bool), (None,), ((),), ((),), True)
    values, logits = _prove_sites(model, tokens, proof)
    _prove_sums(model, values, proof)
    if model.anatomy.head is not None:
        _prove_head(model, values, logits, proof)
    else:
        proof.notes.append("the model has no language-model head")
    _prove_heads(model, tokens, values, proof)
    _prove_pattern(model, tokens, values, proof)
    _prove_replay(model, tokens, values, proof)
    _prove_no_op(model, tokens, values, proof)
    return proof


def _limit(model: LensModel, factor: float = 64.0) -> float:
    return factor * torch.finfo(model.dtype).eps


def _error(a: Tensor, b: Tensor) -> float:
    size = max(b.abs().max().item(), torch.finfo(torch.float32).tiny)
    return (a.double() - b.double()).abs().max().item() / size


Values = dict[Site, Tensor]


def _prove_sites(model: LensModel, tokens: Tokens, proof: Proof) -> tuple[Values, Tensor]:
    """Line 1: every site fires once a block with its shape."""
    sites = model.anatomy.available()
    sites += [Site("result", s.layer) for s in sites if s.kind == "z"]
    values: Values = {}
    logits = forward(model, tokens, sites, values.__setitem__, logits="all")
    batch, length = tokens.ids.shape
    wrong = sum(
        tensor.shape[:2] != (batch, length) and tensor.shape[-2:] != (length, length)
        for tensor in values.values()
    )
    bad = [site for site, tensor in values.items() if not torch.isfinite(tensor).all()]
    bad = [site for site in bad if site.kind != "attn_scores"]
    proof.lines.append(
        ProofLine("sites", wrong, 0, f"{len(sites)} sites fired once each with their shape")
    )
    proof.lines.append(
        ProofLine("finite", len(bad), 0, f"no NaN or infinity at {bad[0] if bad else 'any site'}")
    )
    return values, logits


def _norm(model: LensModel, path: str | None, value: Tensor) -> Tensor:
    with model.running():
        return value if path is None else model.hf.get_submodule(path)(value)


def _prove_sums(model: LensModel, values: Values, proof: Proof) -> None:
    """Line 2: the sublayers' outputs add up to what each block adds."""
    worst = handed_on = 0.0
    for layer, block in enumerate(model.anatomy.blocks):
        got = {site.kind: value for site, value in values.items() if site.layer == layer}
        worst = max(worst, _sum_error(model, block, got))
        if layer:
            before = values[Site("resid_post", layer - 1)]
            handed_on = max(handed_on, _error(got["resid_pre"], before))
    what = "resid_post = resid_pre + attn_out + mlp_out in every block"
    proof.lines.append(ProofLine("sums", worst, _limit(model), what))
    what = "each block is given what the one before gave"
    proof.lines.append(ProofLine("stream", handed_on, 0, what))


def _sum_error(model: LensModel, block: BlockAnatomy, got: dict[str, Tensor]) -> float:
    state = got["resid_pre"]
    if block.layout == "sequential":
        mid = _norm(model, block.mid_norm, state + got["attn_out"])
        post = _norm(model, block.post_norm, got["resid_mid"] + got["mlp_out"])
        return max(_error(mid, got["resid_mid"]), _error(post, got["resid_post"]))
    parts = [got[kind] for kind in ("attn_out", "mlp_out") if kind in got]
    return _error(_norm(model, block.post_norm, state + sum(parts)), got["resid_post"])


def _prove_head(model: LensModel, values: Values, logits: Tensor, proof: Proof) -> None:
    """Line 3: the unembedded last state is the model's own output."""
    with model.running():
        again = model.unembed(values[Site("resid_post", model.n_layers - 1)])
    what = "the unembedded last state equals the model's own logits"
    proof.lines.append(ProofLine("head", _error(again, logits), _limit(model), what))


def _prove_heads(model: LensModel, tokens: Tokens, values: Values, proof: Proof) -> None:
    """Line 4: the heads' writes add up to the attention's output; pattern times v is z."""
    writes = patterns = rows = 0.0
    blocks = model.anatomy.blocks
    for layer, block in enumerate(blocks):
        if block.attention is None or Site("z", layer) not in values:
            continue
        got = {site.kind: value for site, value in values.items() if site.layer == layer}
        projection = model.hf.get_submodule(block.out_proj)
        with model.running():
            whole = projection(got["z"].flatten(-2))
        bias = getattr(projection, "bias", None)
        total = got["result"].sum(-2)
        writes = max(writes, _error(total if bias is None else total + bias, whole))
        v = got["v"].repeat_interleave(block.n_heads // block.n_kv_heads, dim=2)
        z = torch.einsum("bhqk,bkhd->bqhd", got["pattern"].to(v.dtype), v)
        if model.anatomy.family not in GATED_Z:
            patterns = max(patterns, _error(z, got["z"]))
        total = got["pattern"].sum(-1)
        sinks = hasattr(model.hf.get_submodule(block.mixer), "sinks")
        rows = max(rows, float(((total - 1).clamp(min=0) if sinks else (total - 1).abs()).max()))
    if not any(block.attention for block in blocks):
        proof.notes.append("no block has a softmax attention that can be watched: no heads")
        return
    if any(block.attention and "z" not in block.taps for block in blocks):
        proof.notes.append("the attention's output projection was not found: no z")
    limit = _limit(model)
    proof.lines.append(
        ProofLine("heads", writes, limit, "z through the output projection, summed over heads")
    )
    gated = " (not compared: gated or normed on the way)" if model.anatomy.family in GATED_Z else ""
    proof.lines.append(ProofLine("z", patterns, limit, f"pattern times v is z{gated}"))
    proof.lines.append(ProofLine("rows", rows, limit, "the pattern's rows sum to 1"))


def _prove_pattern(model: LensModel, tokens: Tokens, values: Values, proof: Proof) -> None:
    """Line 4, continued: the pattern is the one of the model's own eager implementation."""
    layers = [
        layer
        for layer, block in enumerate(model.anatomy.blocks)
        if block.attention == "interface"
    ]
    if not layers:
        return
    eager = _eager_patterns(model, tokens, layers)
    if len(eager) < len(layers):
        proof.notes.append("the family's eager attention hands out no pattern to compare with")
        return
    worst = max(_error(values[Site("pattern", layer)], eager[layer]) for layer in layers)
    what = "the pattern equals that of the eager implementation"
    proof.lines.append(ProofLine("pattern", worst, _limit(model, 256), what))


def _eager_patterns(model: LensModel, tokens: Tokens, layers: list[int]) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    length = tokens.ids.shape[-1]

    def keep(layer: int, output: Any) -> None:
        for item in output if isinstance(output, tuple) else ():
            if isinstance(item, Tensor) and item.dim() == 4 and item.shape[-1] == length:
                found[layer] = item

    with model.running(), _eager(model.hf), ExitStack() as stack:
        for layer in layers:
            mixer = model.hf.get_submodule(model.anatomy.blocks[layer].mixer)
            for module in mixer.modules():
                hook = module.register_forward_hook(
                    lambda _, __, output, layer=layer: keep(layer, output)
                )
                stack.callback(hook.remove)
        model.hf(**model_inputs(model, tokens, None))
    return found


@contextmanager
def _eager(hf: nn.Module) -> Iterator[None]:
    """Use the eager attention for a while."""
    before = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        hf.set_attn_implementation(before)


def _prove_replay(model: LensModel, tokens: Tokens, values: Values, proof: Proof) -> None:
    """Line 5: the blocks, run again in order, give the same state."""
    calls, _ = capture_calls(model, tokens)
    again = replay(model, calls, values[Site("resid_pre", 0)])
    error = _error(again, values[Site("resid_post", model.n_layers - 1)])
    what = "all blocks replayed in order give the same last state"
    proof.lines.append(ProofLine("replay", error, _limit(model, 1), what))


def _prove_no_op(model: LensModel, tokens: Tokens, values: Values, proof: Proof) -> None:
    """Line 5, continued: setting every tapped tensor to its own value changes nothing."""
    owner = threading.get_ident()
    taps = {tap for block in model.anatomy.blocks for tap in block.taps.values()}

    with model.running(), ExitStack() as stack:
        plain = _final(model, tokens)
        for tap in taps:
            module = model.hf.get_submodule(tap.module)
            enter, leave = _own_value_hooks(owner)
            if tap.side == "input":
                hook = module.register_forward_pre_hook(enter, with_kwargs=True)
            else:
                hook = module.register_forward_hook(leave)
            stack.callback(hook.remove)
        edited = _final(model, tokens)
    what = f"setting {len(taps)} tensors to their own values changes no output"
    proof.lines.append(ProofLine("no-op", _error(edited, plain), 0, what))


def _final(model: LensModel, tokens: Tokens) -> Tensor:
    return first_tensor(tuple(model.hf(**model_inputs(model, tokens, "all")).values()))


def _own_value_hooks(owner: int) -> tuple[Callable, Callable]:
    def enter(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if threading.get_ident() != owner:
            return None
        old = stream_argument(args, kwargs)
        new = old.clone()
        return (
            tuple(new if value is old else value for value in args),
            {name: new if value is old else value for name, value in kwargs.items()},
        )

    def leave(module: nn.Module, args: tuple, output: Any) -> Any:
        if threading.get_ident() != owner:
            return None
        old = first_tensor(output)
        if output is old:
            return old.clone()
        return type(output)(old.clone() if value is old else value for value in output)

    return enter, leave
