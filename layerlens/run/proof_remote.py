"""What can be proven of a model that runs elsewhere: sums, the head, and that nothing is changed.

Nothing inside a module is seen there, so heads and patterns are not proven, and blocks whose sums
go through a norm are left out; the proof says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from layerlens.model.anatomy import BlockAnatomy
from layerlens.model.evidence import Proof, ProofLine, error, limit, logit_error
from layerlens.model.sites import Site
from layerlens.model.sums import ROUNDINGS
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.proof import sum_error

if TYPE_CHECKING:
    from layerlens.model.remote import RemoteModel
    from layerlens.model.text import Tokens

SUMMED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")

NOTE = (
    "it runs elsewhere: only what enters and leaves its modules was seen, and its parts were "
    "looked for on a small model of the same make"
)


def prove_remote(model: RemoteModel) -> Proof:
    """Compare the anatomy of a model that runs elsewhere with what passes there.

    Costs three requests.
    """
    proof = Proof(model.name, notes=[NOTE])
    tokens = model.probe()
    sites = [site for site in model.anatomy.available() if site.kind in SUMMED]
    values: dict[Site, Tensor] = {}
    logits = forward(model, tokens, sites, values.__setitem__, logits="all")
    _prove_sums(model, tokens, values, proof)
    if logits is not None and model.anatomy.head is not None:
        last = values[Site("resid_post", model.n_layers - 1)]
        off = logit_error(model.unembed(last[0]), logits[0].float())
        what = "the unembedded last state equals the model's own logits"
        proof.lines.append(ProofLine("head", off, limit(model), what))
        proof.lines.append(_no_op(model, tokens, values, logits))
    return proof


def _prove_sums(
    model: RemoteModel, tokens: Tokens, values: dict[Site, Tensor], proof: Proof
) -> None:
    """The sublayers' outputs add up to what each block adds, and the next block is given it."""
    worst = handed_on = 0.0
    compared = 0
    for layer, block in enumerate(model.anatomy.blocks):
        got = {site.kind: value for site, value in values.items() if site.layer == layer}
        if layer:
            before = values[Site("resid_post", layer - 1)]
            handed_on = max(handed_on, error(got["resid_pre"], before))
        if not _through_norm(block):
            worst = max(worst, sum_error(model, block, got, tokens))
            compared += 1
    what = f"resid_post = resid_pre + attn_out + mlp_out in {compared} blocks, element by element"
    if compared:
        proof.lines.append(ProofLine("sums", worst, limit(model, ROUNDINGS), what))
    if compared < model.n_layers:
        left = model.n_layers - compared
        proof.notes.append(f"the sums of {left} blocks go through more than was seen")
    what = "each block is given what the one before gave"
    proof.lines.append(ProofLine("stream", handed_on, 0, what))


def _through_norm(block: BlockAnatomy) -> bool:
    """Whether the states of a block are not the sums of what single modules give."""
    norms = (block.mid_norm, block.post_norm, block.pre_norm)
    several = any(tap.plus for tap in block.taps.values())
    return several or any(norm is not None for norm in norms)


def _no_op(
    model: RemoteModel, tokens: Tokens, values: dict[Site, Tensor], logits: Tensor
) -> ProofLine:
    """Setting what every sublayer adds to its own values changes nothing.

    These are added up: unlike a state that is set, none hides what went wrong before it.
    """
    every = tuple(range(tokens.ids.shape[1]))
    changes = [
        Change(site, "set", value[0], every)
        for site, value in values.items()
        if site.kind in ("attn_out", "mlp_out") and not model.anatomy.tap(site).plus
    ]
    edited = forward(model, tokens, [], lambda *_: None, logits="all", changes=changes)
    assert edited is not None
    what = f"setting {len(changes)} outputs of sublayers to their own values changes no logit"
    return ProofLine("no-op", error(edited, logits), 0, what)
