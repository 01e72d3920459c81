"""Linear mode connectivity: the loss on the straight way from one model's weights to another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.grafting.connectivity_run import PARTS, ConnectivityRun
from layerlens.analyses.sweeps.clean_pass import require_tokens
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.integers import whole
from layerlens.model.like import require_like, require_same_head
from layerlens.run.between import pairs_of

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_BARRIER = "max over a of L(a) - ((1 - a) L(0) + a L(1))"
_RISE = "max over a of L(a) - ((1 - a) loss of this model + a loss of the other)"
_CELL = ("layer", "mixed")
VARIABLES = {
    "barrier": Variable(_CELL, "float64", "nats", "barrier of a layer", formula=_BARRIER),
    "rise": Variable(
        _CELL,
        "float64",
        "nats",
        "rise of the loss above both models, a layer mixed",
        signed=True,
        formula=_RISE,
    ),
    "all_loss": Variable(("share",), "float64", "nats", "loss on the way, all weights mixed"),
    "all_loss_chance": Variable(
        ("share",), "float64", "nats", "loss on a way as long in a random direction"
    ),
    "part_barrier": Variable(
        ("part",), "float64", "nats", "barrier of all layers at once", formula=_BARRIER
    ),
    "part_loss": Variable(
        ("part", "share"), "float64", "nats", "loss with a part of all layers mixed", hidden=True
    ),
    "layer_loss": Variable(
        ("layer", "mixed", "share"), "float64", "nats", "loss with a layer mixed", hidden=True
    ),
    "loss": Variable((), "float64", "nats", "loss of this model"),
    "other_loss": Variable((), "float64", "nats", "loss of the other model"),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Sequence[int] | None,
    points: int,
    batch_size: int | None,
    **_: object,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    wanted, depth = model.layers(layers), model.n_layers
    half = sum(depth - layer for layer in wanted) / depth
    passes = 2 + points * (len(PARTS) + 1 + 4 * half)
    rows = points * (len(PARTS) + 1 + 4 * len(wanted)) * sum(tokens.lengths)
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    states = (3 * depth + 4) * widest * model.d_model * model.dtype.itemsize
    weights = sum(weight.numel() * weight.element_size() for weight in model.hf.parameters())
    operations = 6.0 * points * sum(w.numel() for w in model.hf.parameters()) * len(PARTS)
    return Work(passes, rows, states + 2 * weights, operations=operations)


@analysis(
    name="mode_connectivity",
    question="Does the loss stay low on the straight way from one model to another, layer by "
    "layer?",
    source="Adilova et al. (2024), Layer-wise Linear Mode Connectivity, arXiv 2307.06966; Frankle "
    "et al. (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis, arXiv 1912.05671",
    cost="for each point of the way 6 passes, and 2 for each layer",
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
    seed
        Of the random directions.
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
    points, and keeps the losses. 11 points, the parts by kind, and random ways are ours. Units are
    not aligned: networks from different random weights have barriers that a permutation of their
    neurons may remove.

    The models' own numbers are never written to: parameters point elsewhere for a pass, and back
    whatever happens. Between weights are mixed in float32 and used in the model's dtype.

    Raises
    ------
    InputError
        The other model does not fit, weights are quantised or shared between blocks, or an option
        does not fit.

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
    run = ConnectivityRun(job, model, other, tokens, model.layers(layers), shares, seed)
    run.run(pairs_of(model, other), skip_first, batch_size, verify)
