"""Stitching: a linear map from one model's states to another's, tried by letting that one go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.grafting.stitch_run import CONTROLS, StitchRun, spread
from layerlens.analyses.sweeps.clean_pass import require_tokens
from layerlens.errors import InputError
from layerlens.model.like import require_head, require_same_tokens

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_BOTH = ("layer", "layer_other")
_TOLD = {
    "r2": ("1", "variance of the other's states that the map explains, held-out texts"),
    "loss_change": ("nats", "loss of the stitched model over that of the other"),
    "agreement": ("1", "tokens where the stitched model's first choice is the other's"),
}
_PAIRS = {
    f"{name}{end}": Variable(
        _BOTH,
        "float64",
        units,
        f"{words}{', control' if end else ''}",
        signed=name == "loss_change",
    )
    for name, (units, words) in _TOLD.items()
    for end in ("", "_chance")
}
VARIABLES = {
    **{
        name: each
        for key, variable in _PAIRS.items()
        for name, each in with_interval(key, variable).items()
        if name == key or key.startswith("loss_change")
    },
    **{
        f"best_agreement{end}": Variable(
            ("layer",), "float64", "1", f"tokens with the other's first choice, best layer{words}"
        )
        for end, words in (("", ""), ("_chance", ", control"))
    },
    "mean_loss_change": Variable(
        ("layer_other",), "float64", "nats", "loss with the mean state over that of the other"
    ),
    "best_match": Variable(("layer",), "int32", "1", "layer of the other that agrees most"),
    "other_loss": Variable((), "float64", "nats", "loss of the other model"),
    "own_loss": Variable((), "float64", "nats", "loss of this model"),
}  # fmt: skip


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None,
    layers: Sequence[int] | None,
    other_layers: Sequence[int] | None,
    test: float,
    control: str,
    **_: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    given = other or model
    mine, theirs = spread(model, layers), spread(given, other_layers)
    times = 1 + (control != "none")
    tried = test * len(mine) * times + 1
    later = sum(given.n_layers - 1 - layer for layer in theirs) / given.n_layers
    moments = model.d_model**2 + len(theirs) * model.d_model * given.d_model
    size = 8 * times * len(mine) * moments * 2
    count = sum(tokens.lengths)
    operations = 2.0 * times * count * len(mine) * moments
    return Work(3 + times + tried * later, round(test * count * tried * len(theirs)), size,
                operations=operations)  # fmt: skip


@analysis(
    name="stitch",
    question="Can another model go on from this one's states, through a linear map?",
    source="Lenc and Vedaldi (2015), Understanding Image Representations by Measuring Their "
    "Equivariance and Equivalence, arXiv 1411.5908; Bansal, Nakkiran and Barak (2021), Revisiting "
    "Model Stitching, arXiv 2106.07682; maps between all layers: Csordás, Manning and Potts "
    "(2025), arXiv 2505.13898",
    cost="2 passes of each model, 1 of the control, and for each pair of layers a replay of the "
    "other's later blocks",
    view="grid",
    lead="A row is a layer of this model, a column one of the other, which goes on from its mapped "
    "states. Only what the control lacks has been learned by both.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
    pooled=True,
    positional=("other",),
)
def stitch(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    other: LensModel | None = None,
    layers: Sequence[int] | None = None,
    other_layers: Sequence[int] | None = None,
    ridge: float = 1e-3,
    control: str = "untrained",
    test: float = 0.3,
    seed: int = 0,
    skip_first: bool | int = True,
    batch_size: int | None = None,
) -> None:
    """Fit linear maps from states of this model to states of the other, and run on from them.

    For each pair of layers ``W`` and ``b`` minimise ``|y - W x - b|^2 + ridge * mean(var x) |W|^2``
    over tokens of the training texts, with ``x`` the state after a block of this model and ``y``
    after one of the other at the same token. On the held-out texts ``r2`` says what is explained;
    and then the other model truly goes on from ``W x + b`` at all tokens, through its later blocks
    and its head.

    Parameters
    ----------
    other
        The other model: the same tokens; width and depth may differ.
    layers, other_layers
        Blocks of this model and of the other after which states are taken; None: all of them, or
        of more than 8 eight that are evenly spaced, the last among them.
    ridge
        Penalty, as a share of the mean variance of the states' entries.
    control
        ``"untrained"``: the same from this architecture with random weights, what a linear map
        can read of the tokens without any learning; ``"shuffled"``: with the states of other
        tokens; ``"none"``.
    test
        Share of the texts that are held out.
    seed
        Of the texts held out, the random weights, and the shuffling.
    skip_first
        Leave out the first token of each text (or so many), of fits and means. The stitched model
        keeps its own states there, which the map does not know.
    batch_size

    Notes
    -----
    Moments are summed up over batches in float64, so that memory grows with the layers and the
    widths, not with the texts. ``r2`` is ``1 - sum |y - f(x)|^2 / sum |y - mean|^2``, with the mean
    of the training texts: 0 for a map that knows nothing of the token, and below that where it
    misleads. Where the other model is surer than it should be, any other state may lower its loss:
    ``agreement`` is not taken in by that, and chooses ``best_match``. ``mean_loss_change`` is the
    loss of the other model with every state at this mean. A map with a high ``r2`` may still cost
    much: the directions that it misses are those that count.

    Sources train the map with the loss of the stitched network; here it is least squares in closed
    form, which is not given what the rest of the other model needs. Controls are ours.

    Raises
    ------
    InputError
        The other model does not fit, there are too few texts or tokens, or an option does not fit.
    ModelError
        The untrained control cannot be built.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> words = "cat dog owl bee cat dog owl bee cat dog".split()
    >>> texts = [" ".join(words[i:] + words[:i]) for i in range(10)]
    >>> found = ll.stitch(model, texts, other=model, ridge=1e-6, control="none")
    >>> bool(found.data.r2.sel(layer=1, layer_other=1) > 0.999)
    True
    """
    other = require_same_tokens(model, other, tokens)
    require_head(other)
    if control not in CONTROLS:
        raise InputError(f"control is {control!r}; expected one of {', '.join(CONTROLS)}.")
    if not 0 <= ridge < float("inf"):
        raise InputError(f"ridge is {ridge}; expected a number of at least 0.")
    require_tokens(tokens, skip_first)
    split = job.split(seed, test)
    both = spread(model, layers), spread(other, other_layers)
    run = StitchRun(job, model, other, tokens, both, ridge, int(skip_first), batch_size)
    declared = [name for name in VARIABLES if control != "none" or "_chance" not in name]
    run.run(split, control, seed, declared)
