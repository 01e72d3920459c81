"""What the gradient of the loss is like in each weight matrix: its size, its rank, its texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import given, left_out
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.sensitivity.gradient_run import FOLLOWING, OF_PARTS, GradientRun, fits
from layerlens.analyses.sensitivity.gradient_step import open_step
from layerlens.analyses.sensitivity.projection_gradients import PARTS
from layerlens.analyses.sensitivity.responses import asked
from layerlens.analyses.sensitivity.text_gradients import recorded_bytes
from layerlens.errors import InputError
from layerlens.model.feed import TEXT_OR_PAIRS
from layerlens.model.integers import whole
from layerlens.model.matrices import matrices

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MEASURES = {
    "effective_rank": ("directions", "effective rank of the {}gradient"),
    "nuclear": ("1", "nuclear norm of the {}gradient"),
    "frobenius": ("1", "Frobenius norm of the {}gradient"),
    "relative_gradient": ("1", "norm of the {}gradient over that of the weights"),
    "text_cosine": ("1", "cosine between the {}gradients of two texts"),
    "rank_share": ("1", "effective rank of the {}gradient, share of the largest possible"),
}
VARIABLES = (
    {
        named: variable
        for name in OF_PARTS
        for part, words in PARTS.items()
        for way, added in (("", ""), ("_chance", ", next tokens shuffled"))
        for units, said in [MEASURES[name]]
        for named, variable in with_interval(
            f"{part}_{name}{way}",
            Variable(("layer",), "float64", units, said.format(f"{words}'s ") + added),
        ).items()
    }
    | {
        named: variable
        for couple, words in (("qo", "q and o"), ("kv", "k and v"))
        for way, added in (("", ""), ("_chance", ", next tokens shuffled"))
        for named, variable in with_interval(
            f"cosine_{couple}{way}",
            Variable(("layer",), "float64", "1", f"cosine between gradients of {words}{added}"),
        ).items()
    }
    | {
        name: Variable(
            ("layer", "projection", "following"),
            "float64",
            units,
            said.format(""),
            signed="cosine" in name,
        )
        for name, (units, said) in {
            **MEASURES,
            "layer_cosine": ("1", "cosine between a {}gradient and that of the next layer"),
        }.items()
    }
)


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    responses: Any,
    skip_first: bool | int,
    together: int,
    control: bool,
    seed: int,
    verify: int,
) -> Work:
    """Count passes, rows through the head, operations and bytes of one call."""
    longest, texts = max(tokens.lengths), len(tokens.lengths)
    weights = sum(p.numel() for p in model.hf.parameters()) / model.n_layers
    widths = weights / model.d_model  # of what all projections of a block take and give, about
    state = longest * model.d_model * model.dtype.itemsize
    every = (m for layer in range(model.n_layers) for m in matrices(model, layer))
    recorded = fits(model, longest, min(together, texts)) and not any(m.stacked for m in every)
    inside = recorded_bytes(model, longest) * (model.n_layers if recorded else 1)
    side = min(longest, model.d_model)
    losses = 1 + bool(control)
    spectra = losses * model.n_layers * texts * (2 * longest**2 * widths + 7 * 20 * side**3)
    pairs = min(together, texts) - 1
    cosines = model.n_layers * pairs * texts * longest**2 * widths
    each = model.n_layers * state + round(16 * longest * widths)
    kept = min(together, texts) * (each + recorded * inside) + (not recorded) * inside
    passes = 2 - recorded + losses + 3 * min(verify, texts) / texts
    rows = (1 + losses) * sum(tokens.lengths)
    neighbours = model.n_layers * texts * 2 * longest**2 * widths
    return Work(passes, rows, kept, operations=spectra + losses * (cosines + neighbours))


@analysis(
    name="layer_gradients",
    question="How strong, and over how many directions, does a text pull at each weight matrix?",
    source="Li et al. (2025), How Instruction and Reasoning Data shape Post-Training: Data Quality "
    "through the Lens of Layer-wise Gradients, arXiv 2504.10766; effective rank: Roy and "
    "Vetterli (2007)",
    cost="1 pass a text, 2 where it is long, and the way back to the states, twice",
    view="panels",
    lead="The pull of the loss at the attention's and the MLP's weights; the control asks for "
    "shuffled next tokens, so what both have in common is the model's and not the text's.",
    reads=TEXT_OR_PAIRS,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    needs=("head", "causal"),
    gradients=True,
    opens=open_step,
    effects={"seed": given("control"), "skip_first": left_out("responses")},
)
def layer_gradients(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    responses: Any = None,
    skip_first: bool | int = False,
    together: int = 4,
    control: bool = True,
    seed: int = 0,
    verify: int = 1,
) -> None:
    """Measure the gradient of a text's loss in every projection of every block.

    With ``G`` the derivative of the text's loss by one matrix (q, k, v, o, gate, up, down, or what
    else a block has), and ``s`` its singular values: ``frobenius`` is the root of the sum of
    ``s^2``, ``nuclear`` the sum of ``s``, ``effective_rank`` ``exp(-sum_i p_i ln p_i)`` with
    ``p = s / sum(s)``: 1 where the text asks for one direction alone, and never more than it has
    tokens. ``rank_share`` is this rank over the largest that matrix and text allow, which makes
    k and v, smaller with grouped heads, comparable. ``relative_gradient`` is
    ``frobenius`` over the norm of the weights. ``text_cosine`` is the cosine between the
    gradients of two texts: whether a step for the one also helps the other. ``attn_`` and ``mlp_``
    before a name: of all matrices of the attention or the MLP together, as blocks of one.
    ``layer_cosine`` is the cosine between a projection's gradient and the same projection's in the
    next layer, ``cosine_qo`` and ``cosine_kv`` those between q and o and between k and v of a
    layer, entry by entry: near 0 where neighbours are asked for other things.

    Parameters
    ----------
    responses
        What is answered to each text, which is put behind it: the loss is then the mean over its
        tokens alone. Strings to strings, token ids to token ids. None: all next tokens count.
    skip_first
        Leave the predictions at the first token of each text (or so many) out of the loss.
    together
        How many texts go through the blocks side by side: cosines are of all pairs among them, so
        that the gradients of no other texts are ever held.
    control
        Ask for shuffled next tokens, too: one way back more, about half the time.
    seed
        Of the shuffles.
    verify
        Of how many texts the gradients in the first and the last block are found again by one
        pass of the whole model with its way back.

    Notes
    -----
    Means over texts (of ``text_cosine`` over pairs) of each text's own numbers, not those of the
    mean gradient; intervals over texts. ``_chance`` is the control, and ``shuffled`` along
    ``following``: the same with the text's next tokens shuffled, so that they say nothing. No
    gradient of a matrix is formed where a text has fewer tokens than the matrix rows and columns:
    it is a product of what its layer was given and what the loss asks of what it gave, and all
    numbers follow from products of tokens with tokens. Frozen weights have one too. Experts of a
    mixture count as blocks of one matrix. Cosines are of matrices of one shape, else NaN: with
    grouped heads k and v are smaller than q, so that k meets v and q meets o; q and o have one
    shape where all heads together are as wide as the stream. A cell opens what a small step against
    the first text's gradient really does to its loss, beside what its gradient foresees, a random
    step as long, and the loss of the second text. As published, a better text has a smaller nuclear
    norm and a larger effective rank; compare texts of one length.

    Raises
    ------
    InputError
        A text has no next token that counts, a response does not fit its text, or weights cannot
        be read (quantised, or not in memory).
    ModelError
        The model has no head, reads in both directions, or has no gradients.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.layer_gradients(model, ["cat dog owl cat dog", "owl cat dog owl cat"])
    >>> found.data.attn_effective_rank.dims, found.data.effective_rank.dims
    (('layer',), ('layer', 'projection', 'following'))
    """
    if whole(together, "together") < 1:
        raise InputError(f"together is {together}; expected a number of texts, 1 or more.")
    texts = asked(job, tokens, responses, skip_first)
    run = GradientRun(job, model, FOLLOWING[: 1 + bool(control)], seed, verify)
    names, layers = np.array(run.parts.names), np.arange(model.n_layers, dtype=np.int32)
    sizes = {"layer": model.n_layers, "projection": len(names), "following": len(run.following)}
    coords = {"layer": layers, "projection": names, "following": np.array(run.following)}
    run.pairs = min(together, len(texts)) > 1
    job.declare(sizes, {axis: ((axis,), of) for axis, of in coords.items()}, only=run.names)
    for start in range(0, len(texts), together):
        run.group(texts[start : start + together], start)
        job.progress(min(start + together, len(texts)), len(texts), "texts")
    run.finish(len(texts))
