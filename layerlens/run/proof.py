"""The numerical evidence that an anatomy is right.

Every line compares what layerlens says about a model with what the model itself
computes, on a short input, in the model's own dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import ProofError, SiteError
from layerlens.model.anatomy import BlockAnatomy, Tap
from layerlens.model.evidence import Proof, ProofLine, error, limit, logit_error
from layerlens.model.sites import CROSS, Site
from layerlens.model.sums import ROUNDINGS, misfit
from layerlens.model.text import Tokens
from layerlens.model.watch import first_tensor
from layerlens.run.forward import forward, model_inputs
from layerlens.run.gate import Gate
from layerlens.run.hooks import on_input, on_output, twin
from layerlens.run.proof_heads import prove_heads, through
from layerlens.run.proof_places import prove_places
from layerlens.run.replay import capture_calls, replay

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Values = dict[Site, Tensor]


def prove_anatomy(model: LensModel) -> Proof:
    """Compare the anatomy of a model with the model itself.

    Costs five short passes, and the blocks once more. See the lines of the returned
    :class:`Proof`.
    """
    proof = Proof(model.name)
    tokens = model.probe()
    values, logits = _prove_sites(model, tokens, proof)
    _prove_sums(model, tokens, values, proof)
    _prove_neurons(model, values, proof)
    if model.anatomy.head is None:
        proof.notes.append(
            "the model has no language-model head"
            if logits is None
            else "what leads to its logits is not a chain of modules: no head"
        )
    elif logits is None:
        raise ProofError(f"{model.name} is refused because it gives no logits.")
    else:
        _prove_head(model, values, logits, proof)
    prove_heads(model, tokens, values, proof)
    prove_places(model, tokens, proof)
    with model.running():
        plain = model.hf(**model_inputs(model, tokens, "all"))  # nothing watches it
    _prove_recording(logits, getattr(plain, "logits", None), proof)
    _prove_replay(model, tokens, values, proof)
    _prove_no_op(model, tokens, _first(plain), proof)
    return proof


def _prove_sites(model: LensModel, tokens: Tokens, proof: Proof) -> tuple[Values, Tensor | None]:
    """Line 1: every site fires once a block with its shape."""
    sites = model.anatomy.available()
    sites += [Site("result", s.layer) for s in sites if s.kind == "z"]
    values: Values = {}
    try:
        logits = forward(model, tokens, sites, values.__setitem__, logits="all")
    except SiteError as failure:
        raise ProofError(f"{model.name} is refused because {failure}") from failure
    batch, length = tokens.ids.shape
    wrong = sum(
        tensor.shape[:2] != (batch, length) and tensor.shape[-2:] != (length, length)
        for site, tensor in values.items()
        if site.kind not in CROSS
    )
    bad = [site for site, tensor in values.items() if not torch.isfinite(tensor).all()]
    bad = [site for site in bad if site.kind not in ("attn_scores", "cross_attn_scores")]
    proof.lines.append(
        ProofLine("sites", wrong, 0, f"{len(sites)} sites fired once each with their shape")
    )
    proof.lines.append(
        ProofLine("finite", len(bad), 0, f"no NaN or infinity at {bad[0] if bad else 'any site'}")
    )
    return values, logits


def _norm(model: LensModel, path: str | None, value: Tensor) -> Tensor:
    if path is None:
        return value
    with model.running():
        normed: Tensor = model.hf.get_submodule(path)(value)
        return normed


def _prove_sums(model: LensModel, tokens: Tokens, values: Values, proof: Proof) -> None:
    """Line 2: the sublayers' outputs add up to what each block adds."""
    worst = handed_on = 0.0
    for layer, block in enumerate(model.anatomy.blocks):
        got = {site.kind: value for site, value in values.items() if site.layer == layer}
        worst = max(worst, sum_error(model, block, got, tokens))
        if layer:
            before = values[Site("resid_post", layer - 1)]
            handed_on = max(handed_on, error(got["resid_pre"], before))
    what = "resid_post = resid_pre + attn_out + mlp_out in every block, element by element"
    proof.lines.append(ProofLine("sums", worst, limit(model, ROUNDINGS), what))
    what = "each block is given what the one before gave"
    proof.lines.append(ProofLine("stream", handed_on, 0, what))


