"""The tokens of every neuron, by its weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.neurons.neuron_cell import open_neuron
from layerlens.analyses.neurons.neuron_directions import DIRECTIONS, ROWS
from layerlens.analyses.neurons.neuron_table import RANDOM, VARIABLES, NeuronTable, width_of
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

NORMS = ("gamma", "none")
RANKS = ("logit", "cosine", "zscore")


def count_work(model: LensModel, *, layers: Any, k: int, tracked: Any, **_: Any) -> Work:
    """Count operations and bytes of one call; runs nothing."""
    chosen = model.layers(layers)
    width = max((width_of(model, layer) for layer in chosen), default=0)
    names = 1 if isinstance(tracked, str | int) else len(tracked)
    operations = 2.0 * len(chosen) * (width + RANDOM) * model.d_model * model.d_vocab
    size = 4 * model.d_vocab * (2 * model.d_model + ROWS) + 12 * width * model.d_model
    kept = len(chosen) * width * (16 * k + 4 * names)
    return Work(0, 0, size + kept, tokens=0, operations=operations)


@analysis(
    name="neuron_tokens",
    question="Which tokens does each neuron write, and which neurons write a token?",
    source="Geva et al. (2022), Transformer Feed-Forward Layers Build Predictions by Promoting "
    "Concepts in the Vocabulary Space, arXiv 2203.14680; Davies (2025), Decoding "
    "Specialised Feature Neurons in LLMs with the Final Projection Layer, arXiv 2501.02688",
    cost="no pass, weights only: one product of every neuron with the head",
    view="panels",
    lead="A line above its random control has neurons that name tokens more clearly than chance "
    "would: open a cell to read the tokens at both ends.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("tracked",),
    needs=("head",),
    opens=open_neuron,
    finds="neurons that write a token, and neurons that read it",
)
def neuron_tokens(
    job: Job,
    model: LensModel,
    *,
    tracked: Sequence[str | int] = (),
    layers: Any = None,
    k: int = 10,
    direction: str = "output",
    norm: str = "gamma",
    rank: str = "logit",
    seed: int = 0,
) -> None:
    """Decode every neuron's weights with the model's own head, and look neurons up by a token.

    A neuron that is active adds its output direction to the stream; what that does to each
    logit, by itself, is a score of that token. Where a neuron is active below zero (gated
    neurons, GELU) it writes the opposite: the ``smallest`` tokens are then raised.

    Parameters
    ----------
    tracked
        Tokens, as strings or ids, whose score in every neuron is wanted, and the ``k`` neurons
        that have it most.
    layers
        Whose neurons; None for all.
    k
        How many tokens to name at either end, and neurons for a tracked token.
    direction
        ``"output"``: what a neuron writes (a column of the down projection); ``"input"``: what
        it reads (a row of the up projection); ``"gate"``: what opens it, in gated MLPs.
    norm
        ``"gamma"``: through the gains of the norms between neuron and head, without their
        statistics; ``"none"``: straight into the head.
    rank
        What tokens are ordered by: ``"logit"``; ``"cosine"``, which leaves out how long a
        token's row is; ``"zscore"``, the logit in standard deviations over the layer's neurons,
        which leaves out tokens that are high in all of them.
    seed
        Of the random directions.

    Notes
    -----
    ``token`` and ``score`` are of shape ``[layer, neuron, side, k]``, the outermost token first.
    The chance level of ``prominence`` is that of random directions in the stream as long as the
    layer's neurons; that of ``found_score`` the best scores among as many random directions as
    there are neurons. The head's bias and soft-cap are left out. Later layers read what a neuron
    writes, too, so a name is of its direct effect alone. ``input`` and ``gate`` are decoded by
    the head as Davies does, through the gain of the final norm, though the neuron reads through
    another: in early layers they say little.

    Raises
    ------
    InputError
        An option does not fit, a layer has experts or no such weight, or it is quantised.
    ModelError
        The head is not one plain matrix, or lies behind something that is not linear (BERT).

    Examples
    --------
    >>> import layerlens as ll
    >>> found = ll.neuron_tokens(ll.load("toy:induction"), "dog", k=3).data
    >>> found.token.dims, found.found_neuron.shape
    (('layer', 'neuron', 'side', 'k'), (1, 3))
    """
    k = whole(k, "k")
    _require(k, model.d_vocab, direction, norm, rank)
    names = (tracked,) if isinstance(tracked, str | int) else tuple(tracked)
    table = NeuronTable(
        job, model, model.layers(layers), k, [model.token_id(name) for name in names]
    )
    generator = torch.Generator().manual_seed(whole(seed, "seed"))
    for number, layer in enumerate(table.layers):
        table.read(number, layer, direction, norm, rank, generator)
        job.progress(number + 1, len(table.layers), "layers")
    table.check()
    job.note(passes=0, direction=direction, norm=norm, rank=rank)


def _require(k: int, d_vocab: int, direction: str, norm: str, rank: str) -> None:
    if not 1 <= k <= d_vocab:
        raise InputError(f"k is {k}; expected 1 to {d_vocab}.")
    for name, given, known in (
        ("direction", direction, tuple(DIRECTIONS)),
        ("norm", norm, NORMS),
        ("rank", rank, RANKS),
    ):
        if given not in known:
            raise InputError(f"{name} is {given!r}; expected one of {', '.join(known)}.")
