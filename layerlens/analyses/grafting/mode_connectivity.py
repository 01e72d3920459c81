"""Linear mode connectivity: the loss on the straight way from one model's weights to another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.grafting.connectivity_run import PARTS, ConnectivityRun
from layerlens.analyses.grafting.connectivity_variables import VARIABLES
from layerlens.analyses.grafting.symmetries import symmetries
from layerlens.analyses.sweeps.clean_pass import require_tokens
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.integers import whole
from layerlens.model.like import require_like, require_same_head
from layerlens.run.between import pairs_of

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Sequence[int] | None,
    points: int,
    align: str | Sequence[str] | None,
    batch_size: int | None,
    **_: object,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    wanted, depth = model.layers(layers), model.n_layers
    half = sum(depth - layer for layer in wanted) / depth
    aligned = symmetries(align)
    whole = len(PARTS) + 1 + bool(aligned)
    # Each kind is drawn once in both models.
    passes = 2 + points * (whole + 4 * half) + 2 * (len(aligned) + bool(aligned))
    rows = points * (whole + 4 * len(wanted)) * sum(tokens.lengths)
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    states = (3 * depth + 4) * widest * model.d_model * model.dtype.itemsize
    weights = sum(weight.numel() * weight.element_size() for weight in model.hf.parameters())
    numbers = sum(weight.numel() for weight in model.hf.parameters())
    operations = 6.0 * points * numbers * len(PARTS)
    # Products of each weight's units with the other's, in as many rounds as a matching often takes.
    operations += 10.0 * numbers * model.d_model * len(aligned)
    copies = 3 if aligned else 2
    return Work(passes, rows, states + copies * weights, operations=operations)


@analysis(
    name="mode_connectivity",
    question="Does the loss stay low on the straight way from one model to another, layer by "
    "layer?",
    source="Adilova et al. (2024), Layer-wise Linear Mode Connectivity, arXiv 2307.06966; Frankle "
    "et al. (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis, arXiv 1912.05671; "
    "Ainsworth et al. (2022), Git Re-Basin: Merging Models modulo Permutation Symmetries, arXiv "
    "2209.04836",
    cost="for each point of the way 6 passes, and 2 for each layer; one more if units are aligned",
    view="panels",
    lead="Where the loss rises on the way between two models there is a barrier. A layer without "
    "one can be averaged by itself; beside it stands a way as long into a random direction.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
    pooled=True,
    positional=("other",),
)
def mode_connectivity(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None = None,
    layers: Sequence[int] | None = None,
    points: int = 11,
    align: str | Sequence[str] | None = None,
    seed: int = 0,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Go from this model's weights to the other's in a straight line, and measure the loss.

    A weight is ``(1 - a) * own + a * other``: all of them, those of the attention, the MLPs, the
    norms, the embedding and head (``part``); and those of one layer (``mixed``), while the rest is
    of this model, or of the other, or while all layers before it are mixed as it is. The control
    is a way of the same length from this model into a random direction.

    Parameters
    ----------
    other
        The other model: the same architecture, the same tokens.
    layers
        Which layers are mixed one at a time; None for all.
    points
        At how many values of ``a`` from 0 to 1, both among them.
    align
        Units of the other that are first put in the order in which its weights are most like this
        model's: ``"neurons"`` of the MLPs, attention ``"heads"``, the channels of ``"values"``
        within a head, channels of the residual ``"stream"``; several of them, or ``"all"``.
        What the other computes stays the same.
    seed
        Of the random directions, and of the order in which units are aligned.
    skip_first
    batch_size
    verify
        How many layers of the first batch are run again as passes of the whole model.

    Notes
    -----
    With ``L(a)`` the mean loss per token, ``barrier`` is the maximum over ``a`` of ``L(a) - ((1 -
    a) L(0) + a L(1))``, so at least 0, and 0 where the loss is convex on the way. For one layer,
    ``L(0)`` or ``L(1)`` is the loss of a hybrid of both models, which may be a bad one: ``rise``
    compares with the losses of the two models themselves. It is what an average of that layer
    costs.

    The source mixes single layers and cumulative sets, each with the rest of either model, at 3
    points, and keeps the losses. 11 points, the parts by kind, and random ways are ours.

    Networks from different random weights may have barriers only because the same units stand in
    another order. ``align`` is weight matching after Ainsworth et al. (2022): each kind of units in
    turn gets the order with the largest product of weights, a linear assignment, while the others
    stay, until none improves; an optimum of each, not of all together. The source permutes the
    channels between the layers of networks without attention; heads, with a key-value head only
    as a whole with the query heads that use it, and channels of v within a head are ours, as
    Verma and Elbayad (2024, Merging Text Transformer Models from Different Initializations)
    permute heads by activations. Before any of it, both models are held against themselves with
    units in a random order; where that changes their logits (ALiBi, norms over all heads) the
    kind is refused. ``moved`` and the two ``length`` say what it did, ``all_loss_baseline`` what
    it is worth.

    The models' own numbers are never written to: parameters point elsewhere for a pass, and back
    whatever happens. Between weights are mixed in float32 and used in the model's dtype.

    Raises
    ------
    InputError
        The other model does not fit, weights are quantised or shared between blocks, units are
        aligned that cannot change places, or an option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.mode_connectivity(model, "cat dog owl cat dog", other=model, points=3)
    >>> float(found.data.barrier.max())
    0.0
    """
    other = require_like(model, other, tokens)
    require_same_head(model, other)
    if whole(points, "points") < 3:
        raise InputError(f"points is {points}; expected 3 or more: both ends, and one between.")
    require_tokens(tokens, skip_first)
    shares = np.linspace(0, 1, points).round(9)
    wanted, kinds = model.layers(layers), symmetries(align)
    run = ConnectivityRun(job, model, other, tokens, wanted, shares, seed, kinds)
    run.run(pairs_of(model, other), skip_first, batch_size, verify)
