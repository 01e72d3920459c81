"""Layer swapping: blocks of another model in the place of this one's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.grafting.layer_swap_run import ENDS, WAYS, SwapRun
from layerlens.analyses.sweeps.clean_pass import require_tokens
from layerlens.analyses.texts.one_each import one_each
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.like import require_like, require_same_head

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("layer", "block")
VARIABLES = {
    **with_interval(
        "loss_change", Variable(_CELL, "float64", "nats", "change of the loss", signed=True)
    ),
    **with_interval(
        "kl", Variable(_CELL, "float64", "nats", "KL divergence of this model's prediction")
    ),
    **with_interval(
        "kl_other", Variable(_CELL, "float64", "nats", "KL divergence of the other's prediction")
    ),
    **with_interval(
        "answer_probability", Variable(_CELL, "float64", "1", "probability of the answer")
    ),
    "loss": Variable((), "float64", "nats", "loss of this model"),
    "other_loss": Variable((), "float64", "nats", "loss of the other model"),
    "own_answer_probability": Variable((), "float64", "1", "probability of the answer, this model"),
    "other_answer_probability": Variable(
        (), "float64", "1", "probability of the answer, the other model"
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Sequence[int] | None,
    batch_size: int | None,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    wanted, depth = model.layers(layers), model.n_layers
    alone = sum(depth - layer for layer in wanted) / depth
    below = sum(depth - 1 - layer for layer in wanted) / depth
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    states = (4 * depth + 8) * widest * model.d_model * model.dtype.itemsize
    rows = (3 + 2 * len(WAYS) * len(wanted)) * sum(tokens.lengths)
    # Alone, of another layer and all after begin at the layer, the others after it.
    return Work(5 + 3 * alone + 2 * below + verify, rows, states)


@analysis(
    name="layer_swap",
    question="Which layers of another model can stand in the place of this one's?",
    source="Bandarkar et al. (2025), Layer Swapping for Zero-Shot Cross-Lingual Transfer in Large "
    "Language Models, arXiv 2410.01335; one block at a time: ours",
    cost="2 passes of each model, and half a pass for each layer and each of 5 ways",
    view="panels",
    lead="Blocks of the other model run in the place of this one's. A block is interchangeable "
    "where it costs less than leaving it out, and less than another block of the same model.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    pooled=True,
    positional=("other",),
)
def layer_swap(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None = None,
    answer: Any = None,
    ends: str = "own",
    layers: Sequence[int] | None = None,
    seed: int = 0,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    verify: int = 1,
) -> None:
    """Put blocks of another model in the place of this one's, alone and together.

    Each block of the other model takes the place of the block with its number: ``alone``,
    together with those before it (``and all before``) or those after it (``and all after``).
    Beside these stand two controls: no block at all (``left out``), and a block of the other model
    with another number (``of another layer``).

    Parameters
    ----------
    other
        The model that blocks are taken from: as many blocks of the same width, the same tokens.
    answer
        Token whose probability is followed where the text is answered, one or one a text; None:
        what this model predicts there.
    ends
        Whose embedding and head are used, ``"own"`` or ``"other"``.
    layers
        Which layers are swapped; None for all.
    seed
        Of the draw of which other block stands where.
    skip_first
    batch_size
    verify
        How many layers of the first batch are run again as a pass of the whole model, which then
        holds the other's weights in one block. Both blocks need the same names and shapes of
        weights for that.

    Notes
    -----
    ``loss_change`` is the change of this model's mean loss per token, ``kl`` the divergence of its
    prediction from the swapped one, ``kl_other`` that of the other model's; means over tokens,
    with intervals over texts. With ``ends="other"``, ``and all after`` at layer 0 is the other
    model, and its ``kl_other`` is 0.

    The source replaces the bottom and the top of one fine-tuned model by those of another, with
    averaged weights in between. Blocks one at a time, and the controls, are ours. No weight is
    moved but for ``verify``, after which every parameter is back.

    Raises
    ------
    InputError
        The other model does not fit, or an option does not.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.layer_swap(model, "cat dog owl cat dog", other=model)
    >>> float(found.data.kl.sel(block="alone").max())
    0.0
    """
    other = require_like(model, other, tokens)
    require_same_head(model, other)
    if ends not in ENDS:
        raise InputError(f"ends is {ends!r}; expected one of {', '.join(ENDS)}.")
    require_tokens(tokens, skip_first)
    answers = one_each(answer, len(tokens.ids), "answer")
    run = SwapRun(job, model, other, tokens, model.layers(layers), ends, seed)
    run.run(answers, skip_first, batch_size, verify)