def sum_error(
    model: LensModel, block: BlockAnatomy, got: dict[str, Tensor], tokens: Tokens
) -> float:
    """How far what the sublayers of a block give is from adding up to its states."""
    state = _norm(model, block.pre_norm, got["resid_pre"])
    added = {
        kind: _outputs(model, block.taps[kind], tokens) if block.taps[kind].plus else [got[kind]]
        for kind in ("attn_out", "cross_attn_out", "mlp_out")
        if kind in got
    }
    everything = [part for parts in added.values() for part in parts]
    steps = [("resid_post", block.post_norm, block.gain, [state, *everything])]
    if block.layout == "sequential":
        first, *cross, last = added.values()
        steps = [("resid_mid", block.mid_norm, 1.0, [state, *first])]
        before = got["resid_mid"]
        for parts in cross:
            steps.append(("resid_mid_cross", block.cross_norm, 1.0, [before, *parts]))
            before = got["resid_mid_cross"]
        steps.append(("resid_post", block.post_norm, block.gain, [before, *last]))
    worst = 0.0
    for kind, norm, gain, terms in steps:
        terms = [term.float() * gain for term in terms] if gain != 1 else terms
        if norm is not None:
            off = error(_norm(model, norm, sum(terms[1:], terms[0])), got[kind])
        else:
            off = misfit(got[kind], *terms) * torch.finfo(model.dtype).eps
        worst = max(worst, off)
    return worst


def _outputs(model: LensModel, tap: Tap, tokens: Tokens) -> list[Tensor]:
    """Return what each module of a tap gives, times its scale.

    The model adds them to the stream one by one, and their sum may round differently.
    """
    given: dict[str, Tensor] = {}

    def leave(path: str, output: Any) -> None:
        given[path] = tap.scaled(model.hf, first_tensor(output)).reshape(*tokens.ids.shape, -1)

    with model.running(), ExitStack() as stack:
        for path in (tap.module, *tap.plus):
            module = model.hf.get_submodule(path)
            hook = module.register_forward_hook(lambda _, __, out, path=path: leave(path, out))
            stack.callback(hook.remove)
        model.hf(**model_inputs(model, tokens, None))
    return [given[path] for path in (tap.module, *tap.plus)]


def _prove_neurons(model: LensModel, values: Values, proof: Proof) -> None:
    """Line 2, continued: the hidden units of dense MLPs write what the MLP adds."""
    worst, seen = 0.0, 0
    for layer, block in enumerate(model.anatomy.blocks):
        if "mlp_post" in block.taps:
            hidden = values[Site("mlp_post", layer)]
            again = through(model, block.taps["mlp_post"].module, hidden, block.taps["mlp_out"])
            worst = max(worst, error(again, values[Site("mlp_out", layer)]))
            seen += 1
    if seen:
        what = f"mlp_post through the last projection is mlp_out, in {seen} blocks"
        proof.lines.append(ProofLine("neurons", worst, limit(model), what))


def _prove_head(model: LensModel, values: Values, logits: Tensor, proof: Proof) -> None:
    """Line 3: the unembedded last state is the model's own output."""
    with model.running():
        again = model.answer(values[Site("resid_post", model.n_layers - 1)])
    what = "the unembedded last state equals the model's own logits"
    proof.lines.append(ProofLine("head", logit_error(again, logits), limit(model), what))


def _prove_recording(logits: Tensor | None, plain: Tensor | None, proof: Proof) -> None:
    """Line 5: recording changes nothing."""
    if logits is not None and plain is not None:
        plain = plain.reshape(logits.shape) if plain.numel() == logits.numel() else plain
        what = "a pass in which every site is recorded gives the same logits as one without"
        proof.lines.append(ProofLine("recording", error(logits, plain), 0, what))


def _prove_replay(model: LensModel, tokens: Tokens, values: Values, proof: Proof) -> None:
    """Line 5, continued: the blocks, run again, give the same state."""
    calls, _ = capture_calls(model, tokens, logits=None)
    again = replay(model, calls, values[Site("resid_pre", 0)])
    off = error(again, values[Site("resid_post", model.n_layers - 1)])
    what = "all blocks replayed in order give the same last state"
    proof.lines.append(ProofLine("replay", off, limit(model, 1), what))


def _prove_no_op(model: LensModel, tokens: Tokens, plain: Tensor, proof: Proof) -> None:
    """Line 5, continued: setting every tapped tensor to its own value changes nothing."""
    gate = Gate()
    taps = {tap for block in model.anatomy.blocks for tap in block.taps.values()}

    with model.running(), ExitStack() as stack:
        for tap in _single_taps(taps):
            hook = on_input if tap.side == "input" else on_output
            stack.callback(hook(model.hf.get_submodule(tap.module), gate, twin).remove)
        edited = _first(model.hf(**model_inputs(model, tokens, "all")))
    what = f"setting {len(taps)} tensors to their own values changes no output"
    proof.lines.append(ProofLine("no-op", error(edited, plain), 0, what))


def _single_taps(taps: Iterable[Tap]) -> Iterator[Tap]:
    for tap in taps:
        for path in (tap.module, *tap.plus):
            yield replace(tap, module=path, plus=())


def _first(output: Any) -> Tensor:
    return first_tensor(tuple(output.values()))
